//! Policies for bytes that two sources bring for one offset. Spec: PROTOCOL §6, "Conflicts".

use crate::id::{ByteRange, PathId};

/// The source that wins where two servers sent different bytes for one offset.
///
/// Whatever the policy, delivered bytes are never changed, what a lease's digest has proved takes the place of what is
/// held then, every overlap is counted per source, and so is each whose bytes differed
/// ([`SourceStats::conflicts`](crate::SourceStats::conflicts)). Spec: PROTOCOL §6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConflictPolicy {
    /// Those that came first.
    #[default]
    FirstWins,
    /// Those that came last, as far as they came in time.
    LastWins,
    /// The primary's own; among others those that came first.
    PrimaryWins,
    /// Nobody's: the stream fails with [`ReadError::Conflict`](crate::ReadError::Conflict), which names both sources.
    Reject,
}

/// Place where two sources first disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Range from the first byte that differs to the end of what overlaps there.
    pub(crate) range: ByteRange,
    /// Source of the bytes held there; `None` if slivers of several were gathered into one piece.
    pub(crate) held: Option<PathId>,
}

impl ConflictPolicy {
    /// Returns whether what `source` brings takes the place of what is held.
    pub(crate) fn replaces(self, source: PathId) -> bool {
        match self {
            Self::FirstWins | Self::Reject => false,
            Self::LastWins => true,
            Self::PrimaryWins => source.is_primary(),
        }
    }
}
