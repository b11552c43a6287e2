//! The simulator: real KWIK sessions over real QUIC and TLS, in a network that is made up, in a time that is made up.
//!
//! A [`World`] is one thread, one queue of things that happen, and machines: a primary, up to nine secondaries, any
//! number of clients, each a [`kwik_core::Endpoint`] with its sessions and an application above them. Everything that
//! is random follows from one seed: the same seed gives the same datagrams, byte for byte, at the same nanosecond. After
//! every step the [oracle] compares what applications saw with what was written, each session audits its own
//! books, and the world checks its heap, its wake-ups and what was sent to whom.
//!
//! # Your own scenario
//! ```
//! use std::time::Duration;
//! use kwik_tests::sim::{Fault, NodeId, Offer, World};
//!
//! // A client, a primary and three secondaries, 20 ms apart.
//! let ms = Duration::from_millis;
//! let mut world = World::seeded(7).secondaries(3).one_way(ms(20)).build();
//!
//! // The primary sends an object of 2 MiB; ranges of it go to whoever is attached.
//! world.offer(Offer { size: 2 << 20, ..Offer::default() });
//! world.run_until(ms(60_000), |w| w.delivered() > 1 << 20);
//!
//! // One secondary falls silent, another restarts and knows nothing any more.
//! world.cut(NodeId::secondary(1));
//! world.apply(Fault::Crash(NodeId::secondary(2)));
//! world.schedule(world.at() + ms(500), Fault::Restart(NodeId::secondary(2), false));
//!
//! // Whatever the oracle holds to be impossible would have panicked by now.
//! world.run_until(ms(60_000), |w| w.delivered() == 2 << 20 && w.is_done());
//! world.finish(); // closes everything and checks that nothing is left
//! ```
//!
//! - *Other applications:* [`ClientPlan`], [`PrimaryPlan`] and [`SecondaryPlan`] say how the built-in ones behave: what
//!   they open, how they read, how slow their disks are. [`World::call`] hands you a session to command yourself.
//! - *Other networks:* [`Conditions`] for each direction of each link, and [`Fault`]s at any time; [`Setup::nat`] puts
//!   clients behind one that forgets them.
//! - *Look at it:* [`Setup::record`] keeps the text, [`World::trace`] has it: one decision per line.
//! - *No deadlock passes:* give clients a keep-alive, or a stall ends as an idle timeout; [`World::check_calm`] demands
//!   that all was delivered, [`marks`] that a long series has seen every fault, end and edge.
//! - *Stop at any point:* [`World::interrupt`] ends an application at its n-th call.
//! - *Many worlds:* [`swarm`] draws them from seeds; `cargo run --release -p kwik-tests --bin sim -- --seeds 2000` runs
//!   them, `--twice` in two processes whose hashes must agree, and a failure prints the line that replays it.
//! - *What control costs:* [`mixes`] runs one session through ten minutes of drawn honest work, `sim --profile mixes`, in
//!   which nobody may be held back; [`evil::floods`] measures drawn floods, `sim --profile floods`.
//! - *How fast:* [`mod@bench`] sends objects over links of all kinds, `sim bench` runs it; [`Distributed`] has an offer handed out
//!   as applications have it done, where the others hand out anything to anybody.
//! - *One long world:* [`soak`] uses one session for a hundred thousand streams, `sim --profile soak` runs it.
//! - *Shrinking:* [`operations`] tells a world as a list that a property test can shorten.
//!
//! A failure names the invariant it is of by its number in the oracle's and the world's texts; what a session's own audit
//! contradicts has none. There are certificates for nine secondaries. The crate counts allocations per thread and so
//! brings a `#[global_allocator]`: a program with its own cannot link it.
//!
//! # What it found
//! Each is kept as a scenario or an attack that failed before its fix.
//!
//! | Found | By | Kept as |
//! |---|---|---|
//! | an internal stream was mistaken for a finished application stream with its id on another connection | swarm | `regressions::an_internal_stream_is_not_mistaken_for_a_finished_stream_of_the_same_id` |
//! | leases were mapped once the primary was lost | swarm | `regressions::nothing_is_mapped_once_the_primary_is_lost` |
//! | QUIC gave bytes again when their order was given up | swarm | `regressions::bytes_read_in_order_do_not_come_back_out_of_order` |
//! | a client that moved with a probe due stopped a server in debug builds | swarm | `regressions::a_client_may_move_while_a_probe_is_due` |
//! | a close that came with the handshake was called a fault | swarm | `regressions::a_close_that_comes_with_the_handshake_is_no_fault` |
//! | runs that waited for credit held every stream slot | swarm | `regressions::runs_that_wait_for_credit_leave_a_slot_for_the_one_that_is_needed` |
//! | frames that had waited let paths be read that had no control stream yet, and die of it | swarm | kwik-core `frames_that_waited_cost_no_other_path` |
//! | streams of the application took every slot from the runs that their readers waited for | swarm | kwik-core `runs_have_slots_of_their_own` |
//! | credit that a run had taken before it was given up was lost | swarm | `regressions::what_a_run_has_sent_before_it_is_given_up_is_not_lost_credit` |
//! | a Retry packet, forged or made by a flipped bit, ended a server's handshake | swarm | `regressions::a_retry_that_a_server_gets_ends_nothing` |
//! | a lease that was taken back once it was sent whole stayed at its secondary | soak | kwik-core `a_lease_taken_back_once_it_was_sent_whole_leaves_nothing_behind` |
//! | a stream that completed between two hedging leases was not noticed | swarm | kwik-core `a_lease_ends_once_all_of_it_is_here` |
//! | the error of an unordered reader named a hole that was elsewhere | swarm | `regressions::the_hole_of_an_unordered_reader_is_where_it_is` |
//! | a primary could speak to a path that it had removed before its client knew of it | swarm | kwik-core `a_path_that_is_removed_while_it_is_attached_takes_no_message` |
//! | a call that was blocked kept its caller awake | swarm | `protocol::servers_talk_beside_an_object` |
//! | a lease to be given again waited for a path that waited for its reader | swarm | kwik-core `a_path_takes_what_the_reader_needs_first_however_little_it_takes` |
//! | messages between servers took each stream slot that was freed, and an application that waited for one got none | swarm | kwik-core `messages_leave_the_applications_slots_alone` |
//! | live paths that lose a hundredth were called silent, and slow disks stalled | `failover` | kwik-core `pauses_in_the_middle_of_a_lease_are_learnt_too`, `path::health` |
//! | verified bytes further on held the room that the lease the reader waited for had to have | attack | kwik-core `the_verified_lease_that_the_reader_waits_for_finds_room` |
//! | secondaries were closed with the code of their primary's fault | attack | `evil::a_primarys_fault_is_not_held_against_its_secondaries` |
//! | frames behind the one that ended the session were acted on | attack | `evil::nothing_is_dialled_after_the_session_has_ended` |
//! | job ids that fall passed the client, which was blamed for them | attack | `evil::falling_job_ids_are_the_primarys_fault` |
//! | frames to be skipped cost no budget | attack | `evil::frames_to_be_skipped_are_budgeted_like_others` |
//! | a secondary's `INTERNAL` was passed on as our own | attack | `evil::a_secondary_cannot_say_that_we_broke` |
//! | a stream at its cap of pieces was counted one too many | attack | `evil::a_stream_in_pieces_is_refused_at_its_cap_and_no_later` |
//! | the dial policy let 0/8 and special blocks pass when wrapped | fuzzer | kwik-core `path::dial` |
//! | a primary whose leases lay too scattered had the servers that filled them closed | floods | kwik-core `pieces_that_lie_too_scattered_are_not_held_against_their_server` |
//! | jobs of dead paths were kept; a revoked lease nobody had seen piled up | fuzzer | kwik-core `fuzzing::tests` and its corpus |
//! | a path that was suspected late was called silent at once; a probe in place of a verdict had no time to be answered | fuzzer | kwik-core `path::health` and the corpus |
//! | a cut was taken from a primary that knows of none, and called done; a cut that kept everything ended the lease | fuzzer | kwik-core `fuzzing::tests` and its corpus |
//! | the end of a closed job was not told; `StreamComplete` was told twice; a `Split` at the last offset | fuzzer | kwik-core `fuzzing::tests` and its corpus |
//!
//! # Where determinism ends
//! Hashes are comparable between builds for one target from one `Cargo.lock`: quinn-proto iterates over hash maps whose
//! order depends on the width of a pointer. A thread runs one world at a time ([`tls`] says why).

pub mod app;
pub mod bench;
pub mod book;
pub mod dice;
pub mod evil;
pub mod heap;
pub mod link;
pub mod machine;
pub mod marks;
pub mod mixes;
pub mod operations;
pub mod oracle;
mod resident;
pub mod soak;
pub mod swarm;
pub mod tls;
pub mod trace;
pub mod world;

use std::fmt;

pub use self::{
    app::{
        Calls, ClientPlan, Distributed, Ending, Interruption, Naive, Offer, OpenPlan, PrimaryPlan, Reading,
        SecondaryPlan, Talk, WriterEnd,
    },
    link::{Bursts, Conditions, Marking},
    trace::Record,
    world::{Clocks, Fault, Forgery, Setup, World},
};

/// Names a machine of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) u16);

/// The first client's number.
const CLIENTS: u16 = 100;

impl NodeId {
    /// The primary.
    pub const PRIMARY: Self = Self(0);

    /// Returns the name of secondary `number`, counted from 1.
    #[must_use]
    pub const fn secondary(number: u16) -> Self {
        assert!(number >= 1 && number < CLIENTS, "secondaries are counted from 1");
        Self(number)
    }

    /// Returns the name of client `number`, counted from 1.
    #[must_use]
    pub const fn client(number: u16) -> Self {
        assert!(number >= 1, "clients are counted from 1");
        Self(CLIENTS + number)
    }

    /// Returns whether this is a client.
    #[must_use]
    pub const fn is_client(self) -> bool {
        self.0 > CLIENTS
    }

    /// Number of a server's certificate.
    const fn server_index(self) -> usize {
        self.0 as usize + 1
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("primary"),
            n if self.is_client() => write!(f, "client {}", n - CLIENTS),
            n => write!(f, "secondary {n}"),
        }
    }
}
