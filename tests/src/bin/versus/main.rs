//! KWIK beside its peers: bulk, small requests, round trips and handshakes, on loopback.
//!
//! All contenders run in this process, interleaved, with one provider of cryptography, the same windows, MTU and socket
//! buffers; only `quinn` is as it is shipped. A figure is the median of all rounds; the ratio is that of each run to
//! quinn's of the same round. Usage:
//!
//! ```text
//! cargo run --release -p kwik-tests --features versus --bin versus -- [--json] [--quick] [--only NAME]
//! ```

mod contender;
mod hosts;
mod kwik;
mod leased;
mod limit;
mod meter;
mod plain;
mod report;
mod s2n;
mod scenario;
mod tls;

use std::io::{self, Write as _};

use clap::Parser;
use kwik_async_std::AsyncStdRuntime;
use kwik_core::schedule::Digests;
use kwik_tokio::TokioRuntime;

use crate::{
    contender::{Contender, Fallible},
    hosts::{AsyncStd, Tokio, on_tokio},
    report::{BASE, Measured, Report},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Measures KWIK beside quinn, s2n-quic, TLS over TCP, and UDP itself.
#[derive(Parser)]
struct Arguments {
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Runs everything small and three times: whether it works, and a first impression.
    #[arg(long)]
    quick: bool,
    /// Runs only rows or contenders whose name contains this; quinn takes part in any case, to be compared with.
    #[arg(long)]
    only: Vec<String>,
    /// Rounds; 5 by default, 3 if quick.
    #[arg(long)]
    rounds: Option<usize>,
    /// MiB of a bulk transfer; 512 by default, 64 if quick.
    #[arg(long)]
    size: Option<u64>,
}

/// Amount of work in a run.
#[derive(Clone, Copy)]
struct Load {
    /// Bytes of a bulk transfer.
    size: u64,
    /// Small answers asked for.
    requests: u64,
    /// Bytes sent to and fro.
    pings: u64,
    connects: u64,
}

type Run = Box<dyn Fn(Load) -> Figures>;

/// One contender at one thing.
struct Trial {
    /// The rows that it fills.
    rows: &'static [&'static str],
    contender: &'static str,
    run: Run,
}

fn main() -> Fallible<()> {
    let arguments = Arguments::parse();
    let size = MIB * arguments.size.unwrap_or(if arguments.quick { 64 } else { 512 });
    let scale = if arguments.quick { 1 } else { 10 };
    let load = Load { size, requests: 2048 * scale, pings: 1000 * scale, connects: 64 * scale };
    let rounds = arguments.rounds.unwrap_or(if arguments.quick { 3 } else { 5 });
    let trials: Vec<Trial> = trials().into_iter().filter(|trial| wanted(trial, &arguments.only)).collect();
    let mut report = Report::default();
    let mut err = io::stderr();
    for round in 1..=rounds {
        for row in ROWS {
            let mut at_it: Vec<&Trial> =
                trials.iter().filter(|trial| trial.rows.first() == Some(&row)).collect();
            // Who goes first changes: whatever the machine does meanwhile meets everybody.
            if !at_it.is_empty() {
                let first = (round - 1) % at_it.len();
                at_it.rotate_left(first);
            }
            for trial in at_it {
                if !arguments.json {
                    writeln!(err, "round {round} of {rounds}: {row}, {}", trial.contender)?;
                }
                let figures =
                    (trial.run)(load).map_err(|error| format!("{row} by {}: {error}", trial.contender))?;
                for (row, measured) in figures {
                    report.add(row, trial.contender, measured);
                }
            }
        }
    }
    let mut out = io::stdout();
    if arguments.json {
        writeln!(out, "{}", report.json())?;
    } else {
        report.print(&mut out)?;
    }
    Ok(())
}

/// Each thing that is done, by the first row that it fills, in the order in which they are done.
const ROWS: [&str; 9] = [
    "bulk",
    "bulk-16",
    "connections-2",
    "connections-4",
    "three-servers",
    "requests-1k",
    "ping-p50",
    "connects",
    "connects-16",
];

fn wanted(trial: &Trial, only: &[String]) -> bool {
    let row = |name: &String| trial.rows.iter().any(|row| row.contains(name.as_str()));
    let named = |name: &String| trial.contender.contains(name.as_str());
    // Names of rows and of contenders choose among each other.
    let (rows, contenders): (Vec<_>, Vec<_>) =
        only.iter().partition(|name| ROWS.iter().any(|row| row.contains(name.as_str())));
    (rows.is_empty() || rows.into_iter().any(row))
        && (contenders.is_empty() || trial.contender == BASE || contenders.into_iter().any(named))
}

type Figures = Fallible<Vec<(&'static str, Measured)>>;
/// Has a contender made, and gives it to what measures it.
type With<C> = fn(&dyn Fn(&C) -> Figures) -> Figures;

fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    every_row::<plain::Quinn>(&mut trials, BASE, |f| on_tokio(|host| f(&plain::Quinn::shipped(host))));
    every_row::<plain::Quinn>(&mut trials, "quinn-equal", |f| on_tokio(|host| f(&plain::Quinn::equal(host))));
    every_row::<s2n::S2n>(&mut trials, "s2n-quic", |f| on_tokio(|host| f(&s2n::S2n::new(host))));
    every_row::<kwik::Kwik<Tokio, TokioRuntime>>(&mut trials, "kwik", |f| {
        on_tokio(|host| f(&kwik::Kwik::new(host)))
    });
    every_row::<kwik::Kwik<AsyncStd, AsyncStdRuntime>>(&mut trials, "kwik-async-std", |f| {
        f(&kwik::Kwik::new(AsyncStd))
    });
    one_stream::<tls::Tls>(&mut trials, "tcp-tls", |f| on_tokio(|host| f(&tls::Tls::new(host))));
    for (name, piece) in [("kwik-leased-1m", MIB), ("kwik-leased-64k", 64 * KIB)] {
        add(&mut trials, &["bulk"], name, move |load| {
            on_tokio(|host| Ok(vec![("bulk", leased::leased(&host, load.size, piece)?)]))
        });
    }
    for (name, digests) in [("kwik-distribute", Digests::Never), ("kwik-digests", Digests::Always)] {
        add(&mut trials, &["three-servers"], name, move |load| {
            on_tokio(|host| Ok(vec![("three-servers", leased::distributed(&host, load.size, digests)?)]))
        });
    }
    add(&mut trials, &["bulk"], "udp", |load| Ok(vec![("bulk", limit::raw(load.size)?)]));
    trials
}

fn add(
    trials: &mut Vec<Trial>,
    rows: &'static [&'static str],
    contender: &'static str,
    run: impl Fn(Load) -> Figures + 'static,
) {
    trials.push(Trial { rows, contender, run: Box::new(run) });
}

/// Adds what takes any number of streams a connection.
fn every_row<C: Contender>(trials: &mut Vec<Trial>, name: &'static str, with: With<C>) {
    one_stream(trials, name, with);
    add(trials, &["bulk-16"], name, move |load| {
        with(&|it| Ok(vec![("bulk-16", scenario::bulk(it, load.size, 1, 1, 16)?)]))
    });
    add(trials, &["requests-1k"], name, move |load| {
        with(&|it| Ok(vec![("requests-1k", scenario::requests(it, KIB, load.requests)?)]))
    });
}

/// Adds what one stream a connection is enough for.
fn one_stream<C: Contender>(trials: &mut Vec<Trial>, name: &'static str, with: With<C>) {
    for (rows, servers, connections) in [
        (&["bulk"], 1, 1),
        (&["connections-2"], 1, 2),
        (&["connections-4"], 1, 4),
        (&["three-servers"], 3, 3),
    ] {
        let [row] = rows;
        add(trials, rows, name, move |load| {
            with(&|it| Ok(vec![(*row, scenario::bulk(it, load.size, servers, connections, 1)?)]))
        });
    }
    add(trials, &["ping-p50", "ping-p99", "ping-p99.9"], name, move |load| {
        with(&|it| {
            let [p50, p99, p999] = scenario::ping_pong(it, load.pings)?;
            Ok(vec![("ping-p50", p50), ("ping-p99", p99), ("ping-p99.9", p999)])
        })
    });
    for (rows, at_once) in [(&["connects"], false), (&["connects-16"], true)] {
        let [row] = rows;
        add(trials, rows, name, move |load| {
            with(&|it| Ok(vec![(*row, scenario::connects(it, load.connects, at_once)?)]))
        });
    }
}
