//! Time that KWIK adds between a datagram that comes in and its bytes being read, beside plain quinn-proto:
//! `cargo run --release -p kwik-tests --bin latency`.
//!
//! Everything is in memory and on one thread, without sockets or a runtime: what is measured is the core. Four clients
//! take turns, so that a machine that changes its pace changes it for all: a plain quinn-proto stream, KWIK's stream
//! that is not split, and KWIK's split stream fed by three servers, read in order and as bytes come. Each handles a
//! datagram, works off what it reports, and reads. In order, two of three datagrams bring bytes that wait for others;
//! they count for the whole turn only.

#![expect(clippy::panic, reason = "a measurement of something broken is none")]

mod kwik;
mod network;
mod plain;
mod samples;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use kwik_tests::authority::Authority;

use self::samples::{Quantiles, Samples};

/// Measures the latency that the core adds to a datagram.
#[derive(Debug, Parser)]
struct Args {
    /// Transfers of each kind.
    #[arg(long, default_value_t = 50)]
    rounds: usize,
    /// MiB per transfer.
    #[arg(long, default_value_t = 4)]
    size: u64,
    /// KiB that one server brings before the next one's part of a split stream begins.
    #[arg(long, default_value_t = 256)]
    lease: u64,
    /// Fail if KWIK adds more than 10 µs at the 99th percentile.
    #[arg(long)]
    assert: bool,
}

const KIB: u64 = 1024;
/// Time that KWIK may add at the 99th percentile.
const GOAL: Duration = Duration::from_micros(10);
/// Transfers of each kind that are not counted, while windows, buffers and caches fill.
const WARM_UP: usize = 3;

/// A client with the servers that feed it.
trait Contestant {
    /// Transfers one stream of `size` bytes and notes what its datagrams took at the client.
    fn transfer(&mut self, size: u64, samples: &mut Samples);
}

fn main() -> io::Result<ExitCode> {
    let args = Args::parse();
    let size = args.size.max(1) * KIB * KIB;
    let lease = args.lease.max(1) * KIB;
    let authority = Authority::new();
    let mut contestants: Vec<(&str, Box<dyn Contestant>, Samples)> = vec![
        ("plain quinn-proto", Box::new(plain::Pair::new(&authority)), Samples::default()),
        ("kwik, not split", Box::new(kwik::Native::new(&authority)), Samples::default()),
        ("kwik, split, in order", Box::new(kwik::Split::new(&authority, lease, true)), Samples::default()),
        (
            "kwik, split, as it comes",
            Box::new(kwik::Split::new(&authority, lease, false)),
            Samples::default(),
        ),
    ];
    let rounds = WARM_UP + args.rounds.max(1);
    for round in 0..rounds {
        for (_, contestant, samples) in &mut contestants {
            contestant.transfer(size, samples);
            if round < WARM_UP {
                *samples = Samples::default();
            }
        }
        contestants.rotate_left(1); // who goes first changes as well
    }
    let count = contestants.len();
    contestants.rotate_right(rounds % count);
    let results = contestants.into_iter().map(|(name, _, samples)| (name, samples.quantiles())).collect();
    report(args.assert, results)
}

/// Prints all, with what each has more than the first.
fn report(assert: bool, results: Vec<(&str, [Quantiles; 2])>) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let columns = format!("{:>9} {:>6} {:>6} {:>7}", "datagrams", "p50", "p99", "p99.9");
    let (first, turn) = ("until its first byte is read", "whole turn, all reads included");
    writeln!(out, "{:24} {first:31}   {turn}", "ns per datagram")?;
    writeln!(out, "{:24} {columns}   {columns}", "")?;
    let mut plain = None;
    let mut met = true;
    for (name, [first, turn]) in results {
        writeln!(out, "{name:24} {first}   {turn}")?;
        let Some((plain_first, plain_turn)) = plain else {
            plain = Some((first, turn));
            continue;
        };
        let [added_first, added_turn] = [first.since(&plain_first), turn.since(&plain_turn)];
        writeln!(out, "{:24} {added_first}   {added_turn}", "  more than plain")?;
        met &= added_first.p99() < GOAL && added_turn.p99() < GOAL;
    }
    let verdict = if met { "met" } else { "MISSED" };
    writeln!(out, "goal, less than {GOAL:?} added at p99 in each column: {verdict}")?;
    Ok(if assert && !met { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
