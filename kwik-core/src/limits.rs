//! Every bound of PROTOCOL §11 in one place. What is configurable starts from these defaults.

use std::time::Duration;

/// The ALPN of the protocol. Spec: PROTOCOL §4.
pub const ALPN: &[u8] = b"kwik/1";
/// The only protocol version.
pub const VERSION: u32 = 1;

/// Largest control frame body in bytes; refused before allocation.
pub const CONTROL_FRAME_MAX: usize = 4 * 1024;
/// Largest header at the start of a unidirectional stream, in bytes.
pub const STREAM_HEADER_MAX: usize = 128;
/// Control bytes waiting for QUIC on one path; past it the path is closed with `EXCESSIVE_LOAD`.
pub const CONTROL_BACKLOG_MAX: usize = 1024 * 1024;
/// Control frames that wait behind one that is not signed yet; past it the session is closed with `EXCESSIVE_LOAD`.
pub const OUTBOX_MAX: usize = 16 * 1024;
/// Part of QUIC's send window that application bytes leave free for control.
pub const CONTROL_RESERVE: u64 = 256 * 1024;
/// Control frames that a peer may send beyond what is paid for, and what unspent ones pile up to: more than all that an
/// honest peer has to say at once where every table of a session is full.
pub const CONTROL_BURST: u64 = 16 * 1024;
/// Control frames a peer may send per second beyond what is paid for.
pub const CONTROL_RATE: u64 = 128;
/// Bytes of internal streams that pay for one control frame: credit is given in larger pieces.
pub const BYTES_PER_CONTROL_FRAME: u64 = 2 * 1024;
/// Shortest time between two reports of progress of one path.
pub const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);
/// Reports of progress per path and second that pay for themselves: more than the client may send, whose clock is another.
pub const PROGRESS_RATE: u64 = 24;
/// And those that pile up: what a path of the idle timeout may hold back.
pub const PROGRESS_BURST: u64 = 640;
/// Jobs and leases that a client takes to one secondary beyond what came of earlier ones.
pub const ERRANDS_BURST: u64 = 1024;
/// Jobs and leases that a client takes to one secondary per second beyond what came of earlier ones.
pub const ERRANDS_RATE: u64 = 32;
/// Jobs with a wrong seal that a secondary looks at before it closes the path. Nothing earns more of them.
pub const FORGED_JOBS_BURST: u64 = 16;
/// Jobs with a wrong seal per minute that a secondary looks at.
pub const FORGED_JOBS_PER_MINUTE: u64 = 6;
/// Messages with a wrong seal that a server looks at; beyond them those that are sealed are dropped unread.
pub const FORGED_RELAYS_BURST: u64 = 64;
/// Messages with a wrong seal per second that a server looks at.
pub const FORGED_RELAYS_PER_SECOND: u64 = 8;
/// Entries of any repeated field in a control frame.
pub const REPEATED_MAX: usize = 64;
/// Bytes of any free text from a peer.
pub const REASON_MAX: usize = 256;

/// Secondary paths alive at once in a session.
pub const SECONDARY_PATHS_MAX: usize = 8;
/// Dead paths kept for `paths()`.
pub const DEAD_PATHS_LISTED: usize = 64;
/// Addresses in one `AddPath`.
pub const PATH_ADDRESSES_MAX: usize = 4;
/// SPKI pins in one `AddPath`.
pub const PATH_PINS_MAX: usize = 4;
/// Keys of which a secondary may sign what it has relayed: each costs a verification per message that is not.
pub const RELAY_KEYS_MAX: usize = 4;
/// Primaries' keys that a secondary trusts: each has a share of its own of what must be remembered.
pub const PRIMARY_KEYS_MAX: usize = 16;
/// Dials under way at once in a session.
pub const DIALS_AT_ONCE: usize = 4;
/// Dials per minute in a session.
pub const DIALS_PER_MINUTE: u64 = 16;
/// Addresses that could not be attached and are remembered for it.
pub const FAILED_DIALS_MAX: usize = 64;
/// Bytes of a ticket.
pub const TICKET_MAX: usize = 512;
/// Validity of a ticket.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(60);
/// Clock difference between primary and secondary that a ticket survives.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5);
/// Ticket nonces a secondary remembers of each primary's key; full means refuse.
pub const NONCES_MAX: usize = 64 * 1024;

/// A split stream's receive window at its start, in bytes.
pub const STREAM_WINDOW: u64 = 4 * 1024 * 1024;
/// The sum of all split streams' receive windows in a session, in bytes.
pub const SESSION_WINDOW: u64 = 64 * 1024 * 1024;
/// Credit every split stream has whatever the others hold, and what a primary may send before `SplitAck`.
pub const GUARANTEED_CREDIT: u64 = 64 * 1024;
/// Split streams at once in a session; each is guaranteed [`GUARANTEED_CREDIT`] of the session window.
pub const SPLIT_STREAMS_MAX: usize = 128;
/// Runs of the primary's own out-of-order bytes open at once, per session.
pub const RUNS_MAX: usize = 64;

/// Jobs per path.
pub const JOBS_PER_PATH: usize = 256;
/// Live leases per path.
pub const LEASES_PER_PATH: usize = 256;
/// Live leases per stream.
pub const LEASES_PER_STREAM: usize = 512;
/// Live leases per session.
pub const LEASES_PER_SESSION: usize = 2048;
/// Longest lease in bytes.
pub const LEASE_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// Bytes of a job's payload.
pub const JOB_PAYLOAD_MAX: usize = 2 * 1024;
/// Validity of a job's seal unless the application says otherwise.
pub const JOB_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// Streams permitted on a secondary's path beyond its live leases: for those whose end is on its way, and for relays.
pub const UNI_SLACK: u64 = 8 + RELAY_STREAMS as u64;

/// Streams permitted on a secondary's path at the start.
pub const UNI_START: u64 = UNI_SLACK + 8;

/// Unidirectional streams that a client permits its primary for what it writes into split streams, beyond those of its
/// application, once `splits` streams were split: each run and each sequential writing may have one. Spec: PROTOCOL §4.
pub(crate) const fn run_slots(splits: usize) -> usize {
    match splits {
        0 => 0,
        1..SPLIT_STREAMS_MAX => RUNS_MAX + splits.next_power_of_two(),
        SPLIT_STREAMS_MAX.. => RUNS_MAX + SPLIT_STREAMS_MAX,
    }
}

/// Bytes of a relayed message.
pub const RELAY_MAX: u32 = 64 * 1024;
/// Relayed bytes that one end of a connection sends per second; at twice the rate they are refused.
pub const RELAY_RATE: u64 = 1024 * 1024;
/// Relayed bytes taken at once, when there were none for a while; and those that may wait for an application to take
/// them, or for a slow path: what comes beyond is refused.
pub const RELAY_BURST: u64 = 1024 * 1024;
/// Least size that a relayed message is counted with, in bytes.
pub const RELAY_COST_MIN: u64 = 1024;
/// Relayed messages that an application may have on their way over one connection.
pub const RELAYS_AT_ONCE: usize = 64;
/// Streams of relayed messages open at once on one connection, per direction. They have slots of their own: on the
/// connections of secondaries from the start, on the primary's once there was one.
pub const RELAY_STREAMS: usize = 8;
/// QUIC connection window that goes with those slots, so that messages left unread block nobody else, in bytes.
pub const RELAY_WINDOW: u64 = RELAY_STREAMS as u64 * RELAY_MAX as u64;

/// Score at which a path is closed for faults that were let pass; wrong bytes count for half of it.
pub const FAULT_SCORE_MAX: u32 = 8;

/// Disjoint runs held by one stream's reassembly.
pub const EXTENTS_PER_STREAM: usize = 1024;
/// Disjoint runs held by all streams of a session.
pub const EXTENTS_PER_SESSION: usize = 4096;
/// Chunks shorter than this are copied, so that a sliver never pins its datagram's buffer.
pub const COPY_BELOW: usize = 512;

/// Handshake plus hello on a server.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// `AddPath` to an attached path on the client; below 3 s so that the reason reaches the primary within 3 s.
pub const ATTACH_TIMEOUT: Duration = Duration::from_millis(2_500);
/// Shortest stall grace: time in which a lease may bring nothing, on a path that answers, before others may bring it.
pub const STALL_MIN: Duration = Duration::from_millis(250);
/// And what it may at most take, however long this path usually does.
pub const STALL_MAX: Duration = Duration::from_secs(2);
/// Time from one question about a hole to the next.
pub const GAP_ASK_AGAIN: Duration = Duration::from_secs(2);
/// A hole that nobody owns, before the reader is told.
pub const GAP_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent connection is dead after this.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Streams a client permits its primary at the start, per direction.
pub const CLIENT_STREAMS_START: u64 = 64;
/// Streams a server permits its client at the start, per direction; they grow with use.
pub const SERVER_STREAMS_START: u64 = 16;
/// Streams permitted per direction at most, once grown, however small their windows.
pub const STREAMS_MAX: u64 = 1024;
/// The most that an application may ask for: quinn-proto keeps a place for each that is permitted.
pub const STREAMS_CEILING: u64 = 1024 * 1024;
/// Bidirectional streams permitted before the hello is accepted.
pub const HELLO_BIDI: u32 = 4;
/// Unidirectional streams permitted before the hello is accepted.
pub const HELLO_UNI: u32 = 1;
/// The smallest QUIC stream window that may be set, in bytes: a relayed message and its header fit it.
pub const QUIC_STREAM_WINDOW_MIN: u32 = 64 * 1024;
/// The largest that may be set, in bytes.
pub const QUIC_STREAM_WINDOW_CEILING: u32 = 1024 * 1024 * 1024;
/// The smallest send window that may be set, in bytes.
pub const QUIC_SEND_WINDOW_MIN: u64 = 64 * 1024;
/// The largest window of any kind that may be set, in bytes: sums of some hundred are still no overflow.
pub const WINDOW_CEILING: u64 = 1 << 48;
/// Incoming connections that a server holds before the application accepts them.
pub const ACCEPTS_MAX: usize = 1024;
/// The most that may be set.
pub const ACCEPTS_CEILING: usize = 1024 * 1024;
/// The longest idle timeout and keep-alive interval that may be set.
pub const IDLE_CEILING: Duration = Duration::from_secs(60 * 60);
/// The longest of the other times that may be set: long enough for "never", short enough to be added to any instant.
pub const WAIT_CEILING: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest that an address token may be good for.
pub const TOKEN_LIFETIME_CEILING: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The shortest time that may be set; no clock or scheduler is finer.
pub const WAIT_MIN: Duration = Duration::from_millis(10);
/// Half-open sessions without a proof of address above which clients are sent for one. A forged first flight costs a
/// server some 0.2 ms and 29 KiB for as long as the hello may take; a Retry costs next to nothing.
pub const RETRY_ABOVE: usize = 512;
/// Half-open sessions of a server in all: 240 MiB, and far more than handshakes that a machine can do in a round trip.
pub const HALF_OPEN_MAX: usize = 8 * 1024;
/// Half-open sessions of a server from one /24 or /64: many households may be behind one address.
pub const HALF_OPEN_PER_PREFIX: usize = 1024;
/// The most of either that may be set.
pub const HALF_OPEN_CEILING: usize = 1024 * 1024;
/// Datagrams that wait for the tasks of all sessions of a server, in bytes: what some twenty may have at most.
pub const BACKLOG_MAX: u64 = 256 * 1024 * 1024;
/// The least that may be set.
pub const BACKLOG_MIN: u64 = 1024 * 1024;
/// QUIC connection window before the hello is accepted, in bytes.
pub const HELLO_WINDOW: u32 = 64 * 1024;
/// QUIC stream window in bytes: at 2 MiB loss alone cannot reach quinn-proto's 1,024 gaps in one stream.
pub const QUIC_STREAM_WINDOW: u32 = 2 * 1024 * 1024;
/// QUIC send window of a connection in bytes.
pub const QUIC_SEND_WINDOW: u64 = 8 * 1024 * 1024;
/// QUIC connection window beyond what the streams may fill, so that control is never blocked.
pub const CONTROL_WINDOW: u64 = 1024 * 1024;
/// Stream windows' worth of native bytes that may wait for a session's task. What may be under way at all is more, but
/// nobody has as many streams running at full speed.
pub const NATIVE_WINDOWS_UNDER_WAY: u64 = 4;
/// Bytes that native streams of one connection may hold unread, all together: 128 streams in either direction, and as
/// many bidirectional ones of our own, with a window of 2 MiB each. quinn permits 100.
pub const NATIVE_MEMORY: u64 = 768 * 1024 * 1024;

/// Bytes of a server's name in `AddPath`: the longest DNS name.
pub const SERVER_NAME_MAX: usize = 253;

/// Bytes of all application protocol names in a hello; with it the largest hello fits [`CONTROL_FRAME_MAX`].
pub const APP_ALPN_TOTAL_MAX: usize = 3 * 1024;
/// Application protocols offered in a hello.
pub const APP_ALPN_MAX: usize = 16;
/// Bytes of one application protocol name.
pub const APP_ALPN_LEN_MAX: usize = 255;
