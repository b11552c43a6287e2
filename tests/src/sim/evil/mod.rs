//! Peers above valid TLS that break the rules, one way at a time.
//!
//! Each attack is a row of [`ATTACKS`]: which rows of the threat model it is of, who carries it out, what must come of
//! it. Everybody else in its world is the real core. A script plays its role honestly up to where the attack begins,
//! and goes on honestly if it is still let. What it chooses (offsets, sizes, ids, moments) is drawn from the seed.
//!
//! Not here, and why. Row 6 beyond counting: the policies are tried where they live, `session/client/tests/faults.rs`. Row 40: streams of their own and priorities,
//! which no peer can undo; the swarm's control is never late. Row 21: there are no
//! heartbeats. Row 29: no 0-RTT. Row 30: one store per path is a type, tested in the core. Row 34: seals are tried in the core. Row 41: no
//! hash maps in the core. Row 42: every world of every seed. Rows 45 to 52: QUIC's own; quinn-proto cannot be made to
//! break them, and the swarm spoofs, replays and damages datagrams. Row 3's second header: the grammar has none. Row 37's
//! counts per network prefix: tried in the core, `session/tests/half_open.rs`. Row 39b's ids beyond the limit: QUIC closes before KWIK sees
//! them. Row 28 by a primary or a client: rustls refuses whoever names no protocol, before a byte is said above TLS. Row
//! 44 is the application's own side, which `tests/it` and the swarm try.

mod client;
mod flood;
pub mod floods;
mod frames;
mod link;
mod machine;
mod primary;
mod run;
mod secondary;
mod table;

use std::sync::Arc;

use kwik_core::{ErrorCode, SigningKey};
use kwik_proto::v1 as pb;
use prost::Message as _;

pub(super) use self::machine::EvilMachine;
use self::{link::Fact, machine::Face};
pub use self::{
    run::{attack_of, check_coverage, find, play, run, try_out, world},
    table::{ATTACKS, Kind},
};
use super::{
    NodeId,
    dice::{Dice, derive},
};

/// The client that must not notice anything.
pub const BYSTANDER: NodeId = NodeId::client(1);
/// The client of the session that is attacked, or that attacks.
pub const VICTIM: NodeId = NodeId::client(2);
/// The secondary that attacks, or that is silent.
pub const EVIL_SECONDARY: NodeId = NodeId::secondary(3);
/// The bystander's primary where the usual one attacks.
pub const OTHER_PRIMARY: NodeId = NodeId::secondary(9);
/// Dials that a primary asks for and that are all refused.
const FORBIDDEN_DIALS: usize = 8;

/// Role of the attacker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the three roles there are")]
pub enum Actor {
    /// A client.
    Client,
    /// A primary.
    Primary,
    /// A secondary.
    Secondary,
}

impl Actor {
    /// Returns which machine attacks.
    #[must_use]
    pub const fn node(self) -> NodeId {
        match self {
            Self::Client => VICTIM,
            Self::Primary => NodeId::PRIMARY,
            Self::Secondary => EVIL_SECONDARY,
        }
    }
}

/// Required consequence of an attack, and the place at which it must be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expect {
    /// The primary counts conflicts; what came first stays.
    Conflict,
    /// Nothing happens: dropped, or bounded by what is permitted.
    Dropped,
    /// Control is left unread, and nobody is closed.
    HeldBack,
    /// A lease is lost with this code.
    LeaseLost(ErrorCode),
    /// The attacker's path is closed with this code, and dead with it at the primary.
    Path(ErrorCode),
    /// The attacker never got as far as being told; its path is dead with this code at the primary.
    PathUntold(ErrorCode),
    /// A frame refuses with this code, and the session lives.
    Refused(ErrorCode),
    /// The attacker's connection is closed with this code, and its session with it.
    Session(ErrorCode),
    /// A stream is stopped with this code, and path and session live.
    Stopped(ErrorCode),
}

impl Expect {
    /// Returns the code, if there is one.
    #[must_use]
    pub const fn code(self) -> Option<ErrorCode> {
        match self {
            Self::Conflict | Self::Dropped | Self::HeldBack => None,
            Self::LeaseLost(code)
            | Self::Path(code)
            | Self::PathUntold(code)
            | Self::Refused(code)
            | Self::Session(code)
            | Self::Stopped(code) => Some(code),
        }
    }

    /// Returns whether the attacker is still connected afterwards.
    #[must_use]
    pub const fn survives(self) -> bool {
        !matches!(self, Self::Path(_) | Self::PathUntold(_) | Self::Session(_))
    }
}

/// An attack.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a row of a table")]
pub struct Attack {
    /// Rows of the threat model.
    pub rows: &'static str,
    /// Attacker who carries it out.
    pub actor: Actor,
    /// The deed.
    pub kind: Kind,
    /// Required consequence.
    pub expect: Expect,
}

impl Attack {
    /// Returns a name for reports.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{:?} by a {:?}", self.kind, self.actor).to_lowercase()
    }
}

/// Machines that scripts run, and whether they attack or only could.
#[derive(Clone, Copy, Debug)]
pub struct Casting {
    attack: &'static Attack,
    armed: bool,
}

impl Casting {
    /// Casts the roles of an attack; one that is not `armed` never comes to it.
    #[must_use]
    pub const fn new(attack: &'static Attack, armed: bool) -> Self {
        Self { attack, armed }
    }

    /// Primaries beside the usual one.
    pub(super) fn others(&self) -> Option<NodeId> {
        (self.attack.actor == Actor::Primary).then_some(OTHER_PRIMARY)
    }

    /// A secondary that is only for one client.
    pub(super) fn reserved(&self) -> Option<(NodeId, NodeId)> {
        Some((EVIL_SECONDARY, VICTIM))
    }

    /// Whom a client connects to.
    pub(super) fn primary_of(&self, client: NodeId) -> NodeId {
        self.others().filter(|_| client == BYSTANDER).unwrap_or(NodeId::PRIMARY)
    }

    /// Makes the machine of a node, if a script runs it.
    pub(super) fn machine(&self, seed: u64, node: NodeId, signer: Arc<SigningKey>) -> Option<EvilMachine> {
        let own = derive(seed, &format!("kwik sim: endpoint of {node}"));
        let server = (!node.is_client()).then(|| node.server_index());
        let kind = self.armed.then_some(self.attack.kind);
        if self.attack.actor == Actor::Primary && node == EVIL_SECONDARY {
            let script = Box::new(secondary::Secondary::new(None, Dice::new(seed, "kwik sim: silent")));
            return Some(EvilMachine::new(own, server, Face::default(), script).silent());
        }
        if node != self.attack.actor.node() {
            return None;
        }
        let dice = Dice::new(seed, "kwik sim: attack");
        let face = match kind {
            Some(Kind::Impostor) => Face { impostor: true, ..Face::default() },
            Some(Kind::ForeignAlpn) => Face { alpn: Some(b"h3"), ..Face::default() },
            Some(Kind::NoAlpn) => Face { alpn: Some(b""), ..Face::default() },
            _ => Face::default(),
        };
        let script: Box<dyn machine::Script> = match self.attack.actor {
            Actor::Secondary => Box::new(secondary::Secondary::new(kind, dice)),
            Actor::Primary => {
                Box::new(primary::Primary::new(kind, !self.attack.expect.survives(), dice, signer))
            }
            Actor::Client => Box::new(client::Client::new(kind, dice)),
        };
        Some(EvilMachine::new(own, server, face, script))
    }
}

/// Record of a machine that a script runs: what it did and saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The attack was carried out.
    fired: bool,
    /// Ends that closed connections, with their application codes.
    closes: Vec<(NodeId, Option<u64>)>,
    /// Codes that streams were stopped with.
    stops: Vec<u64>,
    /// Codes in frames that refuse something.
    refusals: Vec<u64>,
    /// Control was not taken.
    held_back: bool,
    /// All that should have been done honestly, was.
    served: bool,
    /// Nothing is heard or said any more.
    silent: bool,
    datagrams: usize,
    bytes: usize,
    /// Flood that it makes, its first target, and the number of frames made.
    flood: Option<(String, NodeId)>,
    said: u64,
    /// Leases that were filled, as far as it was told or has seen: streams that came to an end, or answers that say so.
    filled: u64,
}

impl Seen {
    fn note(&mut self, fact: &Fact, peer: Option<NodeId>) {
        match fact {
            Fact::Closed(code) => self.closes.extend(peer.map(|peer| (peer, *code))),
            Fact::Stopped(_, code) => self.stops.push(*code),
            Fact::Frame(kind, body) => {
                self.filled += u64::from(*kind == pb::FrameType::LeaseDone);
                self.refusals.extend(refusal(*kind, body));
            }
            Fact::Ended(..) => self.filled += 1,
            Fact::Connected | Fact::Bytes(..) => {}
        }
    }

    /// Returns whether the attack was carried out.
    #[must_use]
    pub fn fired(&self) -> bool {
        self.fired
    }
}

/// The code in a frame that refuses something.
fn refusal(kind: pb::FrameType, body: &[u8]) -> Option<u64> {
    use pb::FrameType as Type;
    #[expect(clippy::wildcard_enum_match_arm, reason = "all others say no more than that")]
    match kind {
        Type::PathReport => pb::PathReport::decode(body).ok()?.code,
        Type::JobRefused => pb::JobRefused::decode(body).ok()?.code,
        Type::LeaseRefused => pb::LeaseRefused::decode(body).ok()?.code,
        Type::LeaseLost => pb::LeaseLost::decode(body).ok()?.code,
        Type::StreamStopped => pb::StreamStopped::decode(body).ok()?.code,
        _ => None,
    }
}
