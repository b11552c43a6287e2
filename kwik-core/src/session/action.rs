//! Decisions of the role machines, and the facts about internal streams that they are told. No QUIC type in sight.

use std::net::SocketAddr;

use super::question::{Addresses, Draft};
use crate::{
    action::{Event, RunId},
    error::{ErrorCode, PeerFault},
    id::{Attempt, PathId, StreamId},
    wire::Frame,
};

/// A decision of a role machine, carried out by `Session` in order. A run's actions are its transcript.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Asks the application which of these addresses may be dialled for a path.
    AskDial { path: PathId, addresses: Addresses },
    /// Closes one connection of an attach that goes on with others; its machine does not count on it any more.
    CloseAttempt { path: PathId, attempt: Attempt, code: ErrorCode },
    /// Closes a path whose server broke a rule; its machine already counts it dead.
    BreakPath { path: PathId, fault: PeerFault },
    /// Closes one path, and all that was dialled for it; its machine already counts it dead.
    ClosePath { path: PathId, code: ErrorCode },
    /// The peer broke a rule: ends the session.
    CloseSession { fault: PeerFault },
    /// Starts a connection to a secondary.
    Dial { path: PathId, attempt: Attempt, remote: SocketAddr, server_name: String },
    /// Ends the internal stream of a run of ours where it is.
    EndRun { run: RunId },
    /// Ends an internal stream that we send where it is: the client wants nothing behind that.
    FinishInternal { stream: StreamId },
    /// The client has every byte of the stream: lets its native FIN follow.
    FinishNative { stream: StreamId },
    /// Tells the application.
    Notify(Event),
    /// Permits `count` unidirectional streams at once.
    PermitUni { path: PathId, count: u64 },
    /// The peer has left for a reason of its own, with this code and text.
    PeerLeft { code: ErrorCode, reason: String },
    /// Makes the path's peer answer.
    Ping { path: PathId },
    /// Gives up an internal stream that we send.
    ResetInternal { stream: StreamId, code: ErrorCode },
    /// Gives up the native stream on the application's behalf.
    ResetNative { stream: StreamId, code: ErrorCode },
    /// Reads an internal stream that had to wait.
    ResumeInternal { path: PathId, stream: StreamId },
    /// Sends a control frame.
    Send { path: PathId, frame: Frame },
    /// Has the application's key sign a frame, which then is sent.
    Sign(Box<Draft>),
    /// Wants no more of an internal stream.
    StopInternal { path: PathId, stream: StreamId, code: ErrorCode },
    /// A stream became split: it is readable by KWIK's rules, and to be accepted if the application has not seen it.
    SplitOpened { stream: StreamId },
}

/// Fate of an internal stream whose header has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// Read it.
    Read,
    /// Leave it unread until [`Action::ResumeInternal`].
    Wait,
    /// Stop it with this code.
    Stop(ErrorCode),
}

/// End of an internal stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InternalEnd {
    Fin,
    Reset(ErrorCode),
}
