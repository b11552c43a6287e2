//! Faults of machines and links, and their ends.

use std::time::Duration;

use crate::sim::{NodeId, link::Conditions};

/// Kinds of forged datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the packets that QUIC sends without a key of the connection")]
pub enum Forgery {
    /// Version Negotiation that offers the version in use (RFC 9000 §6.2).
    Versions,
    /// Version Negotiation that offers none that is known, of a connection that is not.
    StrangeVersions,
    /// Retry without the right integrity tag (RFC 9001 §5.8).
    Retry,
    /// A stateless reset, for a connection that lives, without its token (RFC 9000 §10.3).
    Reset,
}

/// A fault, or its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing passes from one machine to another.
    Cut(NodeId, NodeId),
    /// It passes again.
    Join(NodeId, NodeId),
    /// Holds what passes from one machine to another until then, and lets it come in one burst.
    Hold(NodeId, NodeId, Duration),
    /// A direction becomes like this.
    Become(NodeId, NodeId, Conditions),
    /// A machine does nothing until then: alive, silent. What arrives waits, as far as its socket has room.
    Pause(NodeId, Duration),
    /// A machine loses its state and is gone.
    Crash(NodeId),
    /// A machine that crashed is back, knowing nothing; with another certificate if so said.
    Restart(NodeId, bool),
    /// A NAT gives a client another port.
    Rebind(NodeId),
    /// A client is in another network: its address is another.
    Move(NodeId),
    /// A machine slept: its monotonic clock jumps ahead.
    Jump(NodeId, Duration),
    /// A socket takes nothing until then.
    Block(NodeId, Duration),
    /// A machine closes all its sessions, as on a clean shutdown.
    Close(NodeId),
    /// Somebody sends a machine that many bytes of rubbish that look like they come from another.
    Junk(NodeId, NodeId, usize),
    /// Somebody who sees what passes sends a machine a packet that looks like QUIC's own from another: nothing must come
    /// of it.
    Forge(NodeId, NodeId, Forgery),
    /// A client gets the address that another client has, and that one another.
    Reuse(NodeId, NodeId),
    /// A client connects, again if it was connected before.
    Connect(NodeId),
    /// All timers of a machine fire early: nothing must come of it.
    Wake(NodeId),
}

impl Fault {
    /// Returns by how much a clock jumps, if that is the fault.
    #[must_use]
    pub fn jump(&self) -> Option<Duration> {
        if let Self::Jump(_, ahead) = self { Some(*ahead) } else { None }
    }

    /// Returns whether it may not even cost time: it keeps no worlds from being calm.
    #[must_use]
    pub fn is_harmless(&self) -> bool {
        matches!(self, Self::Junk(..) | Self::Forge(..) | Self::Wake(_))
    }

    /// Returns what a direction becomes like, if that is the fault.
    #[must_use]
    pub fn conditions(&self) -> Option<Conditions> {
        if let Self::Become(_, _, conditions) = self { Some(*conditions) } else { None }
    }

    /// Returns the name under which it is counted.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cut(..) => "fault: cut",
            Self::Join(..) => "fault: join",
            Self::Hold(..) => "fault: hold",
            Self::Become(..) => "fault: link changes",
            Self::Pause(..) => "fault: pause",
            Self::Crash(..) => "fault: crash",
            Self::Restart(_, false) => "fault: restart",
            Self::Restart(_, true) => "fault: restart with another certificate",
            Self::Rebind(..) => "fault: rebind",
            Self::Move(..) => "fault: move",
            Self::Jump(..) => "fault: clock jumps",
            Self::Block(..) => "fault: socket blocks",
            Self::Close(..) => "fault: clean close",
            Self::Junk(..) => "fault: rubbish",
            Self::Forge(_, _, Forgery::Versions | Forgery::StrangeVersions) => "fault: forged versions",
            Self::Forge(_, _, Forgery::Retry) => "fault: forged Retry",
            Self::Forge(_, _, Forgery::Reset) => "fault: forged reset",
            Self::Reuse(..) => "fault: address of another",
            Self::Connect(..) => "connect",
            Self::Wake(..) => "fault: early timers",
        }
    }
}
