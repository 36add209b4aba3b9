//! The binary: everything is in the library.

use std::process::ExitCode;

use octroi::config::{self, Environment};
use octroi::model::clock::SystemClock;

fn main() -> ExitCode {
    // One crypto stack for the whole process. It fails only when one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    octroi::cli::run(&config::env::arguments(), Environment::read(), SystemClock::shared())
}
