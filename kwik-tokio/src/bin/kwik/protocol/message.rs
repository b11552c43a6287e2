//! The messages of client and primary.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{ObjectPath, PARTS_MAX, Ranges, Tree, Version};

/// Bytes of text from a peer.
const TEXT_MAX: usize = 256;
/// Entries in one message of a listing.
pub(super) const ENTRIES_MAX: usize = 512;

/// Request of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// The objects of a directory; of the root if none is named. An object is listed as itself alone.
    List {
        dir: Option<ObjectPath>,
        /// And of the directories in it.
        recursive: bool,
    },
    /// Bytes of objects.
    Get(Parts<Want>),
}

/// As many as one request may name: at least one, at most [`PARTS_MAX`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<T>", into = "Vec<T>")]
#[serde(bound(serialize = "T: Clone + Serialize"))]
pub(crate) struct Parts<T>(Vec<T>);

/// A request names no object, or more than [`PARTS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{0} objects in one request: it has at least 1 and at most {PARTS_MAX}")]
pub(crate) struct BadParts(usize);

impl<T> Parts<T> {
    pub(crate) fn new(parts: Vec<T>) -> Result<Self, BadParts> {
        if (1..=PARTS_MAX).contains(&parts.len()) { Ok(Self(parts)) } else { Err(BadParts(parts.len())) }
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn get(&self, number: usize) -> Option<&T> {
        self.0.get(number)
    }

    pub(super) fn map<U>(self, with: impl FnMut(T) -> U) -> Parts<U> {
        Parts(self.0.into_iter().map(with).collect())
    }

    pub(super) fn try_map<U, E>(self, with: impl FnMut(T) -> Result<U, E>) -> Result<Parts<U>, E> {
        self.0.into_iter().map(with).collect::<Result<_, _>>().map(Parts)
    }
}

impl<T> IntoIterator for Parts<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<T> TryFrom<Vec<T>> for Parts<T> {
    type Error = BadParts;

    fn try_from(parts: Vec<T>) -> Result<Self, BadParts> {
        Self::new(parts)
    }
}

impl<T> From<Parts<T>> for Vec<T> {
    fn from(parts: Parts<T>) -> Self {
        parts.0
    }
}

/// An object, and what is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Want {
    pub(crate) path: ObjectPath,
    pub(crate) wanted: Wanted,
}

/// Bytes that a client wants of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Wanted {
    /// Its digests alone.
    Tree,
    /// All of it.
    Whole,
    /// These, of this version: the answer to any other is [`Code::Changed`].
    Rest { version: Version, ranges: Ranges },
}

/// Message of a primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The request is being worked on: so many bytes of so many are hashed.
    Working { done: u64, total: u64 },
    /// The request cannot be answered.
    Refused(Refusal),
    /// Some of the objects of a directory, ordered by name across messages.
    Listing(Vec<Entry>),
    /// All of them were named.
    ListingEnd {
        /// Files that were left out: links out of the root, what is no regular file, and names that are no [`ObjectPath`].
        left_out: u64,
    },
    /// The objects that were asked for, in that order. The data of all of them follow.
    Parts(Parts<Part>),
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) path: ObjectPath,
    /// Its length in bytes, as far as is known without reading it.
    pub(crate) len: u64,
}

/// The answer for one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Part {
    /// The data contain all that was wanted of it.
    Sent(Tree),
    /// Nothing of it is.
    Refused(Refusal),
}

/// Reason why something is not to be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("{code}{}{text}", if text.is_empty() { "" } else { ": " })]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    text: Text,
}

impl Refusal {
    /// Creates a refusal; `text` adds to what the code says, or is empty.
    pub(crate) fn new(code: Code, text: impl fmt::Display) -> Self {
        Self { code, text: Text::new(&text.to_string()) }
    }
}

/// The kinds of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
pub(crate) enum Code {
    #[error("there is no such object")]
    NotFound,
    #[error("the server may not give it")]
    Forbidden,
    #[error("it is a directory")]
    IsDirectory,
    #[error("it is not a regular file")]
    NotRegular,
    #[error("it has changed")]
    Changed,
    #[error("the server cannot read it")]
    Unreadable,
    #[error("the server is busy")]
    Busy,
    #[error("the server is being stopped")]
    Ending,
    #[error("the server does not understand the request")]
    Malformed,
}

/// Text from a peer: short, and without characters that a terminal obeys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
struct Text(String);

impl Text {
    fn new(text: &str) -> Self {
        let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
        let mut short = String::new();
        for c in printable {
            if short.len() + c.len_utf8() > TEXT_MAX {
                break;
            }
            short.push(c);
        }
        Self(short)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_some_objects_and_not_too_many() {
        let want = Want { path: ObjectPath::parse("a").unwrap(), wanted: Wanted::Whole };
        for count in [0, PARTS_MAX + 1] {
            assert!(Parts::new(vec![want.clone(); count]).is_err());
            // As a peer might send it, without the check.
            let mut bytes = vec![1];
            bytes.extend(postcard::to_allocvec(&vec![want.clone(); count]).unwrap());
            assert!(postcard::from_bytes::<Request>(&bytes).is_err());
        }
        let request = Request::Get(Parts::new(vec![want; PARTS_MAX]).unwrap());
        let bytes = postcard::to_allocvec(&request).unwrap();
        assert_eq!(postcard::from_bytes::<Request>(&bytes), Ok(request));
    }

    #[test]
    fn text_of_a_peer_is_harmless() {
        let wire = postcard::to_allocvec(&(Code::Busy, "\u{1b}[2Jred\nalert".repeat(100))).unwrap();
        let refusal: Refusal = postcard::from_bytes(&wire).unwrap();
        let shown = refusal.to_string();
        assert!(shown.starts_with("the server is busy:  [2Jred alert"), "{shown}");
        assert!(shown.len() < TEXT_MAX + 40 && !shown.contains(char::is_control));
        assert_eq!(Refusal::new(Code::NotFound, "").to_string(), "there is no such object");
    }
}
