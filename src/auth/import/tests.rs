//! Rows as people bring them, and what is said of each.

use super::check::{Checker, Hasher};
use super::{Form, Problem, read};
use crate::crypto::key_text;
use crate::crypto::pepper::Peppers;
use crate::model::secret::SecretBytes;

fn hasher() -> Hasher {
    let secret = |text: &str| SecretBytes::new(text.as_bytes().to_vec());
    Hasher::Ready { peppers: Box::new(Peppers::new(&secret("current"), Some(&secret("previous")))), version: 7 }
}

/// How many rows were good, and the problems in the order of their lines.
fn judged(form: Form, hasher: Hasher, text: &str) -> (usize, Vec<(u64, String)>) {
    let mut checker = Checker::new(hasher, "octroi".to_owned());
    let mut rows = 0;
    let mut problems = read::rows(&mut text.as_bytes(), form, &mut |row| {
        rows += 1;
        checker.take(row);
    });
    problems.extend(checker.problems().to_vec());
    problems.sort_by_key(|problem| problem.line);
    let good = rows - checker.problems().len();
    (good, problems.into_iter().map(|Problem { line, reason }| (line, reason)).collect())
}

fn hex(digit: char) -> String {
    digit.to_string().repeat(64)
}

#[test]
fn every_bad_row_is_told_with_its_line_and_without_its_values() {
    let raw = key_text::generate("octroi", key_text::Environment::Live);
    let mistyped = raw.text.expose().replace(&raw.text.expose()[60..], "00");
    let (a, b, c) = (hex('a'), hex('b'), hex('c'));
    let text = format!(
        "client,name,api_key_hash,sha256,key,scopes,expires_at,created_at\n\
         acme,ok,{a},,,orders:read orders:write,2027-01-01T00:00:00Z,2020-01-01T00:00:00+02:00\n\
         acme,,,{b},,,,\n\
         acme,\"two\nlines are one row\",{c},,,,,\n\
         acme,neither,,,,,,\n\
         acme,both,{a},{b},,,,\n\
         ,nobody,{c},,,,,\n\
         acme,short,abc,,,,,\n\
         acme,twice,{a},,,,,\n\
         acme,scope,{d},,,\"good ba\"\"d\",,\n\
         acme,time,{e},,,,tomorrow,\n\
         acme,width,{e}\n\
         acme,secret,,,hunter2,,,\n\
         acme,mistyped,,,{mistyped},,,\n",
        d = hex('d'),
        e = hex('e'),
    );
    let (good, problems) = judged(Form::Csv, hasher(), &text);
    let lines: Vec<u64> = problems.iter().map(|(line, _)| *line).collect();
    // The fourth row has two lines, and a control character in its name.
    assert_eq!(lines, [4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], "{problems:#?}");
    assert_eq!(good, 2);
    for (line, part) in [
        (4, "`name`: write 1 to 200"),
        (6, "there is no key"),
        (7, "more than one of"),
        (8, "`client` is missing"),
        (9, "`api_key_hash`: write 64 hex digits"),
        (10, "the same key as in line 2"),
        (11, "`scopes`"),
        (12, "`expires_at`"),
        (13, "3 values where the heading has 8"),
        (14, "8 to 256 visible ASCII"),
        (15, "check digits do not fit"),
    ] {
        let reason = &problems.iter().find(|problem| problem.0 == line).unwrap().1;
        assert!(reason.contains(part), "line {line}: {reason}");
    }
    let told = format!("{problems:?}");
    for secret in ["hunter2", &mistyped, "abc", &a] {
        assert!(!told.contains(secret), "{told}");
    }
}

#[test]
fn one_key_under_two_of_its_hashes_is_a_duplicate() {
    let raw = "a-legacy-key-of-somebody";
    let plain = crate::crypto::pepper::sha256(raw.as_bytes()).to_hex();
    let text = format!("{{\"client\":\"acme\",\"sha256\":\"{plain}\"}}\n\n{{\"client\":\"acme\",\"key\":\"{raw}\"}}\n");
    let (good, problems) = judged(Form::Ndjson, hasher(), &text);
    assert_eq!((good, problems), (1, vec![(3, "the same key as in line 1".to_owned())]));
}

#[test]
fn objects_and_headings_are_strict() {
    let good = format!("{{\"client\":\"acme\",\"sha256\":\"{}\",\"scopes\":[\"a\",\"b\"],\"name\":null}}", hex('a'));
    for (format, text, expected) in [
        (Form::Ndjson, format!("{good}\n"), vec![]),
        (Form::Ndjson, good.clone(), vec![]),
        (Form::Ndjson, "{\"client\":\"acme\",\"key\":\"hunter2-hunter2\"\n[]\n\"x\"\n".into(), vec![1, 2, 3]),
        (Form::Ndjson, format!("{{\"clients\":\"acme\"}}\n{good}\n"), vec![1]),
        (Form::Ndjson, "{\"client\":1}\n{\"client\":[\"acme\"]}\n".into(), vec![1, 2]),
        (Form::Csv, format!("client,sha256\nacme,{}\n", hex('a')), vec![]),
        (Form::Csv, format!("\u{feff}client,sha256\r\nacme,{}\r\n", hex('a')), vec![]),
        (Form::Csv, "client,colour\nacme,red\n".into(), vec![1]),
        (Form::Csv, "client,client\nacme,acme\n".into(), vec![1]),
        (Form::Csv, "acme,hunter2-hunter2\n".into(), vec![1, 1]),
    ] {
        let (_, problems) = judged(format, hasher(), &text);
        let lines: Vec<u64> = problems.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, expected, "{text}: {problems:?}");
        assert!(!format!("{problems:?}").contains("hunter2"), "{problems:?}");
    }
    let endless = format!("{{\"client\":\"{}\"}}\n{good}\n", "x".repeat(100_000));
    assert_eq!(judged(Form::Ndjson, hasher(), &endless).1[0].0, 1, "a line is bounded");
}

#[test]
fn raw_keys_need_stdin_and_a_pepper() {
    let row = "{\"client\":\"acme\",\"key\":\"a-legacy-key-of-somebody\"}\n";
    for (hasher, part) in [(Hasher::FileHasNoKeys, "from stdin only"), (Hasher::NoPepper, "API_KEY_PEPPER")] {
        let (good, problems) = judged(Form::Ndjson, hasher, row);
        assert!(good == 0 && problems[0].1.contains(part), "{problems:?}");
    }
}
