//! A JSON object whose members are unique, in which each is asked for by name and type.
//!
//! `serde_json`'s own maps take the last of two members; another reader takes the first. A header
//! or a claims set that can be read in two ways is refused instead (RFC 7515 §4, RFC 7519 §4).

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

/// The members, in their order.
#[derive(Debug)]
pub(super) struct Members(Vec<(String, Value)>);

/// Why a text is no such object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MembersFault {
    /// No JSON object, or more than one.
    NotAnObject,
    /// A member is there twice.
    Duplicate,
}

/// A member is there and of another type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WrongType;

impl Members {
    /// Reads an object.
    pub(super) fn parse(text: &[u8]) -> Result<Self, MembersFault> {
        serde_json::from_slice(text).map_err(|error| {
            // The only error of ours that the visitor makes.
            if error.to_string().starts_with(DUPLICATE) { MembersFault::Duplicate } else { MembersFault::NotAnObject }
        })
    }

    /// The member of this name.
    pub(super) fn find(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// A text.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, WrongType> {
        self.find(name).map(|value| value.as_str().ok_or(WrongType)).transpose()
    }

    /// One text, or a list of texts.
    pub(super) fn texts(&self, name: &str) -> Result<Option<Vec<&str>>, WrongType> {
        match self.find(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(vec![text])),
            Some(Value::Array(items)) => {
                items.iter().map(|item| item.as_str().ok_or(WrongType)).collect::<Result<_, _>>().map(Some)
            }
            Some(_) => Err(WrongType),
        }
    }

    /// Seconds since 1970 (RFC 7519 "NumericDate"); they may be broken.
    pub(super) fn seconds(&self, name: &str) -> Result<Option<f64>, WrongType> {
        let Some(value) = self.find(name) else { return Ok(None) };
        let seconds = value.as_number().and_then(serde_json::Number::as_f64).ok_or(WrongType)?;
        if (0.0..=SECONDS_MAX).contains(&seconds) { Ok(Some(seconds)) } else { Err(WrongType) }
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Unique)
    }
}

struct Unique;

impl<'de> Visitor<'de> for Unique {
    type Value = Members;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members: Vec<(String, Value)> = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            // Few members: a scan is cheaper than a set, and a token is bounded.
            if members.iter().any(|(known, _)| *known == name) {
                return Err(A::Error::custom(DUPLICATE));
            }
            members.push((name, map.next_value()?));
        }
        Ok(Members(members))
    }
}

const DUPLICATE: &str = "a member is named twice";

/// The year 9999: beyond it no timestamp is made.
const SECONDS_MAX: f64 = 253_402_300_799.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_unique_whatever_their_escapes() {
        for (text, fault) in [
            (r#"{"a":1,"b":{"a":1}}"#, None),
            (r#"{"a":1,"a":1}"#, Some(MembersFault::Duplicate)),
            (r#"{"a":1,"\u0061":2}"#, Some(MembersFault::Duplicate)),
            (r#"{"a":1} {"a":2}"#, Some(MembersFault::NotAnObject)),
            (r#"{"a":1}x"#, Some(MembersFault::NotAnObject)),
            ("[]", Some(MembersFault::NotAnObject)),
            ("", Some(MembersFault::NotAnObject)),
            ("{\"a\":\"\u{0}\"}", Some(MembersFault::NotAnObject)),
        ] {
            assert_eq!(Members::parse(text.as_bytes()).err(), fault, "{text}");
        }
        assert_eq!(Members::parse(b"{\"a\":\"\xff\"}").err(), Some(MembersFault::NotAnObject));
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(4_000), "]".repeat(4_000));
        assert_eq!(Members::parse(deep.as_bytes()).err(), Some(MembersFault::NotAnObject), "depth is bounded");
    }

    #[test]
    fn types_are_not_guessed() {
        let members =
            Members::parse(br#"{"t":"x","n":1.5,"l":["a","b"],"s":"1","big":1e300,"neg":-1,"null":null}"#).unwrap();
        assert_eq!(members.text("t"), Ok(Some("x")));
        assert_eq!(members.text("n"), Err(WrongType));
        assert_eq!(members.text("null"), Err(WrongType));
        assert_eq!(members.text("absent"), Ok(None));
        assert_eq!(members.texts("t"), Ok(Some(vec!["x"])));
        assert_eq!(members.texts("l"), Ok(Some(vec!["a", "b"])));
        assert_eq!(members.texts("n"), Err(WrongType));
        assert_eq!(members.seconds("n"), Ok(Some(1.5)));
        for name in ["s", "big", "neg", "null", "l"] {
            assert_eq!(members.seconds(name), Err(WrongType), "{name}");
        }
    }
}
