//! Sources of a server's bytes.

mod directory;
mod trees;

use std::{fmt, io, sync::Arc};

use kwik_tokio::{ErrorCode, ReadAt};
use thiserror::Error;

pub(crate) use self::{
    directory::Directory,
    trees::{Hashed, Trees},
};
use crate::protocol::{Code, Entry, ObjectPath, Refusal, codes};

/// Objects by name. Its calls may block: they are made where that is allowed.
pub(crate) trait Store: fmt::Debug + Send + Sync {
    /// Opens an object.
    fn open(&self, path: &ObjectPath) -> Result<Arc<dyn Object>, StoreError>;

    /// Calls `each` with the objects of a directory, ordered by name, or of the root, until it returns `false`. Returns how many files were
    /// left out because they are not served.
    fn list(
        &self,
        dir: Option<&ObjectPath>,
        recursive: bool,
        each: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<u64, StoreError>;
}

/// An object that is open. It reads the same bytes for as long as it lives, or fails with [`Changed`].
pub(crate) trait Object: ReadAt {
    /// Returns its length in bytes.
    fn len(&self) -> u64;

    /// Returns what tells this state of the object from others under the same name.
    fn stamp(&self) -> Stamp;
}

/// A state of an object: equal if it has not changed as far as can be told without reading it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp(String);

impl Stamp {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }
}

/// The object is not what it was when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("it has changed since it was opened")]
pub(crate) struct Changed;

/// Reasons that a store does not give something.
#[derive(Debug, Error)]
pub(crate) enum StoreError {
    #[error("there is none")]
    NotFound,
    #[error("it leads out of the root, or may not be read")]
    Forbidden,
    #[error("it is a directory")]
    IsDirectory,
    #[error("it is not a regular file")]
    NotRegular,
    #[error(transparent)]
    Unreadable(io::Error),
}

impl StoreError {
    /// Says so to a client. What the system says of files and disks is nobody else's business.
    pub(crate) fn refusal(&self) -> Refusal {
        let code = match self {
            Self::NotFound => Code::NotFound,
            Self::Forbidden => Code::Forbidden,
            Self::IsDirectory => Code::IsDirectory,
            Self::NotRegular => Code::NotRegular,
            Self::Unreadable(error) if is_change(error) => Code::Changed,
            Self::Unreadable(_) => Code::Unreadable,
        };
        Refusal::new(code, "")
    }

    /// Says so to a primary.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound | Self::Forbidden | Self::IsDirectory | Self::NotRegular => codes::NOT_FOUND,
            Self::Unreadable(error) => read_code(error),
        }
    }
}

/// Returns whether an object failed to be read because it has changed.
pub(crate) fn is_change(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof || error.get_ref().is_some_and(|inner| inner.is::<Changed>())
}

/// Returns the code with which a reader is told of an error of its object.
pub(crate) fn read_code(error: &io::Error) -> ErrorCode {
    if is_change(error) { codes::CHANGED } else { codes::UNREADABLE }
}
