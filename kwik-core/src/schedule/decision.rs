//! Facts that the scheduler is told and decisions that it makes: values only, no behaviour.

use std::{fmt, time::Duration};

use crate::id::{ByteRange, PathId};

/// Names a piece: a range that one path, or the primary's own writer, was asked to bring. Rises per scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceId(pub(crate) u64);

impl fmt::Display for PieceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "piece {}", self.0)
    }
}

/// A thing that the scheduler wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Decision {
    /// Lease a range to a path. The piece is to be answered once: done, lost or refused.
    Lease {
        /// The piece's name from now on.
        piece: PieceId,
        /// The path that is to bring it.
        path: PathId,
        /// The bytes that it is for.
        range: ByteRange,
        /// Lease it with a digest.
        verified: bool,
        /// Have it lost if it is not done in this time.
        deadline: Option<Duration>,
        /// It lies in the range of this live piece of another path: what comes first counts.
        hedge_of: Option<PieceId>,
    },
    /// Write a range yourself. The piece is to be answered as a lease is.
    Write {
        /// The piece's name from now on.
        piece: PieceId,
        /// The bytes to write.
        range: ByteRange,
        /// It lies in the range of this live piece of a path: what comes first counts.
        hedge_of: Option<PieceId>,
    },
    /// Take back what lies behind the first `keep` bytes of a piece; all of it if that is none. To be answered by
    /// [`handle_cut`](super::Scheduler::handle_cut), or by the end of the piece.
    Cut {
        /// The piece.
        piece: PieceId,
        /// Bytes of it that stay.
        keep: u64,
    },
    /// Every byte has arrived. Told once; nothing follows.
    Done,
    /// The object cannot be completed. Told once; nothing follows.
    Failed(Failure),
}

/// A reason that an object cannot be completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// This and more is missing, and nobody is left who could bring it, or might be again.
    NobodyLeft(ByteRange),
    /// This was lost after many other ranges were, without a byte in between.
    NothingArrives(ByteRange),
}

/// A change of a path's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathNews {
    /// It does not answer for now, or is not attached yet. It gets nothing.
    Silent,
    /// It answers (again). It gets little until it has shown itself.
    Answers,
    /// It gets nothing more, for good; what it has it may finish.
    Removed,
    /// It is gone for good. What it had is still to be answered.
    Dead,
}

/// A reason that a piece ended before it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loss {
    /// Its path went silent or died.
    Path,
    /// It was taken back, as decided here.
    TakenBack,
    /// Nothing of it is missing any more: somebody else brought the rest.
    Covered,
    /// The server did not take it, or gave it up.
    GivenUp,
    /// It was not done within its deadline.
    TooLate,
    /// Its bytes did not have the digest.
    WrongDigest,
    /// Another reason.
    Other,
}

/// A reason that a decision could not be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The path or the client takes no more at the moment.
    Busy,
    /// The path is silent for now.
    Silent,
    /// The path takes no work any more.
    Gone,
    /// The range is somebody else's, or what was to be hedged is over.
    Taken,
}

/// A reason that bytes came twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DuplicateReason {
    /// Two were asked for them on purpose.
    Hedge,
    /// They came after their lease had ended.
    Late,
    /// They were on their way when their lease was cut.
    Cut,
    /// They were there, and lost with what they belonged to.
    Lost,
}
