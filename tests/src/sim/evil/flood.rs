//! Floods of drawn mixes: frames that break no rule, or one that does among many, made as fast as the link takes them, and
//! among them all that was ever seen to earn its sender more: work that is refused, taken back, forged, answered late.

use std::{fmt, time::Duration};

use bytes::Bytes;
use kwik_proto::v1 as pb;
use pb::FrameType as Type;

use super::{
    Actor, frames,
    link::{Link, control},
};
use crate::{raw, sim::dice::Dice, wire};

/// Duration of a flood.
pub(super) const LENGTH: Duration = Duration::from_secs(10);
/// Bytes of it that wait for QUIC.
const AHEAD: usize = 16 * 1024;
/// Jobs with a wrong seal that a secondary looks at before it has had enough: one fewer than that.
const FORGED_MAX: u64 = kwik_core::limits::FORGED_JOBS_BURST - 1;

/// Whom it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A client, by its secondary.
    ClientOfSecondary,
    /// A client, and its secondary by way of it, by the primary.
    ClientOfPrimary,
    /// The primary, by a client.
    Primary,
    /// A secondary, by a client.
    Secondary,
}

/// Facts about the session that is flooded.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    pub(super) path: u32,
    pub(super) stream: u64,
    pub(super) job: u64,
    /// The highest lease that was named.
    pub(super) lease: u64,
    /// Range that the job allows.
    pub(super) start: u64,
    pub(super) len: u64,
    /// An address where nobody answers.
    pub(super) silent: ([u8; 4], u16),
}

/// Something that is said again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Say {
    /// Answers that were given, to what is over.
    Answers,
    /// Credit that raises nothing.
    Credit,
    /// Cuts of leases, each a byte shorter than the last.
    Cuts,
    /// Ends of leases that are gone already.
    Gone,
    /// Leases that are given and taken back.
    GivenAndTaken,
    /// A relayed message that nobody has sealed.
    Relays,
    /// Leases that are held, as many as there may be, a byte each.
    Held,
    /// Jobs that nobody has sealed.
    Jobs,
    /// Leases of jobs that are not there.
    Leases,
    /// States of paths, or of leases, one after the other and back.
    News,
    /// Paths that are named and removed.
    Paths,
    /// Questions about holes, and their answers.
    Pages,
    /// Credit that raises by a byte.
    Raise,
    /// Frames to be skipped.
    Skipped,
}

/// A flood.
#[derive(Debug)]
pub(super) struct Flood {
    pub(super) target: Target,
    mix: Vec<Say>,
    facts: Facts,
    until: Option<Duration>,
    /// Counts what is said.
    number: u64,
    forged: u64,
    forged_max: u64,
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {:?}, {} forged at most", self.target, self.mix, self.forged_max)
    }
}

impl Flood {
    /// Draws a flood.
    pub(super) fn draw(target: Target, d: &mut Dice) -> Self {
        let all: &[Say] = match target {
            Target::ClientOfSecondary => &[Say::Answers, Say::Gone, Say::Skipped],
            Target::ClientOfPrimary => {
                &[Say::Gone, Say::GivenAndTaken, Say::Jobs, Say::Leases, Say::Paths, Say::Pages, Say::Skipped]
            }
            Target::Primary => {
                &[Say::Answers, Say::Credit, Say::Gone, Say::News, Say::Pages, Say::Raise, Say::Skipped]
            }
            Target::Secondary => &[
                Say::Credit,
                Say::Cuts,
                Say::Gone,
                Say::GivenAndTaken,
                Say::Held,
                Say::Jobs,
                Say::Leases,
                Say::Raise,
                Say::Relays,
                Say::Skipped,
            ],
        };
        let mix = (0..d.between(1, 12)).map(|_| d.pick(all)).collect();
        // Once in a while until the path is closed for it.
        let forged_max = if d.chance(100) { u64::MAX } else { FORGED_MAX };
        Self { target, mix, facts: Facts::default(), until: None, number: 0, forged: 0, forged_max }
    }

    pub(super) fn has_begun(&self) -> bool {
        self.until.is_some()
    }

    /// Begins with what is known.
    pub(super) fn begin(&mut self, now: Duration, facts: Facts) {
        self.until = Some(now + LENGTH);
        self.facts = facts;
    }

    /// Says as much as the link takes. Returns how many frames that were.
    pub(super) fn pump(&mut self, now: Duration, link: &mut Link, d: &mut Dice) -> u64 {
        let before = self.number;
        let mut turns = 0;
        while self.until.is_some_and(|until| now < until) && link.waiting(control()) < AHEAD && turns < 500 {
            turns += 1; // what opens streams may find none
            let say = d.pick(&self.mix);
            for _ in 0..d.magnitude(1, 64) {
                self.say(say, link, d);
            }
        }
        self.number - before
    }

    fn send(&mut self, link: &mut Link, frame: Vec<u8>) {
        self.number += 1;
        link.write(control(), frame);
    }

    #[expect(clippy::too_many_lines, reason = "a list of what can be said, each a few lines")]
    fn say(&mut self, say: Say, link: &mut Link, d: &mut Dice) {
        let Facts { stream, job, lease, start, len, .. } = self.facts;
        let (lease, job, stream) = (Some(lease), Some(job), Some(stream));
        let number = self.number;
        let credit = |offset| {
            let grant = pb::credit::Grant::Offset(pb::OffsetCredit { stream, offset: Some(offset) });
            wire::frame(Type::Credit, &pb::Credit { grant: Some(grant) })
        };
        match say {
            Say::Answers if self.target == Target::Primary => {
                let frame = match d.below(3) {
                    0 => wire::frame(Type::LeaseDone, &pb::LeaseDone { lease }),
                    1 => wire::frame(Type::JobAccepted, &pb::JobAccepted { job }),
                    _ => wire::frame(Type::LeaseRefused, &pb::LeaseRefused { lease, code: Some(1) }),
                };
                self.send(link, frame);
            }
            Say::Answers => {
                let refused = pb::LeaseRefused { lease, code: Some(1) };
                let frame = if d.chance(500) {
                    wire::frame(Type::JobAccepted, &pb::JobAccepted { job })
                } else {
                    wire::frame(Type::LeaseRefused, &refused)
                };
                self.send(link, frame);
            }
            Say::Credit => {
                let grant = pb::credit::Grant::Lease(pb::LeaseCredit { lease, bytes: Some(0) });
                let none = wire::frame(Type::Credit, &pb::Credit { grant: Some(grant) });
                let of_lease = self.target == Target::Secondary && d.chance(500);
                self.send(link, if of_lease { none } else { credit(0) });
            }
            Say::Cuts => {
                let keep = Some(len.saturating_sub(number).max(1));
                self.send(
                    link,
                    wire::frame(Type::LeaseRevoke, &pb::LeaseRevoke { lease, keep, code: Some(1) }),
                );
            }
            Say::Gone => {
                let actor = match self.target {
                    Target::ClientOfSecondary => Actor::Secondary,
                    Target::ClientOfPrimary => Actor::Primary,
                    Target::Primary => Actor::Client,
                    Target::Secondary => {
                        let gone = wire::frame(Type::JobClose, &pb::JobClose { job: Some(1 << 40) });
                        return self.send(link, gone);
                    }
                };
                let frame = frames::harmless(actor, self.facts.job, d);
                self.send(link, frame);
            }
            Say::GivenAndTaken | Say::Held | Say::Leases => {
                self.facts.lease += 1;
                let lease = Some(self.facts.lease);
                let named = if say == Say::Leases { job.map(|job| job.saturating_sub(1)) } else { job };
                let range = raw::range(start + d.below(len.max(1)), 1);
                let frame = if self.target == Target::Secondary {
                    let notice = pb::LeaseNotice { lease, job: named, range, credit: Some(0) };
                    wire::frame(Type::LeaseNotice, &notice)
                } else {
                    wire::frame(Type::LeaseGrant, &frames::grant(lease, job, range))
                };
                self.send(link, frame);
                if say == Say::GivenAndTaken {
                    let revoke = pb::LeaseRevoke { lease, keep: Some(0), code: Some(1) };
                    self.send(link, wire::frame(Type::LeaseRevoke, &revoke));
                }
            }
            Say::Jobs => {
                if self.forged >= self.forged_max {
                    return;
                }
                self.forged += 1;
                self.facts.job += 1;
                let open = pb::JobOpen {
                    job: Some(self.facts.job),
                    path: Some(self.facts.path),
                    stream,
                    range: raw::range(start, len),
                    total: Some(len),
                    expiry: Some(u64::MAX >> 3),
                    payload: Some(Bytes::from(vec![1; d.index(100)])),
                    seal: frames::bytes(d, 64),
                };
                self.send(link, wire::frame(Type::JobOpen, &open));
            }
            Say::News => {
                let frame = if d.chance(500) {
                    let state = if d.chance(500) { pb::PathState::Active } else { pb::PathState::Degraded };
                    let (path, state) = (Some(self.facts.path), Some(state.into()));
                    wire::frame(Type::PathReport, &pb::PathReport { path, state, code: None })
                } else {
                    use pb::MappingOperation::{Create, Resume, Suspend};
                    let operation = Some(d.pick(&[Create, Suspend, Resume]).into());
                    let range = raw::range(start, len);
                    wire::frame(
                        Type::StreamMappingUpdate,
                        &pb::StreamMappingUpdate { operation, stream, lease, range },
                    )
                };
                self.send(link, frame);
            }
            Say::Pages => {
                let from = Some(d.below(start + len));
                self.send(
                    link,
                    wire::frame(Type::OffsetSyncRequest, &pb::OffsetSyncRequest { stream, from }),
                );
            }
            Say::Paths => {
                let path = 1000 + u32::try_from(number).unwrap_or(0);
                let add = frames::add_path(d, path, self.facts.silent.0, self.facts.silent.1.into());
                self.send(link, wire::frame(Type::AddPath, &add));
                let remove = pb::RemovePath { path: Some(path), code: Some(1), deadline_ms: Some(0) };
                self.send(link, wire::frame(Type::RemovePath, &remove));
            }
            Say::Raise => self.send(link, credit(start + number)),
            Say::Relays => {
                let message = frames::relay(self.facts.path, number, d);
                if let Some(stream) = link.open_with(message) {
                    link.finish(stream);
                    self.number += 1;
                }
            }
            Say::Skipped => self.send(link, wire::framed(d.magnitude(54, 1 << 20) & !1, b"")),
        }
    }
}
