//! Credit of an unordered reader's servers, and what verified and hedged leases take of its window. Spec: PROTOCOL §5.4, §6.

use super::*;
use crate::wire::Credit;

const SECOND_FILL: StreamId = stream(11);
const KIB: u64 = 1024;
/// The window of a stream that with another has all that the session window of [`tight`] holds.
const TIGHT: u64 = 320 * KIB;
/// The longest verified lease that it takes.
const LEN: u64 = TIGHT / 2;

/// A machine whose second path has a job on the same stream.
fn machine(change: impl FnOnce(TransportConfig) -> TransportConfig) -> Machine {
    let mut machine = Machine::with(change);
    machine.primary(Frame::JobOpen(job(SECOND_JOB, OTHER)));
    machine.actions();
    machine
}

/// One whose stream's window cannot be widened, nor anything have room beside it.
fn tight() -> Machine {
    let mut machine = machine(|config| config.session_window(1024 * KIB).stream_window(TIGHT));
    machine.primary(Frame::Split { stream: stream(5), offset: 0 });
    machine.settled();
    assert_eq!((window(&machine), machine.client.extra_window_free()), (TIGHT, 0));
    machine
}

fn window(machine: &Machine) -> u64 {
    machine.client.streams[&STREAM].window()
}

/// Bytes that a lease was let send, by the highest of the frames that say so.
fn credited(actions: &[Action], id: u64) -> u64 {
    let credits = actions.iter().filter_map(|action| {
        let (Action::Send { frame: Frame::Credit(Credit::Lease { lease, bytes }), .. }
        | Action::Send { frame: Frame::LeaseNotice { lease, credit: bytes, .. }, .. }) = action
        else {
            return None;
        };
        (*lease == LeaseId::new(id)).then_some(*bytes)
    });
    credits.max().unwrap_or_default()
}

impl Machine {
    fn give(&mut self, grant: LeaseGrant) -> Vec<Action> {
        self.primary(Frame::LeaseGrant(grant));
        let actions = self.settled();
        self.client.audit().unwrap();
        actions
    }

    /// Reads all there is, slowly, so that the window does not grow.
    fn read_out(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Ok(Some(_)) = self.client.read(self.now, STREAM, 43_000, false) {
            self.now += Duration::from_millis(500);
            actions.extend(self.settled());
        }
        self.client.audit().unwrap();
        actions
    }

    /// Brings what a path has of a lease, from its start on.
    fn bring(&mut self, path: PathId, fill: StreamId, lease: u64, offset: u64, len: u64) {
        let header = StreamHeader::Secondary { lease: LeaseId::new(lease), offset };
        assert_eq!(self.client.on_internal(path, fill, header), Opened::Read);
        self.client.on_bytes(path, fill, sevens(len));
        self.client.audit().unwrap();
    }

    fn run_at(&mut self, offset: u64) {
        let header = StreamHeader::Internal { stream: STREAM, offset };
        assert_eq!(self.client.on_internal(PathId::PRIMARY, RUN, header), Opened::Read);
    }

    /// The reader takes bytes in any order, and all that has credit by offset has come and is read. Returns from where on
    /// credit is by amount.
    fn unordered(&mut self) -> u64 {
        let end = 100 + window(self);
        let read = self.client.read(self.now, STREAM, 1, false);
        assert_eq!(read, Err(ReadError::Blocked));
        self.run_at(100);
        self.client.on_bytes(PathId::PRIMARY, RUN, sevens(end - 100));
        self.client.on_internal_end(PathId::PRIMARY, RUN, InternalEnd::Fin);
        self.settled();
        self.read_out();
        end
    }

    /// Time passes; the paths answer, and nothing comes.
    fn pass(&mut self, time: Duration, frames: &mut u64) -> Vec<Action> {
        let (mut actions, end) = (Vec::new(), self.now + time);
        while self.now < end {
            self.now += Duration::from_millis(10);
            *frames += 10;
            for path in [PATH, OTHER] {
                self.client.on_heard(self.now, path, *frames, Some(Duration::from_millis(10)));
            }
            self.client.handle_timeout(self.now);
            actions.extend(self.settled());
        }
        self.client.audit().unwrap();
        actions
    }

    /// Passes time until a lease has stalled.
    fn stall(&mut self, lease: u64, frames: &mut u64) {
        self.pass(Duration::from_secs(3), frames);
        assert!(self.client.leases.get(LeaseId::new(lease)).unwrap().state.suspended.is_some());
    }
}

/// To a verified lease it is given all at once, in its turn, or not yet: halves of two would wait for each other.
#[test]
fn verified_leases_are_credited_whole() {
    let mut machine = tight();
    let at = machine.unordered();
    let given = machine.give(verified(lease(0, JOB, range(at, at + LEN))));
    assert_eq!(credited(&given, 0), LEN);
    let given = machine.give(verified(lease(1, SECOND_JOB, range(at + LEN, at + 2 * LEN))));
    assert_eq!(credited(&given, 1), 0, "what the primary may write at any time takes some");
    machine.bring(PATH, FILL, 0, at, LEN - 1);
    assert_eq!(credited(&machine.settled(), 1), 0, "what waits for its digest takes room as well");
    machine.client.on_bytes(PATH, FILL, sevens(1));
    assert_eq!(credited(&machine.settled(), 1), 0, "so does what waits for its reader");
    assert_eq!(credited(&machine.read_out(), 1), LEN);
}

/// The last that is read may be less than what is usually worth a look, and what waits may need all there is.
#[test]
fn the_last_byte_read_makes_room() {
    let mut machine = tight();
    let at = machine.unordered();
    waste_half(&mut machine);
    let given = machine.give(verified(lease(0, JOB, range(at, at + LEN))));
    assert_eq!(credited(&given, 0), LEN);
    machine.give(verified(lease(1, SECOND_JOB, range(at + LEN, at + 2 * LEN))));
    machine.bring(PATH, FILL, 0, at, LEN);
    let quantum = usize::try_from(TIGHT / 32).unwrap();
    machine.client.read(machine.now, STREAM, usize::try_from(LEN).unwrap() - quantum / 2, false).unwrap();
    machine.now += Duration::from_secs(1);
    assert_eq!(credited(&machine.settled(), 1), 0);
    assert_eq!(credited(&machine.read_out(), 1), LEN);
}

/// Nobody else is given what bytes that wait for their digest take.
#[test]
fn staged_bytes_are_held() {
    let mut machine = tight();
    let at = machine.unordered();
    machine.give(verified(lease(0, JOB, range(at, at + LEN))));
    machine.bring(PATH, FILL, 0, at, LEN - 1);
    let given = machine.give(lease(1, SECOND_JOB, range(at + LEN, at + 3 * TIGHT)));
    let left = TIGHT - LEN - limits::GUARANTEED_CREDIT;
    assert!((1..=left).contains(&credited(&given, 1)), "{given:?}");
}

/// With room for it, a window is wide enough for two, so that one can come while the other is read.
#[test]
fn two_verified_leases_are_under_way_at_once() {
    const LEN: u64 = 8 * KIB * KIB;
    let mut machine = machine(|config| config.stream_window(64 * KIB));
    let at = machine.unordered();
    let given = machine.give(verified(lease(0, JOB, range(at, at + LEN))));
    assert_eq!(credited(&given, 0), LEN);
    let given = machine.give(verified(lease(1, SECOND_JOB, range(at + LEN, at + 2 * LEN))));
    assert_eq!(credited(&given, 1), LEN);
    assert_eq!(window(&machine), 2 * LEN + limits::GUARANTEED_CREDIT);
}

/// A window that is widened for a path that is still being attached is of use to the others at once.
#[test]
fn a_wider_window_is_everybodys() {
    let mut machine = machine(|config| config.stream_window(64 * KIB));
    machine.give(lease(0, JOB, range(100, 100 + (1 << 20))));
    let (third, path) = (JobId::new(2), PathId::new(3));
    machine.add(path);
    machine.primary(Frame::JobOpen(job(third, path)));
    machine.settled();
    let given = machine.give(verified(lease(1, third, range(1 << 21, 3 << 20))));
    let offset = |action: &Action| {
        let Action::Send { path: PATH, frame: Frame::Credit(Credit::Offset { offset, .. }) } = action else {
            return None;
        };
        Some(*offset)
    };
    assert_eq!(given.iter().find_map(offset), Some(100 + window(&machine)));
    assert!(window(&machine) > 1 << 21);
}

/// Bytes that two may bring take room once, so whoever hedges has credit for what the stalled one was let send, at once.
#[test]
fn a_hedge_is_let_send_what_the_other_was() {
    for (first, second) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut machine = machine(|config| config);
        let at = machine.unordered();
        let len = window(&machine) / 2;
        let whole = range(at, at + len);
        let kind = |is_verified: bool, grant| if is_verified { verified(grant) } else { grant };
        let given = machine.give(kind(first, lease(0, JOB, whole)));
        assert_eq!(credited(&given, 0), len);
        // Another has all that is left.
        let rest = machine.give(lease(1, JOB, range(at + len, at + 4 * len)));
        assert!(credited(&rest, 1) > 0);
        let mut frames = 0;
        machine.stall(0, &mut frames);
        let given = machine.give(hedging(0, kind(second, lease(2, SECOND_JOB, whole))));
        assert_eq!(credited(&given, 2), len, "{first} {second}");
        machine.bring(OTHER, SECOND_FILL, 2, at, len);
        let actions = machine.actions();
        assert!(actions.contains(&told(Frame::LeaseDone { lease: LeaseId::new(2) })), "{actions:?}");
        assert_eq!(machine.client.leases.count_of_stream(STREAM), 1);
        machine.settled();
        machine.client.audit().unwrap();
    }
}

/// A lease that ends leaves what it was promised to the one that hedges it, and nobody gets it twice.
#[test]
fn a_promise_outlives_one_of_two() {
    for ended in [0, 1] {
        let mut machine = tight();
        let at = machine.unordered();
        let whole = range(at, at + TIGHT);
        let given = machine.give(lease(0, JOB, whole));
        let promised = credited(&given, 0);
        let mut frames = 0;
        machine.stall(0, &mut frames);
        let given = machine.give(hedging(0, lease(1, SECOND_JOB, whole)));
        assert_eq!(credited(&given, 1), promised);
        machine.bring(OTHER, SECOND_FILL, 1, at, promised / 2);
        let code = ErrorCode::LEASE_REVOKED;
        machine.primary(Frame::LeaseRevoke { lease: LeaseId::new(ended), keep: 0, code });
        machine.settled();
        machine.client.audit().unwrap();
        machine.read_out();
    }
}

/// Has the primary open a run and end it, which leaves half of the window with nobody.
fn waste_half(machine: &mut Machine) {
    machine.run_at(512 << 20);
    machine.settled();
    machine.client.on_bytes(PathId::PRIMARY, RUN, sevens(1));
    machine.client.on_internal_end(PathId::PRIMARY, RUN, InternalEnd::Fin);
    machine.read_out();
    assert_eq!(machine.client.streams[&STREAM].run_outstanding(), window(machine) / 2 - 1);
}

/// A verified hedge takes only that part of the window that nobody was promised. Found by a random walk.
#[test]
fn a_hedge_costs_what_is_not_promised_yet() {
    let mut machine = machine(|config| config);
    let at = machine.unordered();
    waste_half(&mut machine);
    let (all, first, second) = (window(&machine), window(&machine) * 5 / 16, window(&machine) * 6 / 16);
    machine.give(lease(0, JOB, range(at, at + first)));
    let given = machine.give(lease(1, JOB, range(at + first, at + first + second)));
    let promised = credited(&given, 1);
    assert!((1..second).contains(&promised));
    let mut frames = 0;
    machine.stall(0, &mut frames);
    machine.stall(1, &mut frames);
    machine.bring(PATH, FILL, 0, at, first);
    machine.read_out();
    let room = all - (all / 2 - 1) - promised;
    assert!(room < second && room >= second - promised);
    let given =
        machine.give(hedging(1, verified(lease(2, SECOND_JOB, range(at + first, at + first + second)))));
    assert_eq!(credited(&given, 2), second);
}

/// The rest of what a stalled lease was promised comes by its hedge, however little it is. Found by a random walk.
#[test]
fn slivers_of_promises_are_brought_by_hedges() {
    let mut machine = machine(|config| config.session_window(512 * KIB).stream_window(64 * KIB));
    let at = machine.unordered();
    waste_half(&mut machine);
    let sliver = window(&machine) / 32 - 1;
    let (mut frames, mut stuck, mut next) = (0, Vec::new(), at);
    for id in 0.. {
        let whole = range(next, next + (1 << 20));
        next = whole.end();
        let credit = credited(&machine.give(lease(id, JOB, whole)), id);
        if credit <= sliver {
            break;
        }
        machine.bring(PATH, stream(3 + 4 * (100 + id)), id, whole.start(), credit - sliver);
        machine.stall(id, &mut frames);
        machine.read_out();
        stuck.push((id, range(whole.start() + credit - sliver, whole.end())));
    }
    let first = stuck.len() as u64 + 1;
    assert!(first > 8 && machine.client.held().0 == 0);
    for (hedge, &(id, rest)) in (first..).zip(&stuck) {
        let given = machine.give(hedging(id, lease(hedge, SECOND_JOB, rest)));
        assert_eq!(credited(&given, hedge), sliver);
    }
}

/// Room that may never come is not waited for.
#[test]
fn what_cannot_fit_holds_nobody_up() {
    let mut machine = machine(|config| config);
    let at = machine.unordered();
    let (big, len) = (window(&machine) * 5 / 8, window(&machine) / 2);
    let given = machine.give(lease(0, JOB, range(at, at + big)));
    assert_eq!(credited(&given, 0), big);
    let mut frames = 0;
    machine.stall(0, &mut frames);
    let given = machine.give(verified(lease(1, JOB, range(at + big, at + big + len))));
    assert_eq!(credited(&given, 1), 0);
    let given = machine.give(lease(2, SECOND_JOB, range(at + 2 * big, at + 3 * big)));
    assert!(credited(&given, 2) > 0, "it waits behind one that waits for what has stalled");
}

/// Nor does it hold up a primary that writes what has stalled. Found by the random walk, seed 47045.
#[test]
fn what_cannot_fit_does_not_hold_up_the_primary() {
    let mut machine = tight();
    let at = machine.unordered();
    let len = 100 * KIB;
    for index in 0..2 {
        let range = range(at + index * len, at + (index + 1) * len);
        assert_eq!(credited(&machine.give(verified(lease(index, JOB, range))), index), len);
    }
    let mut frames = 0;
    machine.stall(0, &mut frames);
    machine.stall(1, &mut frames);
    machine.run_at(512 << 20);
    machine.settled();
    let given = machine.give(verified(lease(2, SECOND_JOB, range(at + 2 * len, at + 2 * len + 128 * KIB))));
    assert_eq!(credited(&given, 2), 0);
    let mut written = 0;
    for _ in 0..20 {
        let most = machine.client.streams[&STREAM].run_outstanding();
        written += most;
        machine.client.on_bytes(PathId::PRIMARY, RUN, sevens(most));
        machine.settled();
        machine.read_out();
    }
    assert!(written > 10 * limits::GUARANTEED_CREDIT, "{written}");
}

/// A primary that writes whenever it may does not come first each time.
#[test]
fn a_writing_primary_leaves_room_for_others() {
    for is_verified in [true, false] {
        let mut machine = machine(|config| config);
        let at = machine.unordered();
        let len = window(&machine) / 2;
        machine.run_at(512 << 20);
        let write = |machine: &mut Machine| {
            let most = machine.client.streams[&STREAM].run_outstanding().min(64 * KIB);
            machine.client.on_bytes(PathId::PRIMARY, RUN, sevens(most));
            machine.settled()
        };
        for _ in 0..200 {
            write(&mut machine);
        }
        let given = lease(0, JOB, range(at, at + len));
        let mut given = machine.give(if is_verified { verified(given) } else { given });
        for _ in 0..2_000 {
            given.extend((0..4).flat_map(|_| write(&mut machine)).collect::<Vec<_>>());
            machine.now += Duration::from_millis(10);
            machine.client.read(machine.now, STREAM, 16 * 1024, false).unwrap();
            given.extend(machine.settled());
        }
        machine.client.audit().unwrap();
        assert!(credited(&given, 0) > 0, "verified {is_verified}");
    }
}

/// A range that is hedged in parts is here twice, part by part, as it lives on.
#[test]
fn a_verified_lease_that_is_hedged_in_part_has_room_of_its_own() {
    const PART: u64 = 64 * KIB;
    let mut machine = machine(|config| config);
    let len = window(&machine) / 2;
    machine.give(verified(lease(0, JOB, range(100, 100 + len))));
    let free = machine.client.extra_window_free();
    machine.bring(PATH, FILL, 0, 100, len - 1);
    for index in 0..len / PART - 1 {
        let part = range(100 + index * PART, 100 + (index + 1) * PART);
        machine.give(hedging(0, verified(lease(index + 1, SECOND_JOB, part))));
        machine.bring(OTHER, SECOND_FILL, index + 1, part.start(), PART);
        machine.client.on_internal_end(OTHER, SECOND_FILL, InternalEnd::Fin);
        assert_eq!(machine.client.extra_window_free(), free - len);
    }
    machine.client.on_bytes(PATH, FILL, sevens(1));
    assert_eq!(machine.client.extra_window_free(), free);

    let mut machine = tight();
    machine.give(verified(lease(0, JOB, range(100, 100 + 100 * KIB))));
    let refused = Frame::LeaseRefused { lease: LeaseId::new(1), code: ErrorCode::NO_CREDIT };
    let part = verified(lease(1, SECOND_JOB, range(100, 200)));
    assert_eq!(machine.give(hedging(0, part)), [told(refused)]);
}

/// Room that leases had for themselves is nobody's once the primary is gone.
#[test]
fn a_lost_primary_leaves_no_room_taken() {
    let mut machine = machine(|config| config);
    let free = machine.client.extra_window_free();
    let whole = range(100, 100 + 64 * KIB);
    machine.give(verified(lease(0, JOB, whole)));
    machine.give(hedging(0, verified(lease(1, SECOND_JOB, whole))));
    assert_eq!(machine.client.extra_window_free(), free - 64 * KIB);
    machine.client.on_primary_lost(ErrorCode::PRIMARY_LOST);
    assert_eq!(machine.client.extra_window_free(), free);
    machine.client.audit().unwrap();
}
