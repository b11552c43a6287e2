//! A secondary by hand: takes jobs, fills leases as it is given credit, and at one point does something else.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use kwik_core::{ByteRange, ErrorCode};
use kwik_proto::v1 as pb;
use pb::FrameType as Type;
use prost::Message as _;
use quinn_proto::StreamId;

use super::{
    Actor, Kind, VICTIM,
    flood::{Facts, Flood, Target},
    frames,
    link::{Fact, Link, control},
    machine::{Script, Stage},
};
use crate::{object::Object, raw, sim::dice::Dice};

/// The script.
#[derive(Debug)]
pub(super) struct Secondary {
    kind: Option<Kind>,
    dice: Dice,
    /// Leases of the victim to let pass before the attack.
    patience: u64,
    peers: BTreeMap<usize, Serving>,
    /// Time to look again whether control was taken.
    look_at: Option<Duration>,
    /// A lease that is held back, and until when at most.
    held: Option<(u64, Duration)>,
    /// Target of its flood, and the frames of it.
    flood: Option<(usize, Flood)>,
}

/// One client being served.
#[derive(Debug, Default)]
struct Serving {
    victim: bool,
    jobs: BTreeMap<u64, (Object, u64)>,
    fills: BTreeMap<u64, Fill>,
    offsets: BTreeMap<u64, u64>,
    highest: u64,
    last_job: u64,
    struck: bool,
}

/// A lease being filled.
#[derive(Debug)]
struct Fill {
    object: Object,
    stream: u64,
    start: u64,
    len: u64,
    credit: u64,
    sent: u64,
    internal: Option<StreamId>,
}

impl Fill {
    fn allowed(&self, offset: u64) -> u64 {
        self.credit.max(offset.saturating_sub(self.start)).min(self.len)
    }

    fn bytes(&self, from: u64, len: u64) -> Bytes {
        ByteRange::new(self.start + from, len).map(|range| self.object.bytes(range)).unwrap_or_default()
    }
}

/// Time that a lease is held back for an attack on credit.
const HELD_MAX: Duration = Duration::from_secs(3);

impl Secondary {
    /// Creates a script that comes to `kind`, or to nothing.
    pub(super) fn new(kind: Option<Kind>, mut dice: Dice) -> Self {
        let patience = dice.below(4);
        Self { kind, dice, patience, peers: BTreeMap::new(), look_at: None, held: None, flood: None }
    }

    fn hello(&mut self, stage: &mut Stage<'_, '_>, key: usize, body: &[u8]) {
        let hello = pb::ClientHello::decode(body).expect("an honest hello");
        let attach = hello.attach.expect("a secondary's hello");
        let victim = stage.link(key).peer == VICTIM;
        self.peers.insert(key, Serving { victim, ..Serving::default() });
        let mut answer = pb::ServerHello {
            version: Some(1),
            features: Some(frames::FEATURES),
            session: attach.session,
            app_protocol: None,
        };
        match self.kind.filter(|_| victim) {
            Some(Kind::NoHello) => {
                stage.seen.fired = true;
                return;
            }
            Some(Kind::WrongVersion) => {
                answer.version = Some(u32::try_from(self.dice.between(2, 1 << 32)).unwrap_or(0))
            }
            Some(Kind::WrongSession) => {
                let mut session = answer.session.unwrap_or_default().to_vec();
                let bit = self.dice.index(128);
                if let Some(byte) = session.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
                answer.session = Some(session.into());
            }
            _ => {
                stage.link(key).send(Type::ServerHello, &answer);
                return;
            }
        }
        stage.seen.fired = true;
        stage.link(key).send(Type::ServerHello, &answer);
    }

    fn frame(&mut self, stage: &mut Stage<'_, '_>, key: usize, kind: Type, body: &[u8]) {
        if kind == Type::ClientHello {
            return self.hello(stage, key, body);
        }
        let Some(serving) = self.peers.get_mut(&key) else {
            return;
        };
        #[expect(clippy::wildcard_enum_match_arm, reason = "nothing else is said to a secondary")]
        match kind {
            Type::JobOpen => {
                let open = pb::JobOpen::decode(body).expect("an honest frame");
                let object = Object::from_payload(open.payload());
                serving.jobs.insert(open.job(), (object, open.stream()));
                serving.last_job = open.job();
                stage.link(key).send(Type::JobAccepted, &pb::JobAccepted { job: open.job });
            }
            Type::LeaseNotice => {
                let notice = pb::LeaseNotice::decode(body).expect("an honest frame");
                let range = notice.range.expect("an honest frame");
                let Some(&(object, stream)) = serving.jobs.get(&notice.job()) else {
                    return;
                };
                serving.highest = notice.lease();
                let (start, len, credit) = (range.start(), range.length(), notice.credit());
                let fill = Fill { object, stream, start, len, credit, sent: 0, internal: None };
                serving.fills.insert(notice.lease(), fill);
                if serving.victim && !serving.struck {
                    self.consider(stage, key, notice.lease());
                }
            }
            Type::LeaseRevoke => {
                let revoke = pb::LeaseRevoke::decode(body).expect("an honest frame");
                if let Some(internal) = serving.fills.remove(&revoke.lease()).and_then(|fill| fill.internal) {
                    stage.link(key).reset(internal, revoke.code());
                }
            }
            Type::Credit => match pb::Credit::decode(body).expect("an honest frame").grant {
                Some(pb::credit::Grant::Offset(credit)) => {
                    let known = serving.offsets.entry(credit.stream()).or_default();
                    *known = credit.offset().max(*known);
                }
                Some(pb::credit::Grant::Lease(credit)) => {
                    if let Some(fill) = serving.fills.get_mut(&credit.lease()) {
                        fill.credit = fill.credit.max(credit.bytes());
                    }
                }
                Some(pb::credit::Grant::Run(_)) | None => {}
            },
            _ => {}
        }
        self.fill(stage, key);
    }

    /// A lease of the victim has come: is this the moment?
    fn consider(&mut self, stage: &mut Stage<'_, '_>, key: usize, lease: u64) {
        let Some(kind) = self.kind else {
            return;
        };
        if self.patience > 0 {
            self.patience -= 1;
            return;
        }
        let struck = self.strike(stage, key, lease, kind);
        let spent = matches!(kind, Kind::PastCredit | Kind::PastLease | Kind::TwoStreams | Kind::WrongOffset);
        if let Some(serving) = self.peers.get_mut(&key).filter(|_| struck && spent) {
            serving.fills.remove(&lease); // an honest stream for it would be a fault of its own
        }
        stage.seen.fired |= struck;
        if let Some(serving) = self.peers.get_mut(&key) {
            serving.struck |= struck && kind != Kind::OthersJob;
        }
    }

    /// Does what the attack does, with a lease of which nothing was sent. Returns whether the moment was right.
    #[expect(clippy::too_many_lines, reason = "a list of attacks, each a few lines")]
    fn strike(&mut self, stage: &mut Stage<'_, '_>, key: usize, lease: u64, kind: Kind) -> bool {
        let Self { peers, dice: d, .. } = self;
        let (Some(serving), link) = (peers.get_mut(&key), stage.links.get_mut(&key).expect("it has spoken"))
        else {
            return false;
        };
        if let Some(bytes) = frames::control(kind, Actor::Secondary, d) {
            link.write(control(), bytes);
            return true;
        }
        if let Some(bytes) = frames::header(kind, Actor::Secondary, d) {
            return link.open_with(bytes).is_some();
        }
        let Some(fill) = serving.fills.get_mut(&lease) else {
            return false;
        };
        let whole = fill.allowed(serving.offsets.get(&fill.stream).copied().unwrap_or_default()) == fill.len;
        let part = d.between(1, fill.len);
        #[expect(clippy::wildcard_enum_match_arm, reason = "those are done elsewhere, or by others")]
        match kind {
            Kind::PastLease => {
                if !whole {
                    return false;
                }
                let mut bytes = raw::secondary_stream(lease, fill.start, &fill.bytes(0, fill.len));
                bytes.extend(vec![0; usize::try_from(d.magnitude(1, 50_000)).unwrap_or(1)]);
                return link.open_with(bytes).is_some();
            }
            Kind::WrongOffset => {
                let offset = match d.below(4) {
                    0 => fill.start + d.magnitude(1, 1 << 40),
                    1 => fill.start.saturating_sub(d.magnitude(1, 100_000)),
                    2 => (1 << 62) - 1,
                    _ => 0,
                };
                if offset == fill.start {
                    return false;
                }
                return link.open_with(raw::secondary_stream(lease, offset, &fill.bytes(0, part))).is_some();
            }
            Kind::UnknownLease => {
                let other = serving.highest + d.magnitude(1000, (1 << 40) - 1);
                return link
                    .open_with(raw::secondary_stream(other, fill.start, &fill.bytes(0, part)))
                    .is_some();
            }
            Kind::HeaderOverflow => {
                let bytes = raw::secondary_stream(lease, frames::beyond(d), &fill.bytes(0, part));
                return link.open_with(bytes).is_some();
            }
            Kind::TwoStreams => {
                if fill.len < 2 || !whole {
                    return false;
                }
                let part = d.between(1, fill.len - 1); // it lives on, so there is a mapping to contradict
                let bytes = raw::secondary_stream(lease, fill.start, &fill.bytes(0, part));
                return link.open_with(bytes.clone()).is_some() && link.open_with(bytes).is_some();
            }
            Kind::Lie => {
                if !whole {
                    return false;
                }
                let mut bytes = fill.bytes(0, fill.len).to_vec();
                if let Some(byte) = bytes.get_mut(d.index(usize::try_from(fill.len).unwrap_or(1))) {
                    *byte ^= 1 << d.below(8);
                }
                let sent = link.open_with(raw::secondary_stream(lease, fill.start, &bytes.into()));
                let Some(stream) = sent else {
                    return false;
                };
                serving.fills.remove(&lease);
                link.finish(stream);
            }
            Kind::Trickle => {
                // A little, or nothing, and then it only answers.
                let offset = serving.offsets.get(&fill.stream).copied().unwrap_or_default();
                let part = d.below(fill.len.min(100)).min(fill.allowed(offset));
                if part > 0
                    && link
                        .open_with(raw::secondary_stream(lease, fill.start, &fill.bytes(0, part)))
                        .is_none()
                {
                    return false;
                }
                serving.fills.remove(&lease);
            }
            Kind::ShortFin | Kind::ResetLease => {
                if fill.len < 2 || !whole {
                    return false;
                }
                let part = d.below(fill.len);
                let Some(stream) =
                    link.open_with(raw::secondary_stream(lease, fill.start, &fill.bytes(0, part)))
                else {
                    return false;
                };
                serving.fills.remove(&lease);
                if kind == Kind::ShortFin {
                    link.finish(stream);
                } else {
                    // What was written goes with the reset; the header must not, or the lease were never opened.
                    link.flush();
                    let refused = pb::LeaseRefused { lease: Some(lease), code: Some(77) };
                    link.send(Type::LeaseRefused, &refused);
                    link.reset(stream, 77);
                }
            }
            Kind::PastCredit => {
                let (start, len) = (fill.start, fill.len);
                let Some((held, _)) = self.held else {
                    self.held = Some((lease, stage.cx.at + HELD_MAX));
                    return false;
                };
                // The reader cannot pass what is held back, so credit ends a window behind it at most.
                let from = serving.fills.get(&held).map(|fill| fill.start).unwrap_or_default();
                if start + len <= from + SESSION_WINDOW {
                    return false;
                }
                let Some(fill) = serving.fills.get(&lease) else {
                    return false;
                };
                return link.open_with(raw::secondary_stream(lease, start, &fill.bytes(0, len))).is_some();
            }
            Kind::MixedFlood => {
                let mut flood = Flood::draw(Target::ClientOfSecondary, d);
                let facts = Facts { job: serving.last_job, lease: serving.highest, ..Facts::default() };
                flood.begin(stage.cx.at, facts);
                stage.seen.flood = Some((flood.to_string(), VICTIM));
                self.flood = Some((key, flood));
            }
            Kind::FallSilent => stage.seen.silent = true,
            Kind::ControlEnd => match d.below(3) {
                0 => link.finish(control()),
                1 => link.reset(control(), 7),
                _ => link.stop(control(), 7),
            },
            Kind::ControlFlood => {
                link.write(control(), frames::flood(Actor::Secondary, serving.last_job, FLOOD, d));
                self.look_at = Some(stage.cx.at + Duration::from_secs(1));
            }
            Kind::OthersJob => {
                // Job ids rise in a session: those next to our own are somebody else's.
                for job in serving.last_job.saturating_sub(2)..=serving.last_job + 2 {
                    if !serving.jobs.contains_key(&job) {
                        let refused = pb::JobRefused { job: Some(job), code: Some(1) };
                        link.send(Type::JobRefused, &refused);
                    }
                }
            }
            Kind::ForgedRefusal => {
                let lease = Some(serving.highest + d.magnitude(1000, 1 << 40));
                link.send(Type::LeaseRefused, &pb::LeaseRefused { lease, code: Some(1) });
            }
            Kind::LateAnswers => {
                for _ in 0..d.between(1, 50) {
                    let job = Some(serving.last_job + d.magnitude(1000, 1 << 40));
                    link.send(Type::JobAccepted, &pb::JobAccepted { job });
                    link.send(Type::JobAccepted, &pb::JobAccepted { job: Some(serving.last_job) });
                }
            }
            Kind::RelayFlood => {
                // More at once than one sender has, none of them whole.
                for _ in 0..=kwik_core::limits::RELAY_STREAMS {
                    let bytes = frames::header(Kind::RelayOwn, Actor::Secondary, d).unwrap_or_default();
                    if link.open_with(bytes).is_none() {
                        return false;
                    }
                }
            }
            Kind::HeaderlessStreams => {
                let len = d.below(2);
                let mut opened = Vec::new();
                while let Some(stream) = link.open(quinn_proto::Dir::Uni) {
                    opened.push(stream);
                }
                // The last one opens all the others with it.
                let last = opened.last().copied();
                opened.retain(|stream| Some(*stream) == last || d.chance(500));
                for stream in &opened {
                    link.write(*stream, vec![0x40; usize::try_from(len).unwrap_or(0) + 1]);
                }
                let many = opened.len() > 600;
                assert!(!many, "39b: {} streams at once", opened.len());
                assert!(
                    link.open(quinn_proto::Dir::Bi).is_none(),
                    "4: a secondary may open streams both ways"
                );
                assert_eq!(link.conn.datagrams().max_size(), None, "4: a secondary may send datagrams");
                // The slots must come back, or its own leases had none.
                for stream in opened {
                    link.reset(stream, 1);
                }
            }
            Kind::RudeClose => {
                let code = match d.below(3) {
                    0 => ErrorCode::INTERNAL,
                    1 => ErrorCode::from_u32(5),
                    _ => ErrorCode::from_u32(0),
                };
                stage.close(key, code, b"\x1b[2J\r\nkwik: all is well \xff\xfe");
            }
            _ => return false,
        }
        true
    }

    /// Writes what has credit.
    fn fill(&mut self, stage: &mut Stage<'_, '_>, key: usize) {
        let (Some(serving), Some(link)) = (self.peers.get_mut(&key), stage.links.get_mut(&key)) else {
            return;
        };
        let held = self.held.map(|(lease, _)| lease).filter(|_| serving.victim);
        let offsets = &serving.offsets;
        serving.fills.retain(|&lease, fill| {
            let allowed = fill.allowed(offsets.get(&fill.stream).copied().unwrap_or_default());
            if held == Some(lease) || allowed <= fill.sent {
                return true;
            }
            let Some(internal) = fill.internal.or_else(|| link.open_with(header(lease, fill.start))) else {
                return true;
            };
            fill.internal = Some(internal);
            link.write(internal, fill.bytes(fill.sent, allowed - fill.sent));
            fill.sent = allowed;
            if fill.sent == fill.len {
                link.finish(internal);
            }
            fill.sent < fill.len
        });
    }
}

fn header(lease: u64, offset: u64) -> Vec<u8> {
    raw::secondary_stream(lease, offset, &Bytes::new())
}

/// Bytes of a flood: more than QUIC holds of a stream that is not read.
pub(super) const FLOOD: usize = 400_000;
/// The session window of worlds in which credit is overrun.
pub(super) const SESSION_WINDOW: u64 = 256 * 1024;

impl Script for Secondary {
    fn fact(&mut self, stage: &mut Stage<'_, '_>, key: usize, fact: Fact) {
        match fact {
            Fact::Frame(kind, body) => self.frame(stage, key, kind, &body),
            Fact::Stopped(stream, code) => {
                let link: &mut Link = stage.link(key);
                link.reset(stream, code);
            }
            Fact::Closed(_) => {
                // An impostor, or one that speaks another protocol, never hears a word.
                let early = matches!(self.kind, Some(Kind::Impostor | Kind::ForeignAlpn | Kind::NoAlpn));
                stage.seen.fired |= early && stage.link(key).peer == VICTIM;
                self.peers.remove(&key);
            }
            Fact::Connected | Fact::Bytes(..) | Fact::Ended(..) => {}
        }
    }

    fn tick(&mut self, stage: &mut Stage<'_, '_>) {
        let now = stage.cx.at;
        let keys: Vec<usize> = self.peers.keys().copied().collect();
        if self.held.is_some_and(|(_, until)| until <= now) {
            self.held = None;
        }
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = None;
            let mut links = stage.links.values();
            stage.seen.held_back = links.any(|link| link.peer == VICTIM && link.waiting(control()) > 0);
        }
        for key in keys {
            self.fill(stage, key);
        }
        if let Some((key, flood)) = &mut self.flood
            && let Some(link) = stage.links.get_mut(key)
        {
            stage.seen.said += flood.pump(now, link, &mut self.dice);
        }
    }

    fn wake_at(&self) -> Option<Duration> {
        let held = self.held.map(|(_, until)| until);
        match (held, self.look_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}
