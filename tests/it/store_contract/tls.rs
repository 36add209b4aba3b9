//! TLS to PostgreSQL: every `sslmode` against a real server with a certificate of a private
//! authority, for one of its two addresses.

use std::time::Duration;

use octroi::config::store::StoreUrl;
use octroi::model::secret::SecretText;

use crate::postgres::{PrivatePostgres, connect};
use crate::stores::open;

/// Makes an authority and a certificate for `address`, as the server's user, in its folder.
async fn switch_on_tls(server: &PrivatePostgres, address: &str, other: &str, port: u32) {
    let authority = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt";
    let certificate = format!(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=server -CA ca.crt -CAkey ca.key \
         -addext subjectAltName=IP:{address} -addext basicConstraints=critical,CA:FALSE \
         -keyout server.key -out server.crt"
    );
    let client = connect(server.url()).await;
    for command in [authority, &certificate] {
        let run = format!("COPY (SELECT 1) TO PROGRAM '{{ {command}; }} >openssl.log 2>&1'");
        client.batch_execute(&run).await.expect("openssl comes with the server");
    }
    for setting in [&format!("listen_addresses = '{address},{other}'"), &format!("port = {port}"), "ssl = on"] {
        client.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    server.stop();
    server.restart();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sslmode_checks_what_libpq_says() {
    // Loopback addresses of our own, and a port that nobody listens on at all addresses.
    let process = std::process::id();
    let address = format!("127.{}.{}.1", 64 + (process >> 8 & 0x3F), process & 0xFF);
    let other = format!("{}2", address.strip_suffix('1').unwrap());
    let server = PrivatePostgres::start();
    let port = 20_000 + process % 10_000;
    switch_on_tls(&server, &address, &other, port).await;
    let socket = format!("{}&port={port}", server.url());
    let authority = format!("{}/data/ca.crt", server.url().split_once("host=").unwrap().1);

    for (query, host, expected) in [
        ("sslmode=disable".to_owned(), &address, Some("f")),
        ("sslmode=allow".to_owned(), &address, Some("t")),
        ("sslmode=prefer".to_owned(), &address, Some("t")),
        (String::new(), &address, Some("t")),
        ("sslmode=require".to_owned(), &other, Some("t")),
        (format!("sslmode=verify-full&sslrootcert={authority}"), &address, Some("t")),
        (format!("sslmode=verify-ca&sslrootcert={authority}"), &other, Some("t")),
        (format!("sslmode=require&sslrootcert={authority}"), &other, Some("t")),
        (format!("sslmode=verify-full&sslrootcert={authority}"), &other, None),
        ("sslmode=verify-full".to_owned(), &address, None),
        ("sslmode=verify-ca".to_owned(), &address, None),
        ("sslmode=require&sslrootcert=system".to_owned(), &address, None),
    ] {
        let url = format!("postgres://postgres@{host}:{port}/postgres?{query}");
        let store = open(StoreUrl::Postgres(SecretText::new(url))).await;
        let answer = store.migrations.status().await;
        let encrypted = "SELECT ssl::text FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                         WHERE application_name = 'octroi' AND client_addr IS NOT NULL";
        let seen = connect(&socket).await.query(encrypted, &[]).await.unwrap();
        let seen: Vec<_> = seen.iter().map(|row| row.get::<_, String>(0)).collect();
        match expected {
            Some(flag) => {
                assert!(answer.is_ok(), "{query} to {host}: {answer:?}");
                assert!(!seen.is_empty() && seen.iter().all(|one| one.starts_with(flag)), "{query}: {seen:?}");
            }
            None => assert!(answer.is_err_and(|error| error.is_transient()), "{query} to {host} was let through"),
        }
        drop(store);
        let gone = tokio::time::timeout(Duration::from_secs(30), wait_until_gone(&socket)).await;
        gone.expect("a store that is dropped closes its connections");
    }
}

/// Connections of a dropped store end soon, and must not be taken for the next one's.
async fn wait_until_gone(socket: &str) {
    let client = connect(socket).await;
    let ours = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'octroi'";
    while !client.query(ours, &[]).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
