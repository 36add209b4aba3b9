//! An error with what it came from, as one line of a log or an answer.

use std::error::Error;

/// The error and its causes, outermost first, separated by colons. A cause whose words its effect
/// repeats already is left out.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{words}")]
    struct Link {
        words: &'static str,
        #[source]
        cause: Option<Box<Link>>,
    }

    #[test]
    fn causes_follow_once_each() {
        let link = |words, cause: Option<Link>| Link { words, cause: cause.map(Box::new) };
        let refused = || link("connection refused", None);
        assert_eq!(with_causes(&refused()), "connection refused");
        assert_eq!(with_causes(&link("the store is away", Some(refused()))), "the store is away: connection refused");
        assert_eq!(with_causes(&link("away: connection refused", Some(refused()))), "away: connection refused");
    }
}
