//! Statement of what must be true, said plainly: a model of every stream, without any of the protocol.
//!
//! The bytes of a stream follow from its name, so a reader's bytes are checked where they are read. Each check panics
//! with the number of the invariant it belongs to; the numbers are those of the reliability brief: 1 exactness,
//! 2 once, 3 no phantom, 4 end, 5 map, 6 memory, 7 credit, 8 ownership, 9 egress, 10 honesty, 11 containment,
//! 12 no busy loop, 13 clean-up, 14 states, 15 no panic, 16 determinism, 17 nobody honest is held back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use bytes::Bytes;
use kwik_core::{
    ByteRange, Chunk, ConnectionError, Dir, ErrorCode, LeaseId, PathId, PathState, ReadError, Side, StreamId,
};
use rangemap::RangeSet;

use super::{NodeId, app::Reading, heap};
use crate::object::Object;

/// Names one direction of one stream of one client's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// Client whose session it is.
    pub client: NodeId,
    /// Number of the session, if the client connects more than once.
    pub session: u32,
    /// Name of the stream.
    pub stream: StreamId,
    /// End that sends.
    pub sender: Side,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{} from {:?}", self.client, self.session, self.stream, self.sender)
    }
}

impl Flow {
    /// Returns the object that the stream carries.
    #[must_use]
    pub fn object(self) -> Object {
        let client = u64::from(self.client.0) << 32 | u64::from(self.session);
        let stream = self.stream.into_inner() << 1 | u64::from(self.sender == Side::Server);
        Object(client.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream.wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    /// Returns the bytes of `range` of the stream.
    #[must_use]
    pub fn bytes(self, range: ByteRange) -> Bytes {
        self.object().bytes(range)
    }
}

/// Model of one direction of one stream.
#[derive(Debug, Default)]
struct Model {
    opened: bool,
    /// The highest end that anybody was given or wrote.
    end: u64,
    finished: bool,
    reset: Option<ErrorCode>,
    stopped: Option<ErrorCode>,
    accepted: bool,
    /// Ranges that the reader has got.
    got: RangeSet<u64>,
    /// The next offset of an ordered reader.
    next: u64,
    /// The reader saw the end, or an error.
    ended: bool,
    /// Nobody is there to read it to its end.
    unread: bool,
    /// Its reader is there and does not read.
    left: bool,
    /// Manner in which its sender would have it read.
    asked: Option<Reading>,
}

impl Model {
    /// Returns whether nothing more is to be expected.
    fn is_over(&self, flow: &Flow) -> bool {
        // A unidirectional stream that was reset before its header came is nobody's to see. Spec: PROTOCOL §4.
        let unseen = self.reset.is_some() && !self.accepted && flow.stream.dir() == Dir::Uni;
        let going = self.finished || self.reset.is_some();
        self.ended || self.unread || self.left || self.stopped.is_some() || unseen || !going
    }
}

/// The model of all streams of a world.
#[derive(Debug, Default)]
pub struct Oracle {
    flows: BTreeMap<Flow, Model>,
    paths: BTreeMap<(NodeId, u32, PathId), PathState>,
    /// Machines that may break rules: faults of whoever they talk to are theirs.
    hostile: BTreeSet<NodeId>,
    delivered: u64,
    /// Bytes on their way to each client or from it, or there and unread.
    unread: BTreeMap<NodeId, u64>,
    /// Bytes of messages between servers that are with each client, or on their way there.
    relayed: BTreeMap<NodeId, u64>,
    /// Sessions in which nobody will read what this side sends from now on.
    gone: BTreeSet<(NodeId, u32, Side)>,
}

impl Oracle {
    /// Notes that `node` does not keep to the rules.
    pub fn set_hostile(&mut self, node: NodeId) {
        self.hostile.insert(node);
    }

    /// Returns whether `node` keeps to the rules.
    #[must_use]
    pub fn is_honest(&self, node: NodeId) -> bool {
        !self.hostile.contains(&node)
    }

    /// Returns whether everybody keeps to the rules.
    #[must_use]
    pub fn is_all_honest(&self) -> bool {
        self.hostile.is_empty()
    }

    /// Returns how many bytes readers have got in all.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    // What senders do.

    /// A sender opened a stream.
    pub fn opened(&mut self, flow: Flow) {
        let unread = self.gone.contains(&(flow.client, flow.session, flow.sender));
        // The reader's end may have stopped it before its sender did anything with it.
        let model = self.entry(flow);
        assert!(!std::mem::replace(&mut model.opened, true), "3: {flow} was opened twice");
        model.unread |= unread;
    }

    /// The sender would have the stream read like that.
    pub fn ask(&mut self, flow: Flow, reading: Reading) {
        self.model(flow).asked = Some(reading);
    }

    /// Returns how its sender would have a stream read, if it has said so.
    #[must_use]
    pub fn asked(&self, flow: Flow) -> Option<Reading> {
        self.flows.get(&flow)?.asked
    }

    /// Bytes up to `end` were written, or given to somebody to write.
    pub fn given(&mut self, flow: Flow, end: u64) {
        let model = self.model(flow);
        let more = end.saturating_sub(model.end);
        model.end += more;
        *self.unread.entry(flow.client).or_default() += more;
    }

    /// Returns the most heap that a client's sessions may take among honest machines: what may be on its way to it or from it, with room for
    /// buffers that are longer than what they hold, and a fixed part for connections and books, and one for each stream.
    #[must_use]
    pub fn heap_max(&self, client: NodeId) -> i64 {
        if !self.hostile.is_empty() {
            return i64::MAX; // what scripts send is not known here; evil worlds have a bound of their own
        }
        let unread = self.unread.get(&client).copied().unwrap_or_default();
        let unread = unread + self.relayed.get(&client).copied().unwrap_or_default();
        let books = i64::try_from(self.flows.len()).unwrap_or(i64::MAX).saturating_mul(HEAP_PER_FLOW);
        i64::try_from(unread * 3 / 2).unwrap_or(i64::MAX).saturating_add(HEAP_FIXED).saturating_add(books)
    }

    /// A server has sent a message by way of a client; with `arrived` it is where it should be. One that is lost stays
    /// counted.
    pub fn relayed(&mut self, client: NodeId, bytes: usize, arrived: bool) {
        heap::uncounted(|| {
            let under_way = self.relayed.entry(client).or_default();
            let bytes = bytes as u64;
            *under_way = if arrived { under_way.saturating_sub(bytes) } else { *under_way + bytes };
        });
    }

    /// The sender said that nothing more comes.
    pub fn finished(&mut self, flow: Flow) {
        self.model(flow).finished = true;
    }

    /// The sender gave the stream up.
    pub fn reset(&mut self, flow: Flow, code: ErrorCode) {
        self.model(flow).reset = Some(code);
    }

    // What readers do and see.

    /// The reader's end showed a stream to its application.
    pub fn accepted(&mut self, flow: Flow) {
        let Some(model) = self.flows.get_mut(&flow).filter(|model| model.opened) else {
            panic!("3: {flow} was accepted and never opened");
        };
        assert!(!std::mem::replace(&mut model.accepted, true), "3: {flow} was accepted twice");
        model.unread = false;
    }

    /// The reader got bytes.
    pub fn read(&mut self, flow: Flow, ordered: bool, chunk: &Chunk) {
        let Some(range) = ByteRange::new(chunk.offset, chunk.bytes.len() as u64) else {
            panic!("1: {flow} gave an empty chunk, or one beyond all offsets, at {}", chunk.offset);
        };
        assert!(flow.object().matches(range.start(), &chunk.bytes), "1: {flow} has wrong bytes in {range}");
        let model = self.model(flow);
        assert!(
            range.end() <= model.end,
            "1: {flow} gave {range}, and nobody has written past {}",
            model.end
        );
        let std_range = range.start()..range.end();
        assert!(!model.got.overlaps(&std_range), "2: {flow} gave {range} again");
        assert!(!ordered || range.start() == model.next, "2: {flow} gave {range} before {}", model.next);
        assert!(!model.ended, "4: {flow} gave {range} after its end");
        heap::uncounted(|| model.got.insert(std_range));
        model.next = range.end();
        self.delivered += range.len();
        if let Some(unread) = self.unread.get_mut(&flow.client) {
            *unread = unread.saturating_sub(range.len());
        }
    }

    /// The reader saw the end of the stream.
    pub fn ended(&mut self, flow: Flow) {
        let model = self.model(flow);
        assert!(model.finished, "4: {flow} ended, and was not finished");
        assert!(!model.ended, "4: {flow} ended twice");
        let missing = model.got.gaps(&(0..model.end)).next();
        assert!(missing.is_none(), "4: {flow} ended without {missing:?} of 0..{}", model.end);
        model.ended = true;
    }

    /// The reader lets it lie: nobody else may have to wait for that.
    pub fn left(&mut self, flow: Flow) {
        self.entry(flow).left = true;
    }

    /// Returns whether the reader of a stream lets it lie.
    #[must_use]
    pub fn is_left(&self, flow: &Flow) -> bool {
        self.flows.get(flow).is_some_and(|model| model.left)
    }

    /// The reader wants no more.
    pub fn stopped(&mut self, flow: Flow, code: ErrorCode) {
        self.entry(flow).stopped = Some(code);
    }

    /// A stream was stopped because the reader's end had no credit left for it. If its first bytes were lost as well, there was
    /// nothing to accept. Spec: PROTOCOL §4.
    pub fn turned_away(&mut self, flow: Flow) {
        let model = self.model(flow);
        if !model.accepted {
            model.stopped = Some(ErrorCode::NO_CREDIT);
            model.unread = true;
        }
    }

    /// The reader was told that nobody brings what it waits for, for now. Spec: PROTOCOL §6, "Gaps".
    pub fn waits(&mut self, flow: Flow, missing: ByteRange) {
        let model = self.model(flow);
        assert!(!model.ended, "4: {flow} waits for {missing} after its end");
        let hole = model.got.gaps(&(0..u64::MAX)).next();
        assert_eq!(hole.map(|hole| hole.start), Some(missing.start()), "10: {flow} misses {missing}");
    }

    /// The reader saw an error that ends it.
    pub fn failed(&mut self, flow: Flow, error: &ReadError, lost: Option<&ConnectionError>) {
        let model = self.model(flow);
        assert!(!model.ended, "4: {flow} failed after its end: {error}");
        match error {
            // A stream more than the client can guarantee credit for is given up, alone. Spec: PROTOCOL §4.
            ReadError::Reset(ErrorCode::NO_CREDIT) => {
                assert_eq!(flow.sender, Side::Server, "10: {flow} cannot be short of credit");
            }
            ReadError::Reset(code) => {
                assert_eq!(model.reset, Some(*code), "4: {flow} was not reset like that");
            }
            ReadError::ConnectionLost(_) => {
                assert!(lost.is_some(), "10: {flow} failed in a session that lives: {error}");
            }
            ReadError::Incomplete { stream, missing, .. } => {
                assert!(lost.is_some(), "10: {flow} failed in a session that lives: {error}");
                assert_eq!(*stream, flow.stream, "10: {flow} failed with another's hole");
                let hole = model.got.gaps(&(0..u64::MAX)).next();
                // What was never given to anybody is missing as well, as far as a reader can tell.
                assert_eq!(hole.map(|hole| hole.start), Some(missing.start()), "10: {flow} misses {missing}");
            }
            ReadError::Blocked
            | ReadError::ClosedStream
            | ReadError::IllegalOrderedRead
            | ReadError::ZeroRttRejected => {
                panic!("10: {flow} failed with {error:?}")
            }
            ReadError::Conflict { .. } => panic!("10: honest servers disagree: {error}"),
            _ => panic!("{flow} failed with an error that the oracle does not know: {error:?}"),
        }
        model.ended = true;
    }

    // Sessions and paths.

    /// The state of a path changed. Spec: PROTOCOL §8.
    pub fn path(&mut self, client: NodeId, session: u32, path: PathId, state: PathState, server: NodeId) {
        use PathState::{Active, Connecting, Dead, Degraded, Draining};
        let before = heap::uncounted(|| self.paths.insert((client, session, path), state));
        let before = before.unwrap_or(Connecting);
        let edge = match (before, state) {
            (a, b) if a == b => true,
            (Connecting | Degraded, Active) | (Active, Degraded) => true,
            (Connecting | Active | Degraded, Draining) => true,
            (Connecting | Active | Degraded | Draining, Dead(_)) => true,
            _ => false,
        };
        // A client that lies about its paths misleads its own session.
        let edge = edge || !self.is_honest(client);
        assert!(edge, "14: {path} of {client} went from {before:?} to {state:?}");
        if let Dead(code) = state {
            let named = format_args!("{path} of {client} to {server}").to_string();
            self.check_honest(&[client, NodeId::PRIMARY, server], code, &named);
        }
    }

    /// Returns what is known of a path of a client's session.
    #[must_use]
    pub fn path_state(&self, client: NodeId, session: u32, path: PathId) -> Option<PathState> {
        self.paths.get(&(client, session, path)).copied()
    }

    /// A session ended with a code: between honest ends it is never one that says somebody broke a rule.
    pub fn check_honest(&self, ends: &[NodeId], code: ErrorCode, what: &str) {
        assert_ne!(code, ErrorCode::INTERNAL, "15: {what} ended with INTERNAL");
        if ends.iter().any(|end| self.hostile.contains(end)) {
            return;
        }
        assert!(!is_violation(code), "10: {what} ended with {code} between honest ends");
    }

    /// As [`Self::check_honest`], for a whole session, which honest ends never lose to a cap either.
    pub fn check_honest_session(&self, ends: &[NodeId], code: ErrorCode, what: &str) {
        self.check_honest(ends, code, what);
        let honest = !ends.iter().any(|end| self.hostile.contains(end));
        let cap = [
            ErrorCode::LIMIT_EXCEEDED,
            ErrorCode::DIAL_REFUSED,
            ErrorCode::NO_CREDIT,
            ErrorCode::PATH_NOT_FOUND,
        ]
        .contains(&code);
        assert!(!honest || !cap, "10: {what} ended with {code} between honest ends");
    }

    /// A lease was lost: with nobody hostile about, never because somebody broke a rule.
    pub fn check_honest_lease(&self, client: NodeId, code: ErrorCode, lease: LeaseId) {
        let honest = self.hostile.is_empty();
        assert!(!honest || !is_violation(code), "10: {lease} of {client} was lost with {code}");
    }

    /// A client's session is over: streams that it had not accepted will never be read.
    pub fn unseen(&mut self, client: NodeId, session: u32) {
        heap::uncounted(|| self.gone.insert((client, session, Side::Server)));
        let of =
            |flow: &Flow| flow.client == client && flow.session == session && flow.sender == Side::Server;
        let opened_here = |flow: &Flow| flow.stream.initiator() == Side::Client;
        for (_, model) in
            self.flows.iter_mut().filter(|(flow, model)| of(flow) && !model.accepted && !opened_here(flow))
        {
            model.unread = true;
        }
    }

    /// Nothing has happened in this world that could end a session: what was finished was read to its end, unless its
    /// reader did not want it.
    ///
    /// # Panics
    /// If it was not.
    pub fn check_calm(&self) {
        for (flow, model) in &self.flows {
            let due = model.finished && model.stopped.is_none() && model.reset.is_none() && !model.left;
            assert!(!due || model.ended, "calm: {flow} was not read to its end, and nothing was in the way");
        }
    }

    /// Whoever read what `sender` sends in this session is gone, with all its state.
    pub fn reader_gone(&mut self, client: NodeId, session: u32, sender: Side) {
        heap::uncounted(|| self.gone.insert((client, session, sender)));
        let of = |flow: &Flow| flow.client == client && flow.session == session && flow.sender == sender;
        for (_, model) in self.flows.iter_mut().filter(|(flow, _)| of(flow)) {
            model.unread = true;
        }
    }

    /// Everybody who read on a machine is gone: the primary, or a client with its session number `session`.
    pub fn machine_gone(&mut self, node: NodeId, sessions: impl Iterator<Item = (NodeId, u32)>) {
        let sender = if node == NodeId::PRIMARY { Side::Client } else { Side::Server };
        self.gone.extend(sessions.map(|(client, session)| (client, session, sender)));
        let reads = |flow: &Flow| match flow.sender {
            Side::Client => node == NodeId::PRIMARY,
            Side::Server => flow.client == node,
        };
        for (_, model) in self.flows.iter_mut().filter(|(flow, _)| reads(flow)) {
            model.unread = true;
        }
    }

    /// Returns whether everybody who reads has seen an end or an error, or has stopped.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.flows.iter().all(|(flow, model)| model.is_over(flow))
    }

    /// Forgets what is known of all streams, whose applications are done with them.
    pub fn forget_streams(&mut self) {
        self.flows.clear();
        // Not taken out: the entries are in the heaps of whoever noted them.
        self.unread.values_mut().for_each(|bytes| *bytes = 0);
    }

    /// Returns how many streams a client has read whole, to their ends.
    #[must_use]
    pub fn whole(&self, client: NodeId) -> usize {
        let of = |flow: &Flow| flow.client == client && flow.sender == Side::Server;
        let whole =
            |model: &Model| model.ended && model.finished && model.got.gaps(&(0..model.end)).next().is_none();
        self.flows.iter().filter(|(flow, model)| of(flow) && whole(model)).count()
    }

    /// Returns what has not come to an end, for a failure's report.
    #[must_use]
    pub fn unsettled(&self) -> Vec<String> {
        let open = self.flows.iter().filter(|(flow, model)| !model.is_over(flow));
        open.map(|(flow, model)| {
            let gaps: Vec<_> = model.got.gaps(&(0..model.end)).take(4).collect();
            format!(
                "{flow}: accepted {}, finished {}, end {}, missing {gaps:?}",
                model.accepted, model.finished, model.end
            )
        })
        .collect()
    }

    /// Returns the model of a flow. It counts as nobody's heap.
    fn entry(&mut self, flow: Flow) -> &mut Model {
        let flows = &mut self.flows;
        heap::uncounted(move || flows.entry(flow).or_default())
    }

    fn model(&mut self, flow: Flow) -> &mut Model {
        self.flows.get_mut(&flow).unwrap_or_else(|| panic!("3: {flow} does not exist"))
    }
}

/// Heap of a client beyond what is on its way: up to nine connections with their windows' books, and TLS.
const HEAP_FIXED: i64 = 3 * 512 * 1024;

/// And for each direction of each stream that there was: its place in the tables of QUIC and of KWIK.
const HEAP_PER_FLOW: i64 = 512;

/// Returns whether `code` says that a peer broke a rule, rather than that something went away.
#[must_use]
pub fn is_violation(code: ErrorCode) -> bool {
    [
        ErrorCode::SECONDARY_STREAM_ISOLATION,
        ErrorCode::STREAM_MAPPING_CONFLICT,
        ErrorCode::OFFSET_SYNC_FAILURE,
        ErrorCode::METADATA_PROTOCOL_VIOLATION,
        ErrorCode::SECONDARY_STREAM_OVERFLOW,
        ErrorCode::INVALID_STREAM_ROLE,
        ErrorCode::RELAY_REFUSED,
        ErrorCode::INVALID_FRAME,
        ErrorCode::FRAME_TOO_LARGE,
        ErrorCode::FRAME_UNEXPECTED,
        ErrorCode::VERSION,
        ErrorCode::LEASE_VIOLATION,
        ErrorCode::FINAL_SIZE,
        ErrorCode::OFFSET_OVERFLOW,
        ErrorCode::DIGEST_MISMATCH,
        ErrorCode::DATA_CONFLICT,
        ErrorCode::FLOW_CONTROL,
        ErrorCode::EXCESSIVE_LOAD,
        ErrorCode::INTERNAL,
    ]
    .contains(&code)
}
