//! A session checks its own books (feature `audit`): what can be derived is derived again and compared.
//!
//! Meant for simulators and soak tests, after every step. It costs time in proportion to what is under way.

use std::fmt;

/// Two things a session believes that cannot both be true: a bug in KWIK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction(String);

impl Contradiction {
    /// The same, told of `what`.
    pub(crate) fn of(self, what: impl fmt::Display) -> Self {
        Self(format!("{what}: {}", self.0))
    }
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Contradiction {}

/// Fails with what `what` says unless `holds`.
pub(crate) fn check(holds: bool, what: impl FnOnce() -> String) -> Result<(), Contradiction> {
    if holds { Ok(()) } else { Err(Contradiction(what())) }
}
