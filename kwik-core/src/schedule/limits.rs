//! The scheduler's constants, each with its reason, and the arithmetic that they need.

use std::time::Duration;

/// Shortest piece, but for what is left over: below it, opening and ending a lease costs more than a quarter of its
/// bytes.
pub(super) const PIECE_MIN: u64 = 64 * 1024;
/// Longest piece. From 1 MiB on a lease is nearly free; more only makes what is lost or cut longer.
pub(super) const PIECE_MAX: u64 = 4 * 1024 * 1024;
/// The time that a path should need for a piece. What the primary writes itself is told when a whole piece has come, and a
/// reader in order waits for whole pieces: with 100 ms a window of 4 MiB was one piece of each of three paths. Where bytes
/// are dear, at high rates, pieces are as long as they get anyhow.
pub(super) const PIECE_TIME: Duration = Duration::from_millis(40);
/// The part of the time that a lease needs until its first byte comes that a piece should take at least: more pieces than
/// these outlast it.
pub(super) const PIECE_TRIPS: u32 = 8;
/// Time for which a path has work, beside the trips of a lease: it outlasts the delay of news about the last.
pub(super) const QUEUE_TIME: Duration = Duration::from_millis(60);
/// The same in times that a lease needs until its first byte comes: a trip of the next lease, and one of the news.
pub(super) const QUEUE_TRIPS: u32 = 2;
/// Bytes that a path has to do at least until it has brought [`START_BYTES`], where so much is left: as long as it has work
/// QUIC sends twice as much with each round trip, in which nothing is heard of it.
pub(super) const START_OWED: u64 = 1024 * 1024;
/// Bytes after which the rate that a path has shown says how much it should have to do.
pub(super) const START_BYTES: u64 = 2 * 1024 * 1024;
/// Bytes given to one path at most, but for what was lost elsewhere.
pub(super) const OWED_MAX: u64 = 64 * 1024 * 1024;
/// Pieces given to one path at most, but for what was lost elsewhere: eight paths stay below the leases of a stream.
pub(super) const PIECES_PER_PATH: usize = 48;
/// Pieces of one path at most, whatever was lost: above it the core would refuse them.
pub(super) const PIECES_MAX: usize = 192;

/// The rate of a path of which nothing is known, in bytes per second.
pub(super) const RATE_GUESS: u64 = 1024 * 1024;
/// The time between a lease and its first byte, where nothing is known.
pub(super) const LATENCY_GUESS: Duration = Duration::from_millis(100);
/// Shortest time over which a rate is measured.
pub(super) const SAMPLE_MIN: Duration = Duration::from_millis(20);
/// The time for which a path may bring nothing, at least, before its rate is taken to fall.
pub(super) const PATIENCE_MIN: Duration = Duration::from_millis(100);
/// And at most, however rarely news of it comes.
pub(super) const PATIENCE_MAX: Duration = Duration::from_millis(500);

/// The time after which news of the reader says nothing about where it is now.
pub(super) const READ_STALE: Duration = Duration::from_millis(200);

/// A path crawls if it brings less than the fastest divided by this: a reader in order would wait for it.
pub(super) const CRAWLS: u64 = 16;
/// Round trips from its first byte on in which a path is taken to become faster.
pub(super) const START_TRIPS: u32 = 8;

/// The time by which a piece must be late for a reader in order before it is taken from its path.
pub(super) const RESCUE_MIN: Duration = Duration::from_millis(30);
/// Pieces that are looked at for that, from the reader on.
pub(super) const RESCUE_PIECES: usize = 16;

/// The shortest part worth taking from another path.
pub(super) const STEAL_MIN: u64 = 32 * 1024;
/// The shortest part worth bringing twice.
pub(super) const HEDGE_MIN: u64 = 4 * 1024;
/// The factor by which an owner must need longer than whoever hedges, in thousandths, while hedging has cost nothing.
pub(super) const HEDGE_FACTOR: u64 = 1_300;
/// The addition to that when the whole budget is spent.
pub(super) const HEDGE_FACTOR_SPENT: u64 = 3_000;

/// The time after which is looked again where a path idles although others have work.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The rest of a path after the first loss in a row, twice as long after each further one.
pub(super) const REST_FIRST: Duration = Duration::from_millis(50);
/// The longest rest.
pub(super) const REST_MAX: Duration = Duration::from_secs(2);
/// The rest of a path that takes no more at the moment.
pub(super) const REST_BUSY: Duration = Duration::from_millis(5);
/// The faults that may be held against a path before it gets nothing any more; half of it for bytes that were not what
/// they should be.
pub(super) const SCORE_MAX: u32 = 8;
/// Losses in a row, without a byte in between, before the object is given up.
pub(super) const LOSSES_MAX: u32 = 256;
/// The time that a piece of a path under suspicion is given at least.
pub(super) const DEADLINE_MIN: Duration = Duration::from_secs(2);
/// The same in times that it should need.
pub(super) const DEADLINE_FACTOR: u32 = 8;

/// Longer than anything here takes.
pub(super) const FOREVER: Duration = Duration::from_secs(24 * 60 * 60);

/// Returns how long `bytes` take at `rate` bytes per second, at most [`FOREVER`].
pub(super) fn time_for(bytes: u64, rate: u64) -> Duration {
    let nanos = (u128::from(bytes) * 1_000_000_000).checked_div(u128::from(rate));
    let nanos = nanos.and_then(|nanos| u64::try_from(nanos).ok());
    nanos.map_or(FOREVER, Duration::from_nanos).min(FOREVER)
}

/// Returns how many bytes come in `time` at `rate` bytes per second.
pub(super) fn bytes_in(time: Duration, rate: u64) -> u64 {
    let bytes = u128::from(rate) * time.as_nanos() / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Returns `value` × `times` ÷ `of`; 0 if `of` is.
pub(super) fn scale(value: u64, times: u64, of: u64) -> u64 {
    let scaled = (u128::from(value) * u128::from(times)).checked_div(u128::from(of)).unwrap_or(0);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}
