//! A client by hand: attaches the secondaries it is told of, passes on jobs and leases, takes what comes, and at one
//! point does something else. It begins late, when the bystander is served.

mod attach;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use kwik_core::{Side, SigningKey, StreamId};
use kwik_proto::v1 as pb;
use pb::{FrameType as Type, StreamHeaderType as Header};
use prost::Message as _;

use super::{
    Actor, Kind,
    flood::{Facts, Flood, Target},
    frames,
    link::{Fact, Link, control},
    machine::{Script, Stage},
    secondary::FLOOD,
};
use crate::{
    raw,
    sim::{NodeId, dice::Dice, oracle::Flow},
    wire,
};

/// The script.
#[derive(Debug)]
pub(super) struct Client {
    kind: Option<Kind>,
    dice: Dice,
    key: SigningKey,
    /// Dials to come.
    dials: Vec<(Duration, NodeId)>,
    /// Frames of the primary to let pass before the attack.
    patience: u64,
    home: Option<usize>,
    session: Bytes,
    paths: BTreeMap<u32, Path>,
    jobs: BTreeMap<u64, (u32, u64)>,
    leases: BTreeMap<u64, u64>,
    streams: BTreeMap<u64, Incoming>,
    /// Streams being read: what is known of each, by connection.
    reading: BTreeMap<(usize, quinn_proto::StreamId), Reading>,
    look_at: Option<Duration>,
    /// Bytes that are said one by one, and the time of the next.
    drip: Option<(Duration, usize, Vec<u8>)>,
    resets: u64,
    /// Jobs that were there to forge.
    forged: usize,
    flood: Option<Flood>,
    /// Target of its flood, once that has begun.
    flooded: Option<usize>,
}

#[derive(Debug)]
struct Path {
    node: NodeId,
    ticket: Bytes,
    link: Option<usize>,
}

/// A split stream.
#[derive(Debug, Default)]
struct Incoming {
    got: u64,
    size: Option<u64>,
    complete: bool,
}

/// A stream whose header is being read, or has been.
#[derive(Debug, Default)]
struct Reading {
    head: Vec<u8>,
    stream: Option<u64>,
    lease: Option<u64>,
}

/// Jobs that are forged of one session: a server closes a path that brings it many.
const FORGED_MAX: usize = 8;

impl Client {
    /// Creates a script that comes to `kind`, or to nothing.
    pub(super) fn new(kind: Option<Kind>, mut dice: Dice) -> Self {
        let mut seed = [0; 32];
        dice.fill(&mut seed);
        let at = dice.time(Duration::from_millis(600), Duration::from_millis(900));
        Self {
            kind,
            key: SigningKey::from_seed(seed),
            dials: vec![(at, NodeId::PRIMARY)],
            patience: dice.below(6),
            flood: (kind == Some(Kind::MixedFlood)).then(|| {
                let target = dice.pick(&[Target::Primary, Target::Secondary]);
                Flood::draw(target, &mut dice)
            }),
            flooded: None,
            dice,
            home: None,
            session: Bytes::new(),
            paths: BTreeMap::new(),
            jobs: BTreeMap::new(),
            leases: BTreeMap::new(),
            streams: BTreeMap::new(),
            reading: BTreeMap::new(),
            look_at: None,
            drip: None,
            resets: 0,
            forged: 0,
        }
    }

    fn frame(&mut self, stage: &mut Stage<'_, '_>, key: usize, kind: Type, body: &[u8]) {
        if self.home == Some(key) {
            self.primary_frame(stage, key, kind, body);
            if self.patience > 0 {
                self.patience -= 1;
            } else {
                self.strike(stage, key, kind, body);
            }
            return;
        }
        let Some(home) = self.home.filter(|home| stage.links.contains_key(home)) else {
            return;
        };
        #[expect(clippy::wildcard_enum_match_arm, reason = "the rest needs no answer")]
        match kind {
            Type::ServerHello => {
                let path = self.paths.iter().find(|(_, path)| path.link == Some(key)).map(|(id, _)| *id);
                let report = pb::PathReport { path, state: Some(pb::PathState::Active.into()), code: None };
                stage.link(home).send(Type::PathReport, &report);
                self.attached(stage, key);
            }
            Type::JobAccepted | Type::JobRefused | Type::LeaseRefused => {
                stage.link(home).write(control(), wire::framed(kind as u64, body));
            }
            _ => {}
        }
    }

    fn primary_frame(&mut self, stage: &mut Stage<'_, '_>, key: usize, kind: Type, body: &[u8]) {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the rest needs no answer")]
        match kind {
            Type::ServerHello => {
                let hello = pb::ServerHello::decode(body).expect("an honest frame");
                self.session = hello.session.unwrap_or_default();
            }
            Type::AddPath => {
                let add = pb::AddPath::decode(body).expect("an honest frame");
                let address = add.addresses.first().expect("an honest frame");
                let ip: [u8; 4] = address.ip().try_into().expect("an IPv4 address");
                let port = u16::try_from(address.port()).expect("a port");
                let node = stage.cx.book.find(SocketAddr::from((ip, port))).expect("a server");
                let delay = if self.kind == Some(Kind::ExpiredTicket) { 67 } else { 0 };
                self.paths
                    .insert(add.path(), Path { node, ticket: add.ticket.unwrap_or_default(), link: None });
                let first = self.paths.len() == 1;
                let to =
                    if self.kind == Some(Kind::AttachToPrimary) && first { NodeId::PRIMARY } else { node };
                self.dials.push((stage.cx.at + Duration::from_secs(delay), to));
            }
            Type::JobOpen => {
                let open = pb::JobOpen::decode(body).expect("an honest frame");
                self.jobs.insert(open.job(), (open.path(), open.stream()));
                // Few enough that they are all looked at, and cost no more than themselves.
                self.forged += usize::from(self.kind == Some(Kind::ForgedJob));
                let forges = (1..=FORGED_MAX).contains(&self.forged);
                let job = if forges { self.forge(open.clone()) } else { open.clone() };
                let Some(path) = self.link_of(open.path()).filter(|path| self.flooded != Some(*path)) else {
                    return;
                };
                stage.seen.fired |= job != open;
                stage.link(path).send(Type::JobOpen, &job);
            }
            Type::JobClose => {
                let close = pb::JobClose::decode(body).expect("an honest frame");
                let path = self.jobs.get(&close.job()).and_then(|(path, _)| self.link_of(*path));
                if let Some(path) = path {
                    stage.link(path).send(Type::JobClose, &close);
                }
            }
            Type::LeaseGrant => self.grant(stage, &pb::LeaseGrant::decode(body).expect("an honest frame")),
            Type::Split => {
                let split = pb::Split::decode(body).expect("an honest frame");
                self.streams.entry(split.stream()).or_default().got += split.offset();
                let credit = if self.kind == Some(Kind::AbsurdCounts) { (1 << 62) - 1 } else { 1 << 40 };
                stage.seen.fired |= self.kind == Some(Kind::AbsurdCounts);
                stage
                    .link(key)
                    .send(Type::SplitAck, &pb::SplitAck { stream: split.stream, credit: Some(credit) });
            }
            Type::StreamFinal => {
                let last = pb::StreamFinal::decode(body).expect("an honest frame");
                self.streams.entry(last.stream()).or_default().size = Some(last.size());
                self.check(stage, last.stream());
            }
            _ => {}
        }
    }

    fn link_of(&self, path: u32) -> Option<usize> {
        self.paths.get(&path)?.link
    }

    /// Changes one thing in a job; its seal does not fit any more.
    fn forge(&mut self, mut job: pb::JobOpen) -> pb::JobOpen {
        let d = &mut self.dice;
        let more = |field: Option<u64>, d: &mut Dice| field.map(|value| value + d.magnitude(1, 1 << 40));
        match d.below(6) {
            0 => job.range = raw::range(0, 1 << 40),
            1 => job.total = more(job.total, d),
            2 => job.expiry = more(job.expiry, d),
            3 => job.payload = Some(flip(job.payload(), d)),
            4 => job.stream = more(job.stream, d),
            _ => job.seal = Some(flip(job.seal(), d)),
        }
        job
    }

    fn grant(&mut self, stage: &mut Stage<'_, '_>, grant: &pb::LeaseGrant) {
        let Some(&(path, stream)) = self.jobs.get(&grant.job()) else {
            return;
        };
        let Some(link) = self.link_of(path).filter(|link| self.flooded != Some(*link)) else {
            return;
        };
        self.leases.insert(grant.lease(), stream);
        let range = grant.range.expect("an honest frame");
        if let Some(flood) = self.flood.as_mut().filter(|flood| !flood.has_begun()) {
            let key = if flood.target == Target::Primary { self.home.unwrap_or(link) } else { link };
            let (start, len) = (range.start(), range.length());
            let (job, lease) = (grant.job(), grant.lease());
            flood.begin(stage.cx.at, Facts { path, stream, job, lease, start, len, ..Facts::default() });
            self.flooded = Some(key);
            stage.seen.flood = Some((flood.to_string(), stage.link(key).peer));
            stage.seen.fired = true;
        }
        let d = &mut self.dice;
        let mut notice =
            pb::LeaseNotice { lease: grant.lease, job: grant.job, range: grant.range, credit: range.length };
        let link = stage.link(link);
        match self.kind {
            Some(Kind::WidenedLease) => {
                let beyond = range.start() + d.magnitude(1 << 30, 1 << 45);
                notice.range = raw::range(
                    if d.chance(500) { beyond } else { range.start() },
                    d.between(1 << 32, 1 << 34),
                );
            }
            Some(Kind::UnknownJob) => notice.job = Some(grant.job() + d.magnitude(1000, 1 << 40)),
            Some(Kind::LeaseIdFalls) => {
                link.send(Type::LeaseNotice, &notice);
                notice.lease = Some(grant.lease().saturating_sub(d.below(3)));
            }
            _ => {
                link.send(Type::LeaseNotice, &notice);
                return;
            }
        }
        link.send(Type::LeaseNotice, &notice);
        stage.seen.fired = true;
    }

    /// Does what the attack does on the primary path, once.
    fn strike(&mut self, stage: &mut Stage<'_, '_>, key: usize, after: Type, body: &[u8]) {
        let Some(kind) = self.kind.filter(|_| !stage.seen.fired) else {
            return;
        };
        let now = stage.cx.at;
        let d = &mut self.dice;
        let link: &mut Link = stage.link(key);
        if let Some(bytes) = frames::control(kind, Actor::Client, d) {
            link.write(control(), bytes);
            stage.seen.fired = true;
            return;
        }
        if let Some(bytes) = frames::header(kind, Actor::Client, d) {
            stage.seen.fired = link.open_with(bytes).is_some();
            return;
        }
        #[expect(clippy::wildcard_enum_match_arm, reason = "those are done elsewhere, or by others")]
        match kind {
            Kind::ControlEnd => match d.below(3) {
                0 => link.finish(control()),
                1 => link.reset(control(), 7),
                _ => link.stop(control(), 7),
            },
            Kind::ControlFlood => {
                link.write(control(), frames::flood(Actor::Client, 0, FLOOD, d));
                self.look_at = Some(now + Duration::from_secs(1));
            }
            Kind::FalseComplete if after == Type::LeaseGrant => {
                let stream = self.streams.iter().find(|(_, stream)| stream.size.is_none()).map(|(id, _)| *id);
                let Some(stream) = stream else {
                    return;
                };
                link.send(Type::StreamComplete, &pb::StreamComplete { stream: Some(stream) });
            }
            Kind::CreditOverflow => {
                let grant = match d.below(3) {
                    0 => {
                        let ack = pb::SplitAck { stream: Some(3), credit: Some(frames::beyond(d)) };
                        link.send(Type::SplitAck, &ack);
                        stage.seen.fired = true;
                        return;
                    }
                    1 => pb::credit::Grant::Run(pb::RunCredit {
                        stream: Some(3),
                        bytes: Some(frames::beyond(d)),
                    }),
                    _ => pb::credit::Grant::Offset(pb::OffsetCredit {
                        stream: Some(3),
                        offset: Some(frames::beyond(d)),
                    }),
                };
                link.send(Type::Credit, &pb::Credit { grant: Some(grant) });
            }
            Kind::ForgedDone => {
                let lease = Some(d.magnitude(1_000_000, 1 << 50));
                if d.chance(500) {
                    link.send(Type::LeaseDone, &pb::LeaseDone { lease });
                } else {
                    link.send(Type::LeaseRefused, &pb::LeaseRefused { lease, code: Some(1) });
                }
            }
            Kind::ForgedLoss if after == Type::LeaseGrant => {
                let grant = pb::LeaseGrant::decode(body).expect("an honest frame");
                let range = grant.range.expect("an honest frame");
                let missing = vec![pb::ByteRange {
                    start: Some(range.start() + range.length() - 1),
                    length: Some(d.magnitude(2, 1 << 40)),
                }];
                link.send(Type::LeaseLost, &pb::LeaseLost { lease: grant.lease, code: Some(1), missing });
            }
            Kind::ForgedMapping if after == Type::LeaseGrant => {
                let grant = pb::LeaseGrant::decode(body).expect("an honest frame");
                let stream = grant.job.and_then(|job| self.jobs.get(&job)).map(|(_, stream)| *stream);
                let Some(update) = forged_mapping(&grant, stream, d) else {
                    return;
                };
                if d.chance(300) {
                    let received = grant.range.into_iter().collect();
                    let unasked = pb::OffsetSyncResponse { stream, received, more: Some(false) };
                    link.send(Type::OffsetSyncResponse, &unasked);
                }
                link.send(Type::StreamMappingUpdate, &update);
            }
            Kind::ForgedProgress if after == Type::LeaseGrant => {
                let grant = pb::LeaseGrant::decode(body).expect("an honest frame");
                // Of one that nobody asked about, or that there is not.
                let lease = if d.chance(500) { grant.lease } else { Some(d.magnitude(1_000_000, 1 << 50)) };
                link.send(Type::ProgressReport, &frames::progress(lease, Some(1)));
            }
            Kind::ResetFlood => {
                self.resets = d.between(100, 1500);
            }
            _ => return,
        }
        stage.seen.fired = true;
    }

    /// Opens streams and gives them up at once.
    fn flood(&mut self, stage: &mut Stage<'_, '_>) {
        let Some(key) = self.home.filter(|key| self.resets > 0 && stage.links.contains_key(key)) else {
            return;
        };
        while self.resets > 0 {
            let header = wire::header(Header::PublicStream, &pb::PublicStream {});
            let Some(stream) = stage.link(key).open_with(header) else {
                return; // more once the server lets
            };
            self.resets -= 1;
            let id = StreamId::from_u64(quinn_proto::VarInt::from(stream).into_inner()).expect("a stream id");
            let flow = Flow { client: stage.cx.node, session: 0, stream: id, sender: Side::Client };
            stage.cx.oracle.opened(flow);
            stage.cx.oracle.reset(flow, kwik_core::ErrorCode::from_u32(7));
            let link = stage.link(key);
            link.flush();
            link.reset(stream, 7);
        }
    }

    /// Bytes of a stream that is not control.
    fn bytes(&mut self, stage: &mut Stage<'_, '_>, key: usize, id: quinn_proto::StreamId, bytes: &[u8]) {
        let reading = self.reading.entry((key, id)).or_default();
        let mut len = bytes.len() as u64;
        if reading.stream.is_none() {
            reading.head.extend_from_slice(bytes);
            let Some((kind, body)) = wire::take_frame(&mut reading.head) else {
                return;
            };
            len = reading.head.len() as u64;
            if self.home != Some(key) {
                let open = pb::SecondaryStreamOpen::decode(&*body).expect("an honest header");
                reading.lease = open.lease;
                reading.stream = self.leases.get(&open.lease()).copied();
            } else if kind as u64 == Header::InternalOpen as u64 {
                reading.stream = pb::InternalOpen::decode(&*body).expect("an honest header").stream;
            } else {
                // Native bytes are counted with the split.
                reading.stream = Some(u64::MAX);
            }
        }
        let Some(stream) = reading.stream.filter(|stream| *stream != u64::MAX) else {
            return;
        };
        self.streams.entry(stream).or_default().got += len;
        self.check(stage, stream);
    }

    /// Says that a stream is complete, once it is.
    fn check(&mut self, stage: &mut Stage<'_, '_>, id: u64) {
        let (Some(home), Some(stream)) = (self.home, self.streams.get_mut(&id)) else {
            return;
        };
        if stream.size == Some(stream.got) && !std::mem::replace(&mut stream.complete, true) {
            stage.seen.served = true;
            if let Some(link) = stage.links.get_mut(&home) {
                link.send(Type::StreamComplete, &pb::StreamComplete { stream: Some(id) });
            }
        }
    }
}

/// Returns the bytes with one bit flipped.
fn flip(bytes: &[u8], d: &mut Dice) -> Bytes {
    let mut bytes = bytes.to_vec();
    let bit = d.index(bytes.len() * 8);
    if let Some(byte) = bytes.get_mut(bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
    bytes.into()
}

impl Script for Client {
    fn fact(&mut self, stage: &mut Stage<'_, '_>, key: usize, fact: Fact) {
        match fact {
            Fact::Connected => self.connected(stage, key),
            Fact::Frame(kind, body) => self.frame(stage, key, kind, &body),
            Fact::Bytes(stream, bytes) => self.bytes(stage, key, stream, &bytes),
            Fact::Ended(stream, reset) => {
                let lease = self.reading.remove(&(key, stream)).and_then(|reading| reading.lease);
                let home = self.home.filter(|home| reset.is_none() && stage.links.contains_key(home));
                if let (Some(lease), Some(home)) = (lease, home) {
                    stage.link(home).send(Type::LeaseDone, &pb::LeaseDone { lease: Some(lease) });
                }
            }
            Fact::Stopped(stream, code) => stage.link(key).reset(stream, code),
            Fact::Closed(_) => {
                for path in self.paths.values_mut().filter(|path| path.link == Some(key)) {
                    path.link = Some(usize::MAX); // never again
                }
                self.paths.retain(|_, path| path.link != Some(usize::MAX));
            }
        }
    }

    fn tick(&mut self, stage: &mut Stage<'_, '_>) {
        let now = stage.cx.at;
        let due = self.dials.extract_if(.., |(at, _)| *at <= now);
        stage.dials.extend(due.map(|(_, node)| node));
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = None;
            let home = self.home.and_then(|home| stage.links.get(&home));
            stage.seen.held_back = home.is_some_and(|link| link.waiting(control()) > 0);
        }
        if let Some((at, pause, bytes)) = self.drip.as_mut().filter(|(at, ..)| *at <= now) {
            let first: Vec<u8> = bytes.drain(..bytes.len().min(1)).collect();
            *at = now + Duration::from_millis(*pause as u64);
            match self.home.and_then(|home| stage.links.get_mut(&home)).filter(|_| !first.is_empty()) {
                Some(link) => link.write(control(), first),
                None => self.drip = None,
            }
        }
        self.flood(stage);
        let link = self.flooded.and_then(|key| stage.links.get_mut(&key));
        if let (Some(flood), Some(link)) = (&mut self.flood, link) {
            stage.seen.said += flood.pump(now, link, &mut self.dice);
        }
    }

    fn wake_at(&self) -> Option<Duration> {
        let dial = self.dials.iter().map(|(at, _)| *at).min();
        let drip = self.drip.as_ref().map(|(at, ..)| *at);
        [dial, drip, self.look_at].into_iter().flatten().min()
    }
}

/// A mapping update that cannot be: of another lease, of another stream, longer than the lease, or a cut that would take
/// its front.
fn forged_mapping(
    grant: &pb::LeaseGrant,
    stream: Option<u64>,
    d: &mut Dice,
) -> Option<pb::StreamMappingUpdate> {
    let (start, length) = grant.range.map(|range| (range.start(), range.length())).unwrap_or_default();
    let mut update = pb::StreamMappingUpdate {
        operation: Some(i32::try_from(d.between(1, 4)).unwrap_or(1)),
        stream,
        lease: grant.lease,
        range: grant.range,
    };
    match d.below(4) {
        0 => update.lease = Some(d.magnitude(1_000_000, 1 << 50)),
        1 => update.stream = Some(401),
        2 => update.range = raw::range(start, length + d.magnitude(1, 1 << 30)),
        _ if length > 1 => {
            update.operation = Some(pb::MappingOperation::Update.into());
            update.range = raw::range(start + 1, length - 1);
        }
        _ => return None,
    }
    Some(update)
}
