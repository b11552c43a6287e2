//! One rule after the other, told by hand.

use super::{
    limits::{LOSSES_MAX, PIECE_MAX, PIECE_MIN},
    *,
};

const OWN: PathId = PathId::PRIMARY;

fn mirror(number: u32) -> PathId {
    PathId::new(number)
}

/// A scheduler at an instant, and what it has decided.
struct Hand {
    scheduler: Scheduler,
    begin: Instant,
    at: Duration,
}

impl Hand {
    fn new(size: u64, paths: &[PathId], options: Options) -> Self {
        let begin = epoch();
        let mut scheduler = Scheduler::new(begin, ByteRange::new(0, size), options);
        for path in paths {
            scheduler.add_path(begin, *path, 0);
            scheduler.handle_rtt(begin, *path, 20 * MS);
        }
        Self { scheduler, begin, at: Duration::ZERO }
    }

    fn now(&self) -> Instant {
        self.begin + self.at
    }

    /// All that is decided now.
    fn poll(&mut self) -> Vec<Decision> {
        let mut decisions = Vec::new();
        while let Some(decision) = self.scheduler.poll(self.now()) {
            decisions.push(decision);
            self.scheduler.check();
        }
        decisions
    }

    /// The pieces that are given out now.
    fn given(&mut self) -> Vec<(PieceId, PathId, ByteRange)> {
        let given = self.poll().into_iter().filter_map(|decision| match decision {
            Decision::Lease { piece, path, range, .. } => Some((piece, path, range)),
            Decision::Write { piece, range, .. } => Some((piece, OWN, range)),
            Decision::Cut { .. } | Decision::Done | Decision::Failed(_) => None,
        });
        given.collect()
    }

    fn done(&mut self, piece: PieceId) {
        let now = self.now();
        self.scheduler.handle_done(now, piece);
    }

    fn lost(&mut self, piece: PieceId, why: Loss) {
        let now = self.now();
        let (_, range) = self.scheduler.piece(piece).expect("it lives");
        self.scheduler.handle_lost(now, piece, why, &[range]);
    }

    fn rate(&mut self, path: PathId, rate: u64) {
        let now = self.now();
        self.scheduler.handle_rate(now, path, rate);
    }

    /// Ends the pieces, one each 10 ms, until nothing changes any more.
    fn drain(&mut self, mut live: Vec<PieceId>) -> Vec<Decision> {
        let mut told = Vec::new();
        loop {
            let decisions = self.poll();
            live.extend(decisions.iter().filter_map(|decision| match decision {
                Decision::Lease { piece, .. } | Decision::Write { piece, .. } => Some(*piece),
                Decision::Cut { .. } | Decision::Done | Decision::Failed(_) => None,
            }));
            told.extend(decisions);
            if live.is_empty() {
                return told;
            }
            let piece = live.remove(0);
            self.at += 10 * MS;
            self.done(piece);
        }
    }
}

#[test]
fn nothing_to_bring_is_done_at_once() {
    let mut hand = Hand::new(0, &[], Options::default());
    assert_eq!(hand.scheduler.poll_timeout(), Some(hand.now()));
    assert_eq!(hand.poll(), [Decision::Done]);
    assert_eq!((hand.poll(), hand.scheduler.poll_timeout()), (vec![], None));
}

#[test]
fn pieces_double_up_to_40_ms() {
    let mut hand = Hand::new(100 * MIB, &[mirror(1)], Options::default());
    let mut lens = Vec::new();
    let mut live = Vec::new();
    for _ in 0..60 {
        for (piece, _, range) in hand.given() {
            lens.push(range.len());
            live.push((piece, range.len()));
        }
        let (piece, len) = live.remove(0);
        hand.at += Duration::from_micros(len / 20);
        hand.done(piece);
    }
    assert_eq!(lens[0], PIECE_MIN);
    assert!(lens.is_sorted_by(|one, two| *two > one - one / 8), "{lens:?}");
    let last = *lens.last().expect("given");
    assert!((600_000..=900_000).contains(&last), "{lens:?}");
    assert!(last <= PIECE_MAX);
}

#[test]
fn what_is_lost_goes_to_others_at_once_and_over_any_bound() {
    let mut hand = Hand::new(100 * MIB, &[OWN, mirror(1), mirror(2)], Options::default());
    let given = hand.given();
    assert!(hand.given().is_empty(), "all have enough");
    let now = hand.now();
    hand.scheduler.handle_path(now, mirror(1), PathNews::Silent);
    let lost: Vec<_> = given.iter().filter(|(_, path, _)| *path == mirror(1)).collect();
    for (piece, ..) in &lost {
        hand.lost(*piece, Loss::Path);
    }
    let again = hand.given();
    let bytes = |pieces: &mut dyn Iterator<Item = ByteRange>| pieces.map(ByteRange::len).sum::<u64>();
    assert_eq!(
        bytes(&mut again.iter().map(|(.., range)| *range)),
        bytes(&mut lost.iter().map(|(.., range)| *range))
    );
    assert!(again.iter().all(|(_, path, _)| *path != mirror(1)), "{again:?}");
}

#[test]
fn a_path_that_comes_back_shows_itself_first() {
    let options = Options::default().digests(Digests::Suspects);
    let mut hand = Hand::new(100 * MIB, &[OWN, mirror(1)], options);
    let given = hand.given();
    let now = hand.now();
    hand.scheduler.handle_path(now, mirror(1), PathNews::Silent);
    for (piece, ..) in given.iter().filter(|(_, path, _)| *path == mirror(1)) {
        hand.lost(*piece, Loss::Path);
    }
    hand.poll();
    hand.at += 500 * MS;
    let now = hand.now();
    hand.scheduler.handle_path(now, mirror(1), PathNews::Answers);
    let mut counts = Vec::new();
    for _ in 0..3 {
        let leases: Vec<_> = hand
            .poll()
            .into_iter()
            .filter_map(|decision| match decision {
                Decision::Lease { piece, range, verified, deadline, .. } => {
                    Some((piece, range, verified, deadline))
                }
                Decision::Write { .. } | Decision::Cut { .. } | Decision::Done | Decision::Failed(_) => None,
            })
            .collect();
        counts.push(leases.len());
        assert!(leases.iter().all(|(_, range, ..)| range.len() <= 2 * PIECE_MIN), "{leases:?}");
        assert!(leases.iter().all(|(.., verified, deadline)| *verified && deadline.is_some()), "{leases:?}");
        hand.at += 50 * MS;
        leases.into_iter().for_each(|(piece, ..)| hand.done(piece));
    }
    assert_eq!(counts[0], 1, "{counts:?}");
    assert!(counts.iter().all(|count| (1..=4).contains(count)), "{counts:?}");
}

#[test]
fn three_of_four_mirrors_lie() {
    let options = Options::default().digests(Digests::Always);
    let mut hand = Hand::new(10 * MIB, &[mirror(1), mirror(2), mirror(3), mirror(4)], options);
    let mut live = std::collections::VecDeque::new();
    let mut lies = 0;
    let end = loop {
        for decision in hand.poll() {
            match decision {
                Decision::Lease { piece, path, verified, .. } => {
                    assert!(verified);
                    live.push_back((piece, path));
                }
                Decision::Cut { piece, .. } => {
                    let now = hand.now();
                    hand.scheduler.handle_cut(now, piece, &[]);
                }
                Decision::Write { .. } => panic!("nobody said that the primary writes"),
                Decision::Done | Decision::Failed(_) => live.clear(),
            }
            if matches!(decision, Decision::Done | Decision::Failed(_)) {
                live.push_back((PieceId(u64::MAX), OWN));
            }
        }
        hand.at += 10 * MS;
        match live.pop_front() {
            Some((PieceId(u64::MAX), _)) => break hand.scheduler.report(),
            Some((piece, path)) if path == mirror(4) => hand.done(piece),
            Some((piece, _)) => {
                lies += 1;
                hand.lost(piece, Loss::WrongDigest);
            }
            None => hand.at = hand.scheduler.poll_timeout().map_or(hand.at, |at| at - hand.begin),
        }
    };
    assert_eq!(end.arrived, end.total);
    // What they were given before the first lie was known.
    assert!(lies <= 3 * 5, "{lies}");
}

#[test]
fn one_is_left_or_nobody() {
    let mut hand = Hand::new(MIB, &[mirror(1), mirror(2)], Options::default());
    let given = hand.given();
    let now = hand.now();
    for path in [mirror(1), mirror(2)] {
        hand.scheduler.handle_path(now, path, PathNews::Dead);
    }
    assert_eq!(hand.poll(), [], "what they had may still come");
    for (piece, ..) in given {
        hand.lost(piece, Loss::Path);
    }
    let told = hand.poll();
    assert!(
        matches!(told[..], [Decision::Failed(Failure::NobodyLeft(hole))] if hole.start() == 0),
        "{told:?}"
    );
}

#[test]
fn losses_without_end_are_given_up() {
    let mut hand = Hand::new(64 * 1024, &[mirror(1)], Options::default());
    for round in 0..=LOSSES_MAX {
        let decisions = hand.poll();
        match decisions.first() {
            Some(Decision::Lease { piece, .. }) => hand.lost(*piece, Loss::GivenUp),
            Some(Decision::Failed(why)) => {
                assert_eq!((*why, round), (Failure::NothingArrives(range(0, 65_536)), LOSSES_MAX));
                return;
            }
            other => panic!("{other:?}"),
        }
        if round + 1 == LOSSES_MAX {
            continue;
        }
        assert_eq!(hand.poll(), [], "it rests");
        hand.at = hand.scheduler.poll_timeout().expect("it does not rest for ever") - hand.begin;
    }
    panic!("it goes on");
}

#[test]
fn a_busy_path_is_asked_again_soon() {
    let mut hand = Hand::new(MIB, &[mirror(1)], Options::default());
    let given = hand.given();
    let now = hand.now();
    hand.scheduler.handle_refused(now, given[0].0, Refusal::Busy);
    assert_eq!(hand.given(), []);
    hand.at = hand.scheduler.poll_timeout().expect("soon") - hand.begin;
    assert!(hand.at <= 20 * MS);
    assert_eq!(hand.given()[0].2.start(), 0);
}

/// Two paths: the first has a last piece, the second nothing.
fn last_piece(left: u64, rates: (u64, u64), options: Options) -> (Hand, PieceId) {
    let mut hand = Hand::new(4 * MIB, &[mirror(1)], options);
    hand.rate(mirror(1), rates.0);
    let mut given = hand.given();
    while hand.scheduler.ledger.unowned() > 0 || given.len() > 1 {
        let (piece, ..) = given.remove(0);
        hand.at += 10 * MS;
        hand.done(piece);
        hand.rate(mirror(1), rates.0);
        given.extend(hand.given());
    }
    let (piece, _, range) = given[0];
    let now = hand.now();
    hand.scheduler.handle_progress(now, piece, range.len().saturating_sub(left));
    hand.rate(mirror(1), rates.0);
    assert_eq!(hand.poll(), []);
    hand.scheduler.add_path(now, mirror(2), 0);
    hand.scheduler.handle_rtt(now, mirror(2), 20 * MS);
    hand.rate(mirror(2), rates.1);
    (hand, piece)
}

#[test]
fn a_slow_path_is_relieved_in_proportion() {
    let (mut hand, piece) = last_piece(64_000, (20_000, 60_000), Options::default());
    let (_, whole) = hand.scheduler.piece(piece).expect("it lives");
    let decisions = hand.poll();
    let [Decision::Cut { piece: cut, keep }] = decisions[..] else { panic!("{decisions:?}") };
    assert_eq!(cut, piece);
    // Three quarters, less what the slow one does while they change hands.
    let taken = whole.len() - keep;
    assert!((47_000..47_300).contains(&taken), "{taken}");
    let now = hand.now();
    let back = range(whole.start() + keep, whole.end());
    hand.scheduler.handle_cut(now, piece, &[back]);
    assert_eq!(
        hand.given().iter().map(|(_, path, range)| (*path, *range)).collect::<Vec<_>>(),
        [(mirror(2), back)]
    );
}

#[test]
fn what_is_nearly_there_is_left_alone() {
    // 10 ms are left; to hand it over takes 60.
    let (mut hand, _) = last_piece(10_000, (1_000_000, 100_000_000), Options::default());
    assert_eq!(hand.poll(), []);
}

#[test]
fn at_the_end_one_range_is_asked_for_twice_within_the_budget() {
    let hedges = |permille: u64| {
        let options = Options::default().duplicates_permille(permille);
        let (mut hand, piece) = last_piece(60_000, (20_000, 1_000_000), options);
        // It cannot be cut, so it is hedged.
        let Some(Decision::Cut { .. }) = hand.poll().pop() else { panic!("it is worth a cut") };
        let now = hand.now();
        hand.scheduler.handle_cut(now, piece, &[]);
        let decisions = hand.poll();
        hand.at += 500 * MS;
        assert_eq!(hand.poll(), [], "once");
        decisions
            .into_iter()
            .map(|decision| match decision {
                Decision::Lease { range, path, hedge_of, .. } => {
                    assert_eq!((path, hedge_of), (mirror(2), Some(piece)));
                    range.len()
                }
                Decision::Write { .. } | Decision::Cut { .. } | Decision::Done | Decision::Failed(_) => 0,
            })
            .collect::<Vec<_>>()
    };
    assert!(hedges(0).is_empty());
    assert_eq!(hedges(20), [60_000]);
    assert_eq!(hedges(10), [4 * MIB / 100], "the end of it, since the owner goes on from the front");
}

#[test]
fn what_hedging_has_cost_raises_what_it_must_gain() {
    // The owner takes 2 s, the other a bit more than half of that.
    let hedged = |spent: u64| {
        let (mut hand, piece) = last_piece(60_000, (30_000, 100_000), Options::default());
        hand.poll();
        let now = hand.now();
        hand.scheduler.handle_cut(now, piece, &[]);
        hand.scheduler.handle_duplicate(mirror(1), DuplicateReason::Hedge, spent);
        !hand.poll().is_empty()
    };
    assert!(hedged(0));
    assert!(!hedged(60_000));
}

#[test]
fn one_of_two_ends_and_the_other_goes_on() {
    let (mut hand, piece) = last_piece(60_000, (20_000, 1_000_000), Options::default());
    hand.poll();
    let now = hand.now();
    hand.scheduler.handle_cut(now, piece, &[]);
    let [(hedge, _, twice)] = hand.given()[..] else { panic!("it is hedged") };
    // The owner is lost: what the other brings is not missing.
    hand.scheduler.handle_lost(now, piece, Loss::Path, &[twice]);
    hand.scheduler.check();
    assert_eq!(hand.poll(), []);
    // Then the other is lost as well, and all of it goes out again.
    hand.lost(hedge, Loss::Path);
    hand.scheduler.check();
    hand.at += Duration::from_secs(3);
    assert_eq!(hand.given().iter().map(|(.., range)| range.len()).sum::<u64>(), 60_000);
}

#[test]
fn what_both_brought_is_counted() {
    let (mut hand, piece) = last_piece(60_000, (20_000, 1_000_000), Options::default());
    hand.poll();
    let now = hand.now();
    hand.scheduler.handle_cut(now, piece, &[]);
    let [(hedge, _, twice)] = hand.given()[..] else { panic!("it is hedged") };
    let (_, whole) = hand.scheduler.piece(piece).expect("it lives");
    hand.scheduler.handle_progress(now, piece, twice.start() + 1000 - whole.start());
    hand.done(hedge);
    hand.scheduler.handle_lost(now, piece, Loss::Covered, &[]);
    assert_eq!(hand.poll(), [Decision::Done]);
    let report = hand.scheduler.report();
    assert_eq!(report.duplicates(), 1000);
    assert_eq!(report.paths[&mirror(1)].duplicates[&DuplicateReason::Hedge], 1000);
    assert_eq!((report.paths[&mirror(1)].hedged, report.paths[&mirror(2)].hedges), (1, 1));
    assert_eq!(report.arrived, report.total);
}

#[test]
fn bytes_that_are_lost_after_they_came_are_counted() {
    let mut hand = Hand::new(PIECE_MIN, &[OWN], Options::default());
    let (piece, ..) = hand.given()[0];
    let now = hand.now();
    hand.scheduler.handle_progress(now, piece, 500);
    hand.lost(piece, Loss::Other);
    assert_eq!(hand.scheduler.report().paths[&OWN].duplicates[&DuplicateReason::Lost], 500);
}

#[test]
fn a_hole_goes_out_again() {
    let mut hand = Hand::new(MIB, &[OWN], Options::default());
    let given = hand.given();
    hand.done(given[0].0);
    hand.poll();
    let now = hand.now();
    hand.scheduler.handle_gap(now, &[range(10, 20), range(given[1].2.start(), given[1].2.end())]);
    hand.scheduler.check();
    assert_eq!(
        hand.given().iter().map(|(.., range)| *range).collect::<Vec<_>>(),
        [range(10, 20)],
        "the rest has an owner"
    );
}

#[test]
fn a_reader_in_order_is_not_overrun() {
    let mut hand = Hand::new(100 * MIB, &[OWN, mirror(1)], Options::default().policy(InOrder));
    let now = hand.now();
    hand.scheduler.handle_window(now, MIB);
    hand.rate(OWN, 10_000_000);
    hand.rate(mirror(1), 10_000_000);
    let mut given = hand.given();
    assert!(given.iter().all(|(.., range)| range.end() <= MIB), "{given:?}");
    // The first is lost while all is given out: it goes out at once.
    let first = given.iter().position(|(.., range)| range.start() == 0).expect("from the start");
    let (piece, _, lost) = given.remove(first);
    hand.lost(piece, Loss::Other);
    assert_eq!(hand.given()[0].2, lost);
}

#[test]
fn slow_paths_leave_the_end_to_fast_ones() {
    let mut hand = Hand::new(MIB, &[mirror(1), mirror(2)], Options::default());
    hand.rate(mirror(1), 10_000_000);
    hand.rate(mirror(2), 10_000);
    let slow = hand.given().iter().filter(|(_, path, _)| *path == mirror(2)).count();
    assert_eq!(slow, 0, "64 KiB take it 6 s, and the other 0.1 for all");
    let told = hand.drain(Vec::new());
    assert!(told.is_empty());
}

#[test]
fn dear_paths_work_where_they_are_worth_it() {
    let bytes = |worth: u64| {
        let begin = epoch();
        let mut scheduler = Scheduler::new(
            begin,
            ByteRange::new(0, 100 * MIB),
            Options::default().policy(CostWeighted::new(worth)),
        );
        scheduler.add_path(begin, OWN, 1);
        scheduler.add_path(begin, mirror(1), 91);
        scheduler.handle_rate(begin, OWN, 10 << 20);
        scheduler.handle_rate(begin, mirror(1), 10 << 20);
        let mut dear = 0;
        while let Some(decision) = scheduler.poll(begin) {
            if let Decision::Lease { range, .. } = decision {
                dear += range.len();
            }
        }
        dear
    };
    // A gibibyte takes the cheap path 102 s, so the dear one may cost that much more.
    assert_eq!(bytes(0), 0);
    assert!(bytes(1) > 0);
}

#[test]
fn what_is_late_changes_nothing() {
    let mut hand = Hand::new(MIB, &[OWN], Options::default());
    let given = hand.given();
    let gone = PieceId(1000);
    let now = hand.now();
    let before = hand.scheduler.report();
    hand.scheduler.handle_done(now, gone);
    hand.scheduler.handle_lost(now, gone, Loss::Other, &[range(0, 5)]);
    hand.scheduler.handle_refused(now, gone, Refusal::Gone);
    hand.scheduler.handle_cut(now, gone, &[range(0, 5)]);
    hand.scheduler.handle_progress(now, gone, 7);
    hand.scheduler.handle_stalled(now, gone, true);
    hand.scheduler.handle_path(now, mirror(7), PathNews::Dead);
    hand.scheduler.handle_progress(now, given[0].0, 0);
    assert_eq!((hand.poll(), hand.scheduler.report()), (vec![], before));
}

/// Its queue ran dry before a rate could be told, each time, and so it was given short pieces for ever.
#[test]
fn a_path_that_often_runs_dry_is_measured_all_the_same() {
    let (mut meter, mut now) = (Meter::default(), epoch());
    for _ in 0..30 {
        meter.begin(now);
        now += MS;
        meter.on_bytes(now, 64 * 1024);
        meter.rest();
        now += 5 * MS; // it has nothing to do
    }
    assert_eq!(meter.measured(), Some(64 * 1024 * 1000));
}

/// It was given nothing any more: what the reader takes is told with what comes over leases, and nothing came.
#[test]
fn a_reader_of_whom_nothing_is_told_is_not_waited_for() {
    let mut hand = Hand::new(8 * MIB, &[OWN, mirror(1)], Options::default().policy(InOrder));
    hand.scheduler.handle_window(hand.now(), MIB);
    hand.scheduler.handle_read(hand.now(), 1000);
    let mut rounds = 0;
    while hand.scheduler.report().arrived < 8 * MIB {
        rounds += 1;
        assert!(rounds < 1000, "{:?}", hand.scheduler.report());
        let given = hand.given();
        assert!(!given.is_empty(), "nobody has work, at {:?}", hand.scheduler.report());
        hand.at += 20 * MS;
        given.into_iter().for_each(|(piece, ..)| hand.done(piece));
    }
}
