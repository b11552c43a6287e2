//! Questions that a session leaves to the application's own code: whom to dial, and signatures by its keys.
//!
//! That code may take its time, and may want the session that it is asked for. So no machine ever runs it: a session asks,
//! whoever drives it answers, and meanwhile the session is free. Spec: RATIONALE §3.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use smallvec::SmallVec;

use super::{HOME, Machine, Session, action::Action};
use crate::{
    error::ErrorCode,
    id::{ByteRange, JobId, LeaseId, PathId, PublicKey, SessionId, Signature, StreamId},
    lease::{
        relay::{Direction, RelayClaims},
        ticket::{Audience, JobClaims, Signer, Ticket},
    },
    limits,
    path::dial::{DialPolicy, DialRequest, on_link_of},
    wire::{AddPath, Frame, JobOpen},
};

/// Something that only the application's own code can say: which addresses its [`DialPolicy`] lets the primary name, or what
/// its [`Signer`] signs.
///
/// [`Session::poll_question`] returns it, [`Self::answer`] runs that code, and [`Session::handle_answer`] takes what it said.
/// Hold nothing meanwhile that the code might want, such as a lock around the session.
#[must_use = "what waits for the answer waits for ever"]
pub struct Question(Asked);

enum Asked {
    Dial { path: PathId, dials: SmallVec<[DialRequest; 2]>, policy: Arc<dyn DialPolicy> },
    Sign { draft: Draft, signer: Arc<dyn Signer> },
}

/// The application's answer to a [`Question`].
#[must_use = "what waits for the answer waits for ever"]
pub struct Answer(Said);

enum Said {
    Dial { path: PathId, allowed: Addresses },
    Signed(Sealed),
    Unsigned(Sealing),
}

/// The addresses at which a server may be.
pub(super) type Addresses = SmallVec<[SocketAddr; 2]>;

impl Question {
    pub(super) fn dial(
        path: PathId,
        primary: SocketAddr,
        addresses: Addresses,
        policy: Arc<dyn DialPolicy>,
    ) -> Self {
        let dials = addresses.into_iter().map(|address| DialRequest::new(primary, address)).collect();
        Self(Asked::Dial { path, dials, policy })
    }

    pub(super) fn sign(draft: Draft, signer: Arc<dyn Signer>) -> Self {
        Self(Asked::Sign { draft, signer })
    }

    /// Says from which address of this machine's own each address would be dialled that the question is about, as far as
    /// `source` knows. Without it a policy cannot tell the client's own network from any other.
    pub fn with_sources(mut self, source: impl Fn(SocketAddr) -> Option<IpAddr>) -> Self {
        if let Asked::Dial { dials, .. } = &mut self.0 {
            dials.iter_mut().for_each(|dial| dial.source = source(dial.address));
        }
        self
    }

    /// Runs the application's code.
    ///
    /// `unix_now` is the wall clock, since the Unix epoch: what is signed is dated by it.
    pub fn answer(self, unix_now: Duration) -> Answer {
        Answer(match self.0 {
            Asked::Dial { path, dials, policy } => {
                let allowed = dials.iter().filter(|dial| policy.allows(dial)).map(|dial| dial.address);
                Said::Dial { path, allowed: allowed.collect() }
            }
            Asked::Sign { draft, signer } => Said::Signed(draft.sign(unix_now.as_secs(), &*signer)),
        })
    }

    /// Returns the answer for when the application's code has none, because it panicked: nothing is dialled, nothing was
    /// signed, and the path or job of which that was the beginning has ended with `AUTH_FAILED`.
    pub fn refusal(&self) -> Answer {
        Answer(match &self.0 {
            Asked::Dial { path, .. } => Said::Dial { path: *path, allowed: Addresses::new() },
            Asked::Sign { draft, .. } => Said::Unsigned(draft.sealing()),
        })
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Asked::Dial { path, dials, .. } => {
                f.debug_struct("Dial").field("path", path).field("dials", dials).finish_non_exhaustive()
            }
            Asked::Sign { draft, .. } => f.debug_tuple("Sign").field(&draft.sealing()).finish(),
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Said::Dial { path, allowed } => {
                f.debug_struct("Dial").field("path", path).field("allowed", allowed).finish()
            }
            Said::Signed(_) => f.write_str("Signed"),
            Said::Unsigned(sealing) => f.debug_tuple("Unsigned").field(sealing).finish(),
        }
    }
}

/// The purpose of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sealing {
    Path(PathId),
    Job(JobId, PathId),
    /// The message of this number, for or from the server of this path.
    Relay(PathId, u64),
}

/// Something complete but for its date and its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Draft {
    Path(PathDraft),
    Job(JobDraft),
    Relay(RelayDraft),
}

/// A path that is to be named to the client.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct PathDraft {
    pub(super) session: SessionId,
    pub(super) path: PathId,
    pub(super) addresses: Addresses,
    pub(super) server_name: String,
    pub(super) identities: Audience,
    pub(super) client_key: PublicKey,
    pub(super) nonce: [u8; 16],
}

crate::redact::debug_hiding!(PathDraft { session, path, addresses, server_name, identities, client_key; nonce });

/// A job that is to be opened.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct JobDraft {
    pub(super) session: SessionId,
    pub(super) path: PathId,
    pub(super) job: JobId,
    pub(super) stream: StreamId,
    pub(super) range: ByteRange,
    pub(super) total: u64,
    pub(super) lifetime: Duration,
    pub(super) payload: Bytes,
}

crate::redact::debug_hiding!(JobDraft { session, path, job, stream, range, total, lifetime; payload });

/// A message that is to be sent.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct RelayDraft {
    pub(super) session: SessionId,
    pub(super) path: PathId,
    pub(super) direction: Direction,
    pub(super) id: u64,
    pub(super) payload: Bytes,
}

crate::redact::debug_hiding!(RelayDraft { session, path, direction, id; payload });

/// A draft with its signature.
#[derive(Debug)]
pub(super) enum Sealed {
    Frame(Sealing, Frame),
    Relay(PathId, u64, Signature),
}

impl Draft {
    pub(super) fn sealing(&self) -> Sealing {
        match self {
            Self::Path(draft) => Sealing::Path(draft.path),
            Self::Job(draft) => Sealing::Job(draft.job, draft.path),
            Self::Relay(draft) => Sealing::Relay(draft.path, draft.id),
        }
    }

    /// Dates and signs it.
    pub(super) fn sign(self, unix: u64, signer: &dyn Signer) -> Sealed {
        let sealing = self.sealing();
        match self {
            Self::Path(draft) => Sealed::Frame(sealing, draft.sign(unix, signer)),
            Self::Job(draft) => Sealed::Frame(sealing, draft.sign(unix, signer)),
            Self::Relay(RelayDraft { session, path, direction, id, payload }) => {
                let claims = RelayClaims { session, path, direction, id, payload: &payload };
                Sealed::Relay(path, id, claims.seal(signer))
            }
        }
    }
}

impl PathDraft {
    fn sign(self, unix: u64, signer: &dyn Signer) -> Frame {
        let ticket = Ticket {
            session: self.session,
            path: self.path,
            audience: self.identities,
            client_key: self.client_key,
            issued: unix,
            expires: unix.saturating_add(limits::TICKET_LIFETIME.as_secs()),
            nonce: self.nonce,
        };
        Frame::AddPath(AddPath {
            path: self.path,
            addresses: self.addresses,
            server_name: self.server_name,
            pins: self.identities.iter().copied().collect(),
            ticket: ticket.seal(signer),
        })
    }
}

impl JobDraft {
    fn sign(self, unix: u64, signer: &dyn Signer) -> Frame {
        let Self { session, path, job, stream, range, total, lifetime, payload } = self;
        let expiry = unix.saturating_add(lifetime.as_secs());
        let claims = JobClaims { session, path, job, stream, range, total, expiry, payload: &payload };
        let seal = claims.seal(signer);
        Frame::JobOpen(JobOpen { job, path, stream, range, total, expiry, payload, seal })
    }
}

/// Frames that wait for a signature, and those behind them: the client must learn of a path or job before it hears more.
#[derive(Debug, Default)]
pub(super) struct Outbox(VecDeque<Waiting>);

#[derive(Debug)]
enum Waiting {
    Ready(Frame),
    Unsigned(Sealing),
}

impl Outbox {
    /// Returns whether more waits than any application has going on: the client makes this end say it.
    pub(super) fn is_overfull(&self) -> bool {
        self.0.len() > limits::OUTBOX_MAX
    }

    /// Keeps what would overtake a frame that waits, and gives back all else.
    pub(super) fn hold(&mut self, action: Action) -> Option<Action> {
        let Action::Send { path: HOME, frame } = action else {
            return Some(action);
        };
        if self.0.is_empty() {
            return Some(Action::Send { path: HOME, frame });
        }
        self.0.push_back(Waiting::Ready(frame));
        None
    }

    /// Puts the signed frame in the place that was kept for it.
    fn fill(&mut self, sealing: Sealing, frame: Frame) {
        let place = self.0.iter_mut().find(|w| matches!(w, Waiting::Unsigned(found) if *found == sealing));
        if let Some(place) = place {
            *place = Waiting::Ready(frame);
        }
    }

    fn pop(&mut self) -> Option<Frame> {
        if let Waiting::Unsigned(_) = self.0.front()? {
            return None;
        }
        let waiting = self.0.pop_front();
        if self.0.is_empty() {
            self.0 = VecDeque::new(); // an idle session keeps no room for them
        }
        match waiting {
            Some(Waiting::Ready(frame)) => Some(frame),
            Some(Waiting::Unsigned(_)) | None => None,
        }
    }

    /// Takes out what is not going to be signed, and what was to follow about it. Returns the paths and jobs that the client
    /// is never to hear of, and their leases.
    fn strike(&mut self, sealing: Sealing) -> (Vec<Sealing>, BTreeSet<LeaseId>) {
        let mut struck = Vec::new();
        let (mut paths, mut jobs, mut leases) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        self.0.retain(|waiting| {
            let begins = match waiting {
                Waiting::Unsigned(found) => Some(*found),
                Waiting::Ready(Frame::JobOpen(open)) => Some(Sealing::Job(open.job, open.path)),
                Waiting::Ready(_) => None,
            };
            let gone = match (begins, waiting) {
                (Some(found), _) if found == sealing => true,
                (Some(Sealing::Job(_, path)), _) => paths.contains(&path),
                (_, Waiting::Ready(Frame::RemovePath { path, .. })) => paths.contains(path),
                (_, Waiting::Ready(Frame::JobClose { job })) => jobs.contains(job),
                (_, Waiting::Ready(Frame::LeaseGrant(grant))) if jobs.contains(&grant.job) => {
                    leases.insert(grant.lease);
                    true
                }
                (_, Waiting::Ready(Frame::LeaseRevoke { lease, .. })) => leases.contains(lease),
                _ => false,
            };
            if let Some(begins) = begins.filter(|_| gone) {
                struck.push(begins);
                match begins {
                    Sealing::Path(path) => drop(paths.insert(path)),
                    Sealing::Job(job, _) => drop(jobs.insert(job)),
                    Sealing::Relay(..) => {}
                }
            }
            !gone
        });
        (struck, leases)
    }
}

impl Session {
    /// Returns what only the application's own code can say. Its answer comes back through [`Self::handle_answer`]; until
    /// then all else goes on, but for what the client could not understand before it has heard of the path or job.
    pub fn poll_question(&mut self) -> Option<Question> {
        self.settle();
        let question = self.questions.pop_front();
        if self.questions.is_empty() {
            self.questions = VecDeque::new(); // they are large and rare: an idle session keeps no room for them
        }
        question
    }

    /// Takes the answer to a question of this session, in whatever order they are answered.
    pub fn handle_answer(&mut self, now: Instant, answer: Answer) {
        let _session = self.enter();
        self.touch(now);
        match answer.0 {
            Said::Dial { path, allowed } => {
                if let Machine::Client(client) = &mut self.machine {
                    client.on_dial_answer(self.now, path, &allowed);
                }
            }
            Said::Signed(Sealed::Frame(sealing, frame)) => {
                if let (Machine::Primary(primary), Sealing::Path(path)) = (&mut self.machine, sealing) {
                    primary.on_signed(self.now, path);
                }
                self.outbox.fill(sealing, frame);
            }
            Said::Signed(Sealed::Relay(path, id, seal)) => self.seal_relay(path, id, Some(seal)),
            Said::Unsigned(Sealing::Relay(path, id)) => self.seal_relay(path, id, None),
            Said::Unsigned(sealing) => {
                let (struck, leases) = self.outbox.strike(sealing);
                if let Machine::Primary(primary) = &mut self.machine {
                    primary.on_unsigned(&struck, leases, ErrorCode::AUTH_FAILED);
                }
            }
        }
        while let Some(frame) = self.outbox.pop() {
            self.carry_out(Action::Send { path: HOME, frame });
        }
    }

    /// Has the application's key sign a frame, and keeps its place in the order of frames.
    pub(super) fn ask_to_sign(&mut self, draft: Draft) {
        let Machine::Primary(primary) = &self.machine else {
            return;
        };
        self.outbox.0.push_back(Waiting::Unsigned(draft.sealing()));
        self.questions.push_back(Question::sign(draft, primary.signer()));
    }

    /// Asks which addresses the primary may have dialled.
    pub(super) fn ask_to_dial(&mut self, path: PathId, addresses: Addresses) {
        let Some(client) = &self.client else {
            return;
        };
        let primary = self.remote_address();
        let addresses = addresses.into_iter().map(|address| on_link_of(address, primary)).collect();
        let question = Question::dial(path, primary, addresses, client.config.dial_policy.clone());
        self.questions.push_back(question);
    }
}
