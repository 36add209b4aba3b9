//! How many files the process may have open, and how many connections that allows.
//!
//! Many systems start a process with a soft limit of 1,024 and a hard one far above. A gateway
//! that runs out of descriptors can neither accept, nor connect, nor answer a probe; so the soft
//! limit is raised at start, and callers never get the last quarter.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Kept for the journal, the store and operators, however low the limit is.
const LEAST_RESERVE: u64 = 64;

/// Raises the limit on open files as far as it goes. Returns how many callers may be connected
/// at once: what is `wanted`, or what the limit allows.
pub(super) fn connections(wanted: usize) -> usize {
    let limit = raise();
    let allowed = limit.map_or(wanted, |limit| allowed(wanted, limit));
    if allowed < wanted {
        tracing::warn!(
            wanted,
            allowed,
            open_files = limit,
            "the limit on open files allows fewer connections than server.limits.connections; \
             raise it (LimitNOFILE= in systemd, ulimit -n in a shell)"
        );
    }
    allowed
}

/// The limit after it was raised; none: there is none.
fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if raised.is_ok() { maximum } else { current }
}

/// Three quarters are the callers'; the rest is for upstreams and everything else.
fn allowed(wanted: usize, limit: u64) -> usize {
    let reserve = LEAST_RESERVE.max(limit / 4);
    usize::try_from(limit.saturating_sub(reserve)).unwrap_or(usize::MAX).clamp(1, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_get_three_quarters_and_never_more_than_configured() {
        for (wanted, limit, expected) in
            [(20_000, 1_048_576, 20_000), (20_000, 20_000, 15_000), (20_000, 1_024, 768), (20_000, 100, 36), (5, 10, 1)]
        {
            assert_eq!(allowed(wanted, limit), expected, "{wanted} of {limit}");
        }
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        raise();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
