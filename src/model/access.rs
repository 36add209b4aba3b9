//! Scopes: what a credential may do, and what a route asks for.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A set of scope names (RFC 6749 §3.3: visible ASCII without `"` and `\`).
///
/// A trailing `*` segment contains what lies below it: `orders:*` contains `orders:read` and
/// `orders:items:write`, not `orders` and not `ordersfoo:read`. A lone `*` contains everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scopes(Box<[String]>);

impl Scopes {
    /// A set of the given names; the first that is no scope name is the error.
    ///
    /// # Errors
    /// The offending name.
    pub fn new(names: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut scopes = Vec::new();
        for name in names {
            let legal = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E);
            if name.is_empty() || name.len() > 128 || !name.bytes().all(legal) {
                return Err(name);
            }
            if !scopes.contains(&name) {
                scopes.push(name);
            }
        }
        Ok(Self(scopes.into()))
    }

    /// Whether nothing is granted or asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Those names that `held` contains.
    #[must_use]
    pub fn within(&self, held: &Self) -> Self {
        let contained = |name: &&String| held.0.iter().any(|held| contains(held, name));
        Self(self.0.iter().filter(contained).cloned().collect())
    }

    /// Whether every scope of `asked` is contained in this set.
    #[must_use]
    pub fn contain_all(&self, asked: &Self) -> bool {
        asked.0.iter().all(|asked| self.0.iter().any(|held| contains(held, asked)))
    }
}

impl fmt::Display for Scopes {
    /// Space-separated, as a header or a token carries them.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scope) in self.0.iter().enumerate() {
            if index > 0 {
                out.write_str(" ")?;
            }
            out.write_str(scope)?;
        }
        Ok(())
    }
}

fn contains(held: &str, asked: &str) -> bool {
    if held == asked || held == "*" {
        return true;
    }
    held.strip_suffix('*')
        .is_some_and(|stem| stem.ends_with(':') && asked.len() > stem.len() && asked.starts_with(stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(names: &[&str]) -> Scopes {
        Scopes::new(names.iter().map(ToString::to_string)).unwrap()
    }

    #[test]
    fn containment_follows_segments() {
        for (held, asked, granted) in [
            (&["orders:read"][..], &["orders:read"][..], true),
            (&["orders:*"], &["orders:read", "orders:items:write"], true),
            (&["orders:*"], &["orders"], false),
            (&["orders:*"], &["ordersfoo:read"], false),
            (&["orders*"], &["ordersfoo"], false),
            (&["*"], &["anything:at:all"], true),
            (&[], &[], true),
            (&[], &["a"], false),
            (&["a"], &["a", "b"], false),
        ] {
            assert_eq!(scopes(held).contain_all(&scopes(asked)), granted, "{held:?} for {asked:?}");
        }
    }

    #[test]
    fn names_that_would_break_a_header_are_refused() {
        for name in ["", "two words", "quo\"te", "back\\slash", "line\n", "ü"] {
            assert_eq!(Scopes::new([name.to_string()]), Err(name.to_string()));
        }
    }
}
