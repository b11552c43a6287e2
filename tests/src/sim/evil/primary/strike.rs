//! Deeds that are forbidden to primaries.

use kwik_proto::v1 as pb;
use pb::{FrameType as Type, StreamHeaderType as Header};

use super::{JOB, PATH, Primary, Serving};
use crate::{
    raw,
    sim::{
        dice::Dice,
        evil::{
            Actor, EVIL_SECONDARY, FORBIDDEN_DIALS, Kind, frames,
            link::{Link, control},
            machine::Stage,
        },
    },
    wire,
};

impl Primary {
    /// Does what the attack does, once.
    #[expect(clippy::too_many_lines, reason = "a list of attacks, each a few lines")]
    pub(super) fn strike(&mut self, stage: &mut Stage<'_, '_>, serving: &mut Serving) {
        let Some(kind) = self.kind.filter(|_| !stage.seen.fired) else {
            return;
        };
        let add = (kind == Kind::SilentDials || kind == Kind::PathChurn)
            .then(|| (2..40).map(|path| self.add_path(stage, EVIL_SECONDARY, path)).collect::<Vec<_>>());
        let below = self.dice.below(JOB);
        let falling = self.job(stage, serving, below);
        let d = &mut self.dice;
        let link: &mut Link = stage.link(serving.key);
        let (stream, head, size) = (serving.stream(), serving.head, serving.size);
        let run = |start: u64, bytes: &[u8]| serving.run(start, bytes);
        if let Some(bytes) = frames::control(kind, Actor::Primary, d) {
            link.write(control(), bytes);
            stage.seen.fired = true;
            return;
        }
        if let Some(bytes) = frames::header(kind, Actor::Primary, d) {
            stage.seen.fired = link.open_with(bytes).is_some();
            return;
        }
        let some = vec![0x77; usize::try_from(d.between(1, 900)).unwrap_or(1)];
        let final_size = |size: u64| pb::StreamFinal { stream: Some(stream), size: Some(size) };
        #[expect(clippy::wildcard_enum_match_arm, reason = "those are done elsewhere, or by others")]
        match kind {
            Kind::ControlEnd => match d.below(3) {
                0 => link.finish(control()),
                1 => link.reset(control(), 7),
                _ => link.stop(control(), 7),
            },
            Kind::FinalBelowSplit => {
                if head == 0 {
                    return;
                }
                link.send(Type::StreamFinal, &final_size(d.below(head)));
            }
            Kind::FinalBelowPlaced => {
                // Both leases were granted, or are filled.
                if serving.leased.is_empty() {
                    return;
                }
                link.send(Type::StreamFinal, &final_size(d.between(head, (head + size) / 2 - 1)));
            }
            Kind::DataPastFinal => {
                if !serving.leased.iter().all(|(_, ended)| *ended) {
                    return;
                }
                link.send(Type::StreamFinal, &final_size(size));
                self.queue.push(run(size - d.below(some.len() as u64), &some));
                serving.finished = true;
            }
            Kind::NativePastSplit => link.write(serving.native, some),
            Kind::RunBelowSplit => {
                if head == 0 {
                    return;
                }
                self.queue.push(run(d.below(head), &some));
            }
            Kind::LeaseOutsideJob => {
                let start = if head > 0 && d.chance(500) { d.below(head) } else { size - d.below(100) };
                link.send(Type::JobOpen, &falling_up(&falling, JOB + 1));
                let grant =
                    frames::grant(Some(100), Some(JOB + 1), raw::range(start, 200 + d.below(1 << 30)));
                link.send(Type::LeaseGrant, &grant);
            }
            Kind::OverlappingLease => {
                let Some((range, false)) = serving.leased.last().copied() else {
                    return;
                };
                let grant =
                    frames::grant(Some(100), Some(JOB), raw::range(range.end() - 1, d.between(1, 1000)));
                link.send(Type::LeaseGrant, &grant);
            }
            Kind::RunOverflow => {
                self.queue.push(run((1 << 62) - 1 - d.below(some.len() as u64), &some));
            }
            Kind::FarRun => self.queue.push(run(d.between(1 << 40, 1 << 61), &some)),
            Kind::ManyExtents => {
                let start = size + 1;
                for at in (start..).step_by(2).take(1100) {
                    self.queue.push(run(at, &serving.bytes(at, at + 1)));
                }
                stage.cx.oracle.given(serving.flow, start + 2200);
            }
            Kind::EmptyLease => {
                let grant = frames::grant(Some(100), Some(JOB), raw::range(d.between(head, size), 0));
                link.send(Type::LeaseGrant, &grant);
            }
            Kind::PathIdAgain => {
                let add = frames::add_path(d, PATH, [10, 0, 0, 1], 4433);
                link.send(Type::AddPath, &add);
            }
            Kind::JobIdFalls => link.send(Type::JobOpen, &falling),
            Kind::LeaseIdFalls => {
                let lease = d.below(10);
                link.send(Type::LeaseGrant, &frames::grant(Some(50), Some(JOB), raw::range(head, 1)));
                link.send(Type::LeaseGrant, &frames::grant(Some(lease), Some(JOB), raw::range(head, 1)));
            }
            Kind::HugeLease => {
                let len = d.between((16 << 30) + 1, 1 << 61);
                link.send(Type::LeaseGrant, &frames::grant(Some(100), Some(JOB), raw::range(head, len)));
            }
            Kind::ForbiddenDial => {
                for path in (2..).take(FORBIDDEN_DIALS) {
                    let add = if path % 2 == 0 {
                        let ip = forbidden(d);
                        frames::add_path(d, path, ip, 443)
                    } else {
                        // Anybody's address, and the port of another service.
                        let port = d.pick(&[1, 53, 80, 123, 444, 1023, 1900, 5353, 11_211]);
                        frames::add_path(d, path, [10, 0, 0, 1], port)
                    };
                    link.send(Type::AddPath, &add);
                }
            }
            Kind::SilentDials | Kind::PathChurn => {
                for add in add.unwrap_or_default() {
                    link.send(Type::AddPath, &add);
                }
            }
            Kind::UnsplitRuns => {
                // For streams that are never split; not all slots, nor all that may lie unread, so that the object can go
                // on.
                let open = || link.open(quinn_proto::Dir::Uni);
                let mut opened: Vec<_> = std::iter::from_fn(open).take(UNSPLIT).collect();
                for _ in 0..SLOTS_LEFT {
                    if let Some(stream) = opened.pop() {
                        let open = pb::InternalOpen { stream: Some(stream_far(d)), offset: Some(0) };
                        link.write(stream, wire::header(Header::InternalOpen, &open));
                        link.reset(stream, 1);
                    }
                }
                for id in opened {
                    let open =
                        pb::InternalOpen { stream: Some(stream_far(d)), offset: Some(d.below(1 << 40)) };
                    link.write(id, wire::header(Header::InternalOpen, &open));
                    link.write(id, vec![1; 100_000]);
                }
            }
            Kind::LongReason => {
                let reason = "\u{1b}[2J".repeat(usize::try_from(d.between(65, 900)).unwrap_or(65));
                link.send(Type::SessionClose, &pb::SessionClose { code: Some(1), reason: Some(reason) });
            }
            _ => return,
        }
        stage.seen.fired = true;
        self.pump(stage, serving.key);
    }
}

/// Runs for streams that are never split, those that are given back included.
const UNSPLIT: usize = 64;
/// Slots that an attack on slots gives back: quinn-proto tells of new ones once an eighth of 64 is free.
const SLOTS_LEFT: u32 = 16;

/// A job like another, under another name; its seal does not fit, which is the secondary's to see.
fn falling_up(job: &pb::JobOpen, id: u64) -> pb::JobOpen {
    pb::JobOpen { job: Some(id), ..job.clone() }
}

/// A unidirectional stream of the server that will never be.
fn stream_far(d: &mut Dice) -> u64 {
    d.between(1000, 1 << 40) * 4 + 3
}

/// An address that nobody may be told to dial, or not by a primary in 10.0.0.0/8.
fn forbidden(d: &mut Dice) -> Vec<u8> {
    let low = u8::try_from(d.below(256)).unwrap_or(1);
    let v4 = d.pick(&[
        [127, 0, 0, 1],
        [127, 9, 8, 7],
        [0, 0, 0, 0],
        [0, 1, 2, 3],
        [169, 254, 169, 254],
        [224, 0, 0, 1],
        [239, 255, 255, 250],
        [240, 0, 0, 1],
        [255, 255, 255, 255],
    ]);
    let [a, b, c, e] = v4;
    match d.below(7) {
        0 => [&[0; 10][..], &[0xff, 0xff], &v4].concat(), // mapped
        1 => [&[0x20, 0x02, a, b, c, e][..], &[0; 10]].concat(), // 6to4
        2 => [&[0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0][..], &v4].concat(), // NAT64
        3 => [&[0; 15][..], &[1]].concat(),               // ::1
        4 => [&[0xfe, 0x80][..], &[0; 13], &[low]].concat(), // link-local
        5 => [&[0xff, 0x02][..], &[0; 13], &[low]].concat(), // multicast
        _ => v4.to_vec(),
    }
}
