//! Any text is a configuration, or problems that say where and what to do.

use std::path::{Path, PathBuf};

use crate::config::{self, Environment};

/// The text of a file.
///
/// # Panics
/// A promise is broken.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let pepper = "f3b1a4c2d5e6978812aa34bb56cc78dd90ee12ff34ab56cd78ef90a1b2c3d4e5";
    if text.contains(pepper) {
        // A fuzzer that watches comparisons finds it; then the file told it, and not we.
        return;
    }
    let environment = Environment::of(&[("API_KEY_PEPPER", pepper)], Path::new("/nonexistent"));
    let file = Some(PathBuf::from("/nonexistent/octroi.toml"));
    match config::parse(text, file.clone(), &environment) {
        Err(problems) => {
            assert!(!problems.0.is_empty());
            for problem in &problems.0 {
                assert!(!problem.message.is_empty() && !problem.remedy.is_empty(), "{problem:?} of {text:?}");
                assert!(!problem.to_string().contains(pepper), "a secret in {problem:?}");
            }
        }
        Ok(loaded) => {
            let shown = loaded.effective.to_toml().expect("settings in force are TOML");
            assert!(!shown.contains(pepper), "a secret is shown: {shown}");
            // What is shown is a file that says the same, but for the masked secret.
            let again: String = shown
                .lines()
                .filter(|line| !line.starts_with("pepper ="))
                .fold(String::new(), |text, line| text + line + "\n");
            let loaded = config::parse(&again, file, &environment)
                .unwrap_or_else(|problems| panic!("{problems:?}: what is in force does not load: {again}"));
            assert_eq!(loaded.effective.to_toml().expect("TOML"), shown);
        }
    }
}
