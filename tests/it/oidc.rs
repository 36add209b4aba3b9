//! Operators who sign in at a provider: the real program, and a provider that redeems codes as RFC 7636
//! says, or refuses them.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::callers::{Answer, send};
use crate::harness::{Gateway, Setup, eventually};
use crate::issuer::Issuer;
use crate::signer::Signer;
use crate::upstream::Upstream;

/// What the provider redeems the one code with.
#[derive(Default)]
struct Desk {
    challenge: String,
    id_token: String,
    redeemed: u32,
}

/// A provider: its keys, and its token endpoint.
struct Provider {
    keys: Issuer,
    signer: Signer,
    desk: Arc<Mutex<Desk>>,
    address: SocketAddr,
}

impl Provider {
    fn start() -> Self {
        let signer = Signer::new("provider", "ES256");
        let keys = Issuer::publishing(&[&signer]);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let desk = Arc::<Mutex<Desk>>::default();
        let own = Arc::clone(&desk);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                redeem(stream.expect("a connection"), &own);
            }
        });
        Self { keys, signer, desk, address }
    }

    fn config(&self, admin: SocketAddr) -> String {
        format!(
            "[admin.oidc]\nissuer = \"{}\"\nclient_id = \"octroi\"\nauthorization_url = \"http://{}/authorize\"\n\
             token_url = \"http://{}/token\"\njwks_url = \"http://{}/jwks.json\"\n\
             redirect_url = \"http://{admin}/login/callback\"\nallow_private_addresses = true\n\
             roles = {{ gateway-admins = \"owner\", readers = \"auditor\" }}\n",
            self.keys.name(),
            self.address,
            self.address,
            self.keys.address
        )
    }

    /// What it will say of whoever comes with the code.
    fn vouch(&self, sent: &Sent, more: &Value) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        let mut claims = json!({
            "iss": self.keys.name(), "aud": "octroi", "sub": "person-1", "email": "ada@example.com",
            "groups": ["readers"], "iat": now, "exp": now + 300, "nonce": sent.nonce,
        });
        for (name, value) in more.as_object().expect("claims") {
            claims[name] = value.clone();
        }
        let mut desk = self.desk.lock().unwrap();
        sent.challenge.clone_into(&mut desk.challenge);
        desk.id_token = signed(&self.signer, &claims);
    }
}

/// An identity token.
fn signed(signer: &Signer, claims: &Value) -> String {
    signer.sign(r#"{"alg":"ES256","kid":"provider","typ":"JWT"}"#, &claims.to_string())
}

/// Redeems `the-code` for whoever has the verifier of the challenge.
fn redeem(mut stream: std::net::TcpStream, desk: &Mutex<Desk>) {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        bytes.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&bytes).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).expect("a form");
    let form: std::collections::BTreeMap<String, String> = url::form_urlencoded::parse(&body).into_owned().collect();
    let mut desk = desk.lock().unwrap();
    let shown = form.get("code_verifier").map(|verifier| URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)));
    let is_good = form.get("code").is_some_and(|code| code == "the-code") && shown.as_ref() == Some(&desk.challenge);
    let (status, answer) = if is_good {
        desk.redeemed += 1;
        ("200 OK", json!({ "access_token": "unused", "token_type": "Bearer", "id_token": desk.id_token }).to_string())
    } else {
        ("400 Bad Request", json!({ "error": "invalid_grant" }).to_string())
    };
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
        answer.len()
    );
    stream.write_all(text.as_bytes()).expect("written");
}

struct Bench {
    setup: Setup,
    provider: Provider,
    _gateway: Gateway,
    _upstream: Upstream,
}

/// A browser that was sent away: its cookie, the state, the challenge.
struct Sent {
    cookie: String,
    state: String,
    challenge: String,
    nonce: String,
}

impl Bench {
    fn start() -> Self {
        let (upstream, provider) = (Upstream::start(), Provider::start());
        let mut setup = Setup::sqlite(upstream.address);
        setup.write_config(
            &setup.config().replace("[telemetry]", &format!("{}[telemetry]", provider.config(setup.admin))),
        );
        setup.set("JWT_SECRET", "a-secret-that-signs-sessions-and-has-more-than-32-bytes");
        let gateway = setup.start();
        eventually("the provider's keys are there", || provider.keys.fetches() > 0);
        Self { setup, provider, _gateway: gateway, _upstream: upstream }
    }

    fn get(&self, path: &str, headers: &[&str]) -> Answer {
        send(self.setup.admin, "GET", path, headers, b"")
    }

    fn depart(&self) -> Sent {
        let answer = self.get("/login/oidc", &[]);
        assert_eq!(answer.status, 303, "{answer:?}");
        let cookie = answer.header("set-cookie").unwrap();
        assert!(cookie.contains("Path=/;") && cookie.contains("HttpOnly; SameSite=Lax"), "{cookie}");
        let location = url::Url::parse(answer.header("location").unwrap()).unwrap();
        let asked: std::collections::BTreeMap<String, String> = location.query_pairs().into_owned().collect();
        assert_eq!((asked["response_type"].as_str(), asked["code_challenge_method"].as_str()), ("code", "S256"));
        assert_eq!(asked["redirect_uri"], format!("http://{}/login/callback", self.setup.admin));
        Sent {
            cookie: format!("cookie: {}", cookie.split(';').next().unwrap()),
            state: asked["state"].clone(),
            challenge: asked["code_challenge"].clone(),
            nonce: asked["nonce"].clone(),
        }
    }

    fn arrive(&self, sent: &Sent, query: &str) -> Answer {
        self.get(&format!("/login/callback?{query}"), &[&sent.cookie])
    }

    /// Who is signed in after all that.
    fn role_of(&self, answer: &Answer) -> Value {
        assert_eq!(answer.status, 200, "{answer:?}");
        let cookies = answer.headers.iter().filter(|(name, _)| name == "set-cookie").map(|(_, value)| value.as_str());
        let cookie = cookies.into_iter().find(|cookie| cookie.starts_with("octroi-session=")).unwrap();
        assert!(cookie.contains("SameSite=Strict"), "{cookie}");
        let cookie = format!("cookie: {}", cookie.split(';').next().unwrap());
        self.get("/v1/sessions/current", &[&cookie]).json()["role"].clone()
    }
}

#[test]
fn whom_the_provider_vouches_for_signs_in_with_the_role_of_its_groups() {
    let bench = Bench::start();
    let sent = bench.depart();
    bench.provider.vouch(&sent, &json!({}));
    assert_eq!(bench.role_of(&bench.arrive(&sent, &format!("code=the-code&state={}", sent.state))), "auditor");
    // Another group there, another role here; the operator is the same one.
    let sent = bench.depart();
    bench.provider.vouch(&sent, &json!({"groups": ["readers", "gateway-admins"], "email": "renamed@example.com"}));
    assert_eq!(bench.role_of(&bench.arrive(&sent, &format!("code=the-code&state={}", sent.state))), "owner");
    let people = bench.setup.json(&["admin", "list"])["items"].clone();
    assert_eq!(people.as_array().unwrap().len(), 1, "{people}");
    assert_eq!((&people[0]["name"], &people[0]["subject"]), (&"ada@example.com".into(), &"person-1".into()));
    assert_eq!(people[0]["has_password"], false);
    // Both changes are its own doing, from where it came and by the request that it sent.
    for action in ["operator.create", "operator.update"] {
        let audit = bench.setup.json(&["audit", "--action", action])["items"].clone();
        assert_eq!(audit.as_array().unwrap().len(), 1, "{audit}");
        let row = &audit[0];
        assert_eq!((&row["actor_kind"], &row["actor_name"]), (&"operator".into(), &"ada@example.com".into()), "{row}");
        assert_eq!(row["address"], "127.0.0.1", "{row}");
        assert!(row["request_id"].is_string(), "{row}");
    }
}

#[test]
fn nobody_comes_in_by_another_s_way() {
    let bench = Bench::start();
    let told = |answer: Answer, status: u16| assert_eq!(answer.status, status, "{answer:?}");
    let sent = bench.depart();
    bench.provider.vouch(&sent, &json!({}));
    // Another state, none, no cookie, another browser's.
    told(bench.arrive(&sent, "code=the-code&state=other"), 400);
    told(bench.arrive(&sent, "code=the-code"), 400);
    told(bench.get(&format!("/login/callback?code=the-code&state={}", sent.state), &[]), 400);
    let other = bench.depart();
    told(bench.arrive(&other, &format!("code=the-code&state={}", sent.state)), 400);
    // A cookie that nobody was sent away with.
    told(bench.get("/login/callback?code=the-code&state=", &["cookie: octroi-login=."]), 400);
    // A code that was stolen and put into another browser's way has another challenge.
    told(bench.arrive(&other, &format!("code=the-code&state={}", other.state)), 403);
    told(bench.arrive(&sent, &format!("code=made-up&state={}", sent.state)), 403);
    told(bench.arrive(&sent, &format!("error=access_denied&state={}", sent.state)), 403);
    assert_eq!(bench.provider.desk.lock().unwrap().redeemed, 0);
    // A token that is for somebody else, too old, of another issuer, without a group.
    for wrong in [
        json!({"aud": "another"}),
        json!({"exp": 1_000_000_000}),
        json!({"iss": "https://another.example/"}),
        json!({"groups": ["strangers"]}),
        json!({"groups": []}),
        json!({"sub": null}),
        json!({"nonce": other.nonce}),
        json!({"nonce": null}),
        json!({"aud": ["octroi", "another"]}),
        json!({"aud": ["octroi", "another"], "azp": "another"}),
        json!({"email_verified": false}),
    ] {
        bench.provider.vouch(&sent, &wrong);
        told(bench.arrive(&sent, &format!("code=the-code&state={}", sent.state)), 403);
    }
    let stranger = Signer::new("provider", "ES256");
    let forged = Provider {
        signer: stranger,
        keys: Issuer::publishing(&[]),
        desk: Arc::clone(&bench.provider.desk),
        address: bench.provider.address,
    };
    bench.provider.vouch(&sent, &json!({}));
    let claims = json!({"iss": bench.provider.keys.name(), "aud": "octroi", "sub": "x", "email": "x", "groups": ["gateway-admins"], "iat": 1, "exp": 4_000_000_000_u64});
    forged.desk.lock().unwrap().id_token = signed(&forged.signer, &claims);
    told(bench.arrive(&sent, &format!("code=the-code&state={}", sent.state)), 403);
    assert_eq!(bench.setup.json(&["admin", "list"])["items"].as_array().unwrap().len(), 0);
    // Who was disabled here stays out, whatever is said there.
    bench.provider.vouch(&sent, &json!({"groups": ["gateway-admins"]}));
    assert_eq!(bench.role_of(&bench.arrive(&sent, &format!("code=the-code&state={}", sent.state))), "owner");
    let sent = bench.depart();
    bench.provider.vouch(&sent, &json!({"sub": "person-2", "email": "bob@example.com"}));
    assert_eq!(bench.role_of(&bench.arrive(&sent, &format!("code=the-code&state={}", sent.state))), "auditor");
    bench.setup.json(&["admin", "disable", "bob@example.com"]);
    told(bench.arrive(&sent, &format!("code=the-code&state={}", sent.state)), 403);
}
