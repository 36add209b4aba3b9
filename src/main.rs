//! The binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // One crypto stack, named once: without a choice rustls would panic at the first handshake.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        unreachable!("nothing else installs a provider");
    }
    octroi::cli::run()
}
