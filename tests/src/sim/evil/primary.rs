//! A primary by hand: names a secondary, splits one stream, leases a part of it and writes the rest, and at one point
//! does something else.

mod strike;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use kwik_core::{ByteRange, Side, Signer as _, SigningKey, StreamId};
use kwik_proto::v1 as pb;
use pb::{FrameType as Type, StreamHeaderType as Header};
use prost::Message as _;

use super::{
    Actor, EVIL_SECONDARY, Kind, VICTIM,
    flood::{Facts, Flood, Target},
    frames,
    link::{Fact, control},
    machine::{Script, Stage},
    secondary::FLOOD,
};
use crate::{
    raw,
    sim::{NodeId, dice::Dice, oracle::Flow, tls},
    wire,
};

/// The script. It serves one session.
#[derive(Debug)]
pub(super) struct Primary {
    kind: Option<Kind>,
    /// The attack ends the session.
    fatal: bool,
    dice: Dice,
    signer: Arc<SigningKey>,
    session: [u8; 16],
    client_key: [u8; 32],
    serving: Option<Serving>,
    look_at: Option<Duration>,
    /// Runs that wait for a slot.
    queue: Vec<Vec<u8>>,
    flood: Option<Flood>,
}

/// The session and its stream.
#[derive(Debug)]
struct Serving {
    key: usize,
    flow: Flow,
    native: quinn_proto::StreamId,
    head: u64,
    size: u64,
    split: bool,
    /// The lease of each part, and whether its answer has come.
    leased: Vec<(ByteRange, bool)>,
    written: bool,
    finished: bool,
}

impl Serving {
    fn stream(&self) -> u64 {
        self.flow.stream.into_inner()
    }

    fn bytes(&self, start: u64, end: u64) -> Bytes {
        ByteRange::between(start, end).map(|range| self.flow.bytes(range)).unwrap_or_default()
    }

    fn run(&self, start: u64, bytes: &[u8]) -> Vec<u8> {
        let open = pb::InternalOpen { stream: Some(self.stream()), offset: Some(start) };
        let mut run = wire::header(Header::InternalOpen, &open);
        run.extend_from_slice(bytes);
        run
    }
}

/// The path to the secondary.
const PATH: u32 = 1;
/// The job of its leases: above the first, so that one can fall below.
const JOB: u64 = 5;
/// The secondary that is named.
const SECONDARY: NodeId = NodeId::secondary(1);

impl Primary {
    /// Creates a script that comes to `kind`, or to nothing.
    pub(super) fn new(kind: Option<Kind>, fatal: bool, mut dice: Dice, signer: Arc<SigningKey>) -> Self {
        let mut session = [0; 16];
        dice.fill(&mut session);
        Self {
            kind,
            fatal,
            dice,
            signer,
            session,
            client_key: [0; 32],
            serving: None,
            look_at: None,
            queue: Vec::new(),
            flood: None,
        }
    }

    fn hello(&mut self, stage: &mut Stage<'_, '_>, key: usize, body: &[u8]) {
        let hello = pb::ClientHello::decode(body).expect("an honest hello");
        self.client_key = hello.client_key().try_into().expect("an honest hello");
        let wrong = self.kind == Some(Kind::WrongVersion);
        let version = if wrong { u32::try_from(self.dice.between(2, 1 << 32)).unwrap_or(0) } else { 1 };
        let session = Some(Bytes::copy_from_slice(&self.session));
        let answer = pb::ServerHello {
            version: Some(version),
            features: Some(frames::FEATURES),
            session,
            app_protocol: None,
        };
        let add = self.add_path(stage, SECONDARY, PATH);
        stage.seen.fired |= wrong;
        let link = stage.link(key);
        link.send(Type::ServerHello, &answer);
        link.send(Type::AddPath, &add);
        let native = link.open(quinn_proto::Dir::Uni).expect("a client permits streams");
        let peer = link.peer;
        let id = StreamId::from_u64(quinn_proto::VarInt::from(native).into_inner()).expect("a stream id");
        let flow = Flow { client: peer, session: 0, stream: id, sender: Side::Server };
        let head = self.dice.below(20_000);
        let size = head + self.dice.between(60_000, 160_000);
        let serving = Serving {
            key,
            flow,
            native,
            head,
            size,
            split: false,
            leased: Vec::new(),
            written: false,
            finished: false,
        };
        let mut bytes = wire::header(Header::PublicStream, &pb::PublicStream {});
        bytes.extend_from_slice(&serving.bytes(0, head));
        link.write(native, bytes);
        stage.cx.oracle.opened(flow);
        stage.cx.oracle.given(flow, size);
        self.serving = Some(serving);
    }

    /// Names a secondary, with a ticket that is in order.
    fn add_path(&mut self, stage: &Stage<'_, '_>, node: NodeId, path: u32) -> pb::AddPath {
        let identity = stage.cx.book.identity(node).expect("a secondary has an identity");
        let address = stage.cx.book.address(node);
        let issued = (tls::WALL_EPOCH + stage.cx.at).as_secs();
        let mut nonce = [0; 16];
        self.dice.fill(&mut nonce);
        let ticket = raw::Ticket {
            session: self.session,
            path,
            audience: identity.key,
            client_key: kwik_core::PublicKey::new(self.client_key),
            issued,
            expires: issued + 60,
            nonce,
        };
        let ip = match address.ip() {
            std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
            std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        pb::AddPath {
            path: Some(path),
            addresses: vec![pb::SocketAddress { ip: Some(ip.into()), port: Some(address.port().into()) }],
            server_name: Some(identity.name.clone()),
            pins: vec![Bytes::copy_from_slice(identity.key.as_bytes())],
            ticket: Some(ticket.seal(&*self.signer).into()),
        }
    }

    fn job(&self, stage: &Stage<'_, '_>, serving: &Serving, job: u64) -> pb::JobOpen {
        let expiry = (tls::WALL_EPOCH + stage.cx.at).as_secs() + 600;
        let (start, end) = (serving.head, serving.size);
        let total = 4 * end;
        let payload = serving.flow.object().payload();
        let mut message = [b"kwik/1 job\0", &self.session[..], &PATH.to_be_bytes()].concat();
        for number in [job, serving.stream(), start, end, total, expiry] {
            message.extend(number.to_be_bytes());
        }
        message.extend_from_slice(&payload);
        pb::JobOpen {
            job: Some(job),
            path: Some(PATH),
            stream: Some(serving.stream()),
            range: raw::range(start, end - start),
            total: Some(total),
            expiry: Some(expiry),
            payload: Some(payload),
            seal: Some(Bytes::copy_from_slice(self.signer.sign(&message).as_bytes())),
        }
    }

    fn frame(&mut self, stage: &mut Stage<'_, '_>, key: usize, kind: Type, body: &[u8]) {
        if kind == Type::ClientHello {
            return self.hello(stage, key, body);
        }
        let Some(mut serving) = self.serving.take() else {
            return;
        };
        #[expect(clippy::wildcard_enum_match_arm, reason = "the rest needs no answer")]
        match kind {
            Type::PathReport => {
                let report = pb::PathReport::decode(body).expect("an honest frame");
                if report.path() == PATH && report.state() == pb::PathState::Active {
                    let (stream, offset) = (Some(serving.stream()), Some(serving.head));
                    stage.link(key).send(Type::Split, &pb::Split { stream, offset });
                }
            }
            Type::SplitAck if !serving.split => {
                serving.split = true;
                self.begin(stage, &mut serving);
            }
            Type::LeaseDone => {
                let done = pb::LeaseDone::decode(body).expect("an honest frame");
                self.answered(stage, &mut serving, done.lease(), &[]);
            }
            Type::LeaseLost => {
                let lost = pb::LeaseLost::decode(body).expect("an honest frame");
                self.answered(stage, &mut serving, lost.lease(), &lost.missing);
            }
            Type::StreamComplete => stage.link(key).finish(serving.native),
            _ => {}
        }
        self.serving = Some(serving);
    }

    /// The stream is split: leases a part of it, and begins to write the rest.
    fn begin(&mut self, stage: &mut Stage<'_, '_>, serving: &mut Serving) {
        let early = self.kind.is_some_and(is_early);
        if early {
            self.strike(stage, serving);
        }
        let job = self.job(stage, serving, JOB);
        let link = stage.link(serving.key);
        link.send(Type::JobOpen, &job);
        let middle = (serving.head + serving.size) / 2;
        let half = (serving.head + middle) / 2;
        let leased = [(serving.head, half), (half, middle)];
        for (index, (start, end)) in leased.into_iter().enumerate() {
            let range = ByteRange::between(start, end).expect("a range");
            serving.leased.push((range, false));
            let grant = frames::grant(Some(index as u64 + 10), Some(JOB), raw::range(start, end - start));
            link.send(Type::LeaseGrant, &grant);
        }
        if self.kind == Some(Kind::OverlappingRun) {
            // What is written first is true; it cannot be read yet, so that it is there to be compared.
            let (start, len) = (middle, 1000);
            let truth = serving.run(start, &serving.bytes(start, start + len));
            let lie = vec![0xee; usize::try_from(self.dice.between(1, len)).unwrap_or(1)];
            let lie = serving.run(start, &lie);
            for run in [truth, lie] {
                if let Some(stream) = link.open_with(run) {
                    link.finish(stream);
                }
            }
            stage.seen.fired = true;
        }
        if self.kind == Some(Kind::MixedFlood) {
            let mut flood = Flood::draw(Target::ClientOfPrimary, &mut self.dice);
            let (start, len) = (middle, serving.size - middle);
            let stream = serving.stream();
            let silent = stage.cx.book.address(EVIL_SECONDARY);
            let std::net::IpAddr::V4(ip) = silent.ip() else {
                return;
            };
            let silent = (ip.octets(), silent.port());
            flood.begin(stage.cx.at, Facts { path: PATH, stream, job: JOB, lease: 20, start, len, silent });
            stage.seen.flood = Some((flood.to_string(), VICTIM));
            stage.seen.fired = true;
            serving.written = true; // nothing else is to come of the session
            self.flood = Some(flood);
            return;
        }
        // Over a lease that lives there is something only while one does.
        let now = self.dice.chance(500) || self.kind == Some(Kind::OverlappingLease);
        if !early && now {
            self.strike(stage, serving);
        }
    }

    /// A lease has ended: what is missing of it is written here.
    fn answered(
        &mut self,
        stage: &mut Stage<'_, '_>,
        serving: &mut Serving,
        lease: u64,
        missing: &[pb::ByteRange],
    ) {
        let index = usize::try_from(lease.wrapping_sub(10)).unwrap_or(usize::MAX);
        let Some((_, ended)) = serving.leased.get_mut(index) else {
            return;
        };
        *ended = true;
        for range in missing {
            let (start, end) = (range.start(), range.start() + range.length());
            self.queue.push(serving.run(start, &serving.bytes(start, end)));
        }
        if !serving.leased.iter().all(|(_, ended)| *ended) || std::mem::replace(&mut serving.written, true) {
            return;
        }
        let (from, size) = ((serving.head + serving.size) / 2, serving.size);
        let cut = self.dice.between(from + 1, size);
        // Out of order, as nobody else may.
        for (start, end) in [(cut, size), (from, cut)] {
            if start < end {
                self.queue.push(serving.run(start, &serving.bytes(start, end)));
            }
        }
        self.pump(stage, serving.key);
        self.strike(stage, serving);
        // What comes behind could be seen before what ends the session; only an end brings some native bytes to light.
        if stage.seen.fired && self.fatal && self.kind != Some(Kind::NativePastSplit) {
            return;
        }
        if !std::mem::replace(&mut serving.finished, true) {
            stage.cx.oracle.finished(serving.flow);
            let body = pb::StreamFinal { stream: Some(serving.stream()), size: Some(size) };
            stage.link(serving.key).send(Type::StreamFinal, &body);
            self.last(stage, serving);
        }
    }

    fn pump(&mut self, stage: &mut Stage<'_, '_>, key: usize) {
        let Some(link) = stage.links.get_mut(&key) else {
            return;
        };
        while let Some(run) = self.queue.first().cloned() {
            let Some(stream) = link.open_with(run) else {
                return;
            };
            link.finish(stream);
            self.queue.remove(0);
        }
    }

    /// Does what has to come behind everything else.
    fn last(&mut self, stage: &mut Stage<'_, '_>, serving: &Serving) {
        let now = stage.cx.at;
        let link = stage.link(serving.key);
        match self.kind {
            Some(Kind::FinalTwice) => {
                let size = if self.dice.chance(500) {
                    serving.size + self.dice.magnitude(1, 1 << 40)
                } else {
                    serving.size - self.dice.between(1, serving.size - serving.head)
                };
                let body = pb::StreamFinal { stream: Some(serving.stream()), size: Some(size) };
                link.send(Type::StreamFinal, &body);
            }
            Some(Kind::ControlFlood) => {
                link.write(control(), frames::flood(Actor::Primary, 0, FLOOD, &mut self.dice));
                self.look_at = Some(now + Duration::from_secs(1));
            }
            _ => return,
        }
        stage.seen.fired = true;
    }
}

/// Returns whether an attack comes before anything was leased.
fn is_early(kind: Kind) -> bool {
    matches!(kind, Kind::FinalBelowSplit | Kind::RunBelowSplit | Kind::UnsplitRuns)
}

impl Script for Primary {
    fn fact(&mut self, stage: &mut Stage<'_, '_>, key: usize, fact: Fact) {
        match fact {
            Fact::Frame(kind, body) => self.frame(stage, key, kind, &body),
            Fact::Stopped(stream, code) => stage.link(key).reset(stream, code),
            Fact::Closed(_) => self.serving = None,
            Fact::Connected | Fact::Bytes(..) | Fact::Ended(..) => {}
        }
    }

    fn tick(&mut self, stage: &mut Stage<'_, '_>) {
        let now = stage.cx.at;
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = None;
            stage.seen.held_back = stage.links.values().any(|link| link.waiting(control()) > 0);
        }
        if let Some(key) = self.serving.as_ref().map(|serving| serving.key) {
            self.pump(stage, key);
            if let (Some(flood), Some(link)) = (&mut self.flood, stage.links.get_mut(&key)) {
                stage.seen.said += flood.pump(now, link, &mut self.dice);
            }
        }
    }

    fn wake_at(&self) -> Option<Duration> {
        self.look_at
    }
}
