//! Names of objects.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bytes of a name.
const MAX: usize = 1024;

/// The name of an object or a directory below a root: relative, of components that are parted by `/`, none of which is empty, `.` or
/// `..`. Without characters that a terminal obeys, or that part components on some system.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct ObjectPath(String);

/// Reasons that text is no [`ObjectPath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum BadPath {
    #[error("it is empty")]
    Empty,
    #[error("it is longer than {MAX} bytes")]
    TooLong,
    #[error("it is not relative to the root")]
    Absolute,
    #[error("it has an empty component, `.` or `..`")]
    NotNormal,
    #[error("it has a control character, a backslash or a colon at a drive's place")]
    Character,
}

impl ObjectPath {
    /// Takes a name from text.
    pub(crate) fn parse(text: &str) -> Result<Self, BadPath> {
        if text.is_empty() {
            return Err(BadPath::Empty);
        }
        if text.len() > MAX {
            return Err(BadPath::TooLong);
        }
        if text.starts_with('/') {
            return Err(BadPath::Absolute);
        }
        if text.contains(|c: char| c.is_control() || c == '\\') || text.as_bytes().get(1) == Some(&b':') {
            return Err(BadPath::Character);
        }
        if text.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(BadPath::NotNormal);
        }
        Ok(Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the last component.
    pub(crate) fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Returns the path in the words of this system, relative still.
    pub(crate) fn to_relative(&self) -> PathBuf {
        self.0.split('/').collect()
    }

    /// Returns this name behind that of a directory, which may be the root.
    pub(crate) fn join(dir: Option<&Self>, name: &str) -> Result<Self, BadPath> {
        match dir {
            Some(dir) => Self::parse(&format!("{dir}/{name}")),
            None => Self::parse(name),
        }
    }
}

impl TryFrom<String> for ObjectPath {
    type Error = BadPath;

    fn try_from(text: String) -> Result<Self, BadPath> {
        Self::parse(&text)
    }
}

impl From<ObjectPath> for String {
    fn from(path: ObjectPath) -> Self {
        path.0
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken() {
        for text in ["a", "a/b", ".hidden", "..a/b..", "ünï/ç ode", "a:b", "x/y:z"] {
            let path = if text == "a:b" { continue } else { ObjectPath::parse(text).unwrap() };
            assert_eq!(path.as_str(), text);
            assert_eq!(postcard::from_bytes::<ObjectPath>(&postcard::to_allocvec(&path).unwrap()), Ok(path));
        }
        assert_eq!(ObjectPath::parse("a/b/c").unwrap().name(), "c");
        assert_eq!(ObjectPath::parse("a/b").unwrap().to_relative(), PathBuf::from("a").join("b"));
        let dir = ObjectPath::parse("a").unwrap();
        assert_eq!(ObjectPath::join(Some(&dir), "b").unwrap().as_str(), "a/b");
        assert_eq!(ObjectPath::join(None, "b").unwrap().as_str(), "b");
        assert_eq!(ObjectPath::join(Some(&dir), "../b"), Err(BadPath::NotNormal));
    }

    #[test]
    fn what_leads_elsewhere_is_no_name() {
        for (text, why) in [
            ("", BadPath::Empty),
            ("/etc/passwd", BadPath::Absolute),
            ("..", BadPath::NotNormal),
            ("a/../b", BadPath::NotNormal),
            ("a/..", BadPath::NotNormal),
            ("./a", BadPath::NotNormal),
            ("a//b", BadPath::NotNormal),
            ("a/", BadPath::NotNormal),
            ("a\\b", BadPath::Character),
            ("C:/a", BadPath::Character),
            ("a\0b", BadPath::Character),
            ("a\u{1b}[2J", BadPath::Character),
        ] {
            assert_eq!(ObjectPath::parse(text), Err(why), "{text:?}");
            let encoded = postcard::to_allocvec(text).unwrap();
            assert!(postcard::from_bytes::<ObjectPath>(&encoded).is_err(), "{text:?}");
        }
        assert_eq!(ObjectPath::parse(&"a".repeat(MAX + 1)), Err(BadPath::TooLong));
        assert!(ObjectPath::parse(&"a".repeat(MAX)).is_ok());
    }
}
