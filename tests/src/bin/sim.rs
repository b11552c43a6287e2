//! Runs worlds by the thousand: `cargo run --release -p kwik-tests --bin sim -- --seeds 2000`.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use cpu_time::ProcessTime;
use kwik_tests::sim::{
    Record, bench, evil, marks, soak,
    swarm::{self, Options, Outcome, Profile},
};

/// Runs simulated worlds, one per seed, and checks what must be true in each.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    mode: Option<Mode>,
    /// Number of seeds; by default 100, or of soaks one.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run each seed in two processes and compare the hashes of what happened.
    #[arg(long)]
    twice: bool,
    /// Seconds of each world's time in which things go wrong, or that are measured.
    #[arg(long, value_name = "X")]
    virtual_seconds: Option<f64>,
    /// Worlds at once; as many as there are processors by default.
    #[arg(long)]
    jobs: Option<usize>,
    /// Kind of worlds: swarm, lossy, idle, evil, floods, mixes or soak.
    #[arg(long, default_value = "swarm")]
    profile: String,
    /// Streams of a soak.
    #[arg(long, default_value_t = soak::STREAMS)]
    streams: u64,
    /// Print the result as one line of JSON.
    #[arg(long)]
    json: bool,
    /// Print everything that happened in the first world.
    #[arg(long)]
    transcript: bool,
    /// Print a line per seed; used by `--twice`.
    #[arg(long, hide = true)]
    hashes: bool,
}

/// Something else than drawn worlds.
#[derive(Clone, Debug, Subcommand)]
enum Mode {
    /// Measures what several links bring together, and what a death or a crawl in the middle costs
    Bench {
        /// Print one JSON object instead of a line per row
        #[arg(long)]
        json: bool,
        /// Seconds of the summed rate that an object is long
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
        /// Worlds in which a link dies; 0 leaves out mishaps
        #[arg(long, default_value_t = 1000)]
        deaths: u64,
        /// Run only this row
        #[arg(long)]
        only: Option<String>,
        /// Seed of the rows' worlds
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

impl Args {
    fn length(&self) -> Option<Duration> {
        self.virtual_seconds.map(|seconds| Duration::from_secs_f64(seconds.max(0.0)))
    }

    fn profile(&self) -> Option<Profile> {
        match self.profile.as_str() {
            "swarm" => Some(Profile::Swarm),
            "lossy" => Some(Profile::Lossy),
            "idle" => Some(Profile::Idle),
            "evil" => Some(Profile::Evil),
            "floods" => Some(Profile::Floods),
            "mixes" => Some(Profile::Mixes),
            "soak" => Some(Profile::Soak(self.streams)),
            _ => None,
        }
    }

    fn seeds(&self) -> u64 {
        self.seeds.unwrap_or(if self.profile == "soak" { 1 } else { 100 })
    }

    fn jobs(&self) -> usize {
        self.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)).max(1)
    }

    /// The command that runs one seed again.
    fn replay(&self, seed: u64) -> String {
        let length = self.virtual_seconds.map(|x| format!(" --virtual-seconds {x}")).unwrap_or_default();
        let profile = match self.profile.as_str() {
            "swarm" => String::new(),
            "soak" => format!(" --profile soak --streams {}", self.streams),
            profile => format!(" --profile {profile}"),
        };
        format!("cargo run --release -p kwik-tests --bin sim -- --seeds 1 --from {seed}{profile}{length}")
    }
}

/// The sum of many worlds.
#[derive(Default)]
struct Sum {
    seeds: u64,
    datagrams: u64,
    delivered: u64,
    time: Duration,
    slowest: Slowest,
    marks: BTreeMap<String, u64>,
    failed: Vec<u64>,
    /// Over the seed and the hash of each world: the same before and after a change that changes no behaviour.
    digest: blake3::Hasher,
}

/// The world that took longest to come to an end once all was well in it.
#[derive(Default)]
struct Slowest {
    seed: u64,
    /// From the end of its faults to the end of everything.
    recovery: Duration,
    /// All of it, what is left after a close included.
    length: Duration,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut out = io::stdout().lock();
    match run(&args, &mut out) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nobody reads any more, or the disk is full: there is nowhere better to say it.
            let told = writeln!(io::stderr(), "sim: {error}");
            drop(told);
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args, out: &mut impl io::Write) -> io::Result<bool> {
    if let Some(Mode::Bench { json, seconds, deaths, only, seed }) = &args.mode {
        let scale = bench::Scale { seconds: *seconds, deaths: *deaths, seed: *seed };
        return run_bench(args.jobs(), scale, *json, only.as_deref(), out).map(|()| true);
    }
    let Some(profile) = args.profile() else {
        return Err(io::Error::other(format!(
            "no profile {:?}: swarm, lossy, idle, evil, floods, mixes or soak",
            args.profile
        )));
    };
    if args.twice {
        return run_twice(args, out);
    }
    if args.transcript {
        let all = Record::Last(usize::MAX);
        let outcome = if profile == Profile::Evil {
            evil::play(args.from, all)
        } else if let Profile::Soak(streams) = profile {
            soak::run(args.from, streams)
        } else {
            Options::draw(args.from, profile, args.length()).run(all)
        };
        writeln!(out, "{}\n{}", outcome.options, outcome.text)?;
        return Ok(outcome.failure.is_none());
    }
    let (start, cpu) = (Instant::now(), ProcessTime::now());
    let mut sum = Sum::default();
    for_each(args, profile, |outcome| {
        if args.hashes {
            writeln!(out, "{} {} {}", outcome.seed, outcome.hash, outcome.failure.is_some())?;
            out.flush()?;
        } else if let Profile::Floods | Profile::Mixes | Profile::Soak(_) = profile {
            tell_soak(args, &outcome, out)?;
        } else if outcome.failure.is_some() {
            tell(args, profile, &outcome, out)?;
        }
        sum.add(outcome);
        Ok(())
    })?;
    if !args.hashes {
        report(args, &sum, start.elapsed(), cpu.elapsed(), out)?;
    }
    let mut covered = true;
    if profile == Profile::Swarm && !args.hashes {
        for mark in marks::unseen(sum.seeds, &sum.marks) {
            covered = false;
            writeln!(out, "NOT SEEN {mark}")?;
        }
    }
    if profile == Profile::Evil && !args.hashes {
        for gap in evil::check_coverage(sum.seeds, &sum.marks) {
            covered = false;
            writeln!(out, "NOT SEEN {gap}")?;
        }
    }
    Ok(covered && sum.failed.is_empty())
}

/// Runs the benchmark, several rows at a time.
fn run_bench(
    jobs: usize,
    scale: bench::Scale,
    json: bool,
    only: Option<&str>,
    out: &mut impl io::Write,
) -> io::Result<()> {
    type Work = Box<dyn FnOnce() -> (&'static str, serde_json::Value) + Send>;
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    let rows = bench::names().into_iter().filter(|name| wanted(name));
    let mut works: VecDeque<Work> =
        rows.map(|name| Box::new(move || ("rows", bench::row(name, scale).into())) as Work).collect();
    if scale.deaths > 0 {
        let mishaps: [(&str, Work); 3] = [
            ("failover", Box::new(move || ("failover_ms", bench::failover(scale)))),
            ("slow_source", Box::new(move || ("slow_source_cost_pct", bench::slow_source(scale).into()))),
            ("oscillating", Box::new(move || ("oscillating_pct", bench::oscillating(scale).into()))),
        ];
        works.extend(mishaps.into_iter().filter(|(name, _)| wanted(name)).map(|(_, work)| work));
    }
    let works = Mutex::new(works);
    let (send, results) = mpsc::channel();
    let mut all = serde_json::Map::new();
    thread::scope(|scope| {
        for _ in 0..jobs {
            let (send, works) = (send.clone(), &works);
            scope.spawn(move || {
                while let Some(work) = works.lock().ok().and_then(|mut works| works.pop_front()) {
                    if send.send(work()).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        for (name, result) in results {
            if !json {
                writeln!(out, "{name} {result}")?;
                out.flush()?;
            }
            match (all.get_mut(name), result) {
                (Some(serde_json::Value::Array(known)), serde_json::Value::Array(more)) => known.extend(more),
                (_, result) => drop(all.insert(name.to_owned(), result)),
            }
        }
        io::Result::Ok(())
    })?;
    let rows = all.get("rows").and_then(serde_json::Value::as_array).into_iter().flatten();
    let most = rows.filter_map(|row| row.get("duplicate_pct")?.as_f64()).fold(0.0, f64::max);
    all.insert("duplicate_pct".to_owned(), most.into());
    if json { writeln!(out, "{}", serde_json::Value::from(all)) } else { Ok(()) }
}

/// Runs all worlds on `jobs` threads and hands each outcome over, in the order of the seeds.
fn for_each(
    args: &Args,
    profile: Profile,
    mut take: impl FnMut(Outcome) -> io::Result<()>,
) -> io::Result<()> {
    let next = AtomicU64::new(args.from);
    let end = args.from.saturating_add(args.seeds());
    let (send, outcomes) = mpsc::sync_channel(64);
    thread::scope(|scope| {
        for _ in 0..args.jobs() {
            let (send, next) = (send.clone(), &next);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || send.send(swarm::run(seed, profile, args.length())).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        let (mut expected, mut early) = (args.from, BTreeMap::new());
        for outcome in outcomes {
            early.insert(outcome.seed, outcome);
            while let Some(outcome) = early.remove(&expected) {
                expected += 1;
                take(outcome)?;
            }
        }
        Ok(())
    })
}

impl Sum {
    fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.digest.update(format!("{} {}\n", outcome.seed, outcome.hash).as_bytes());
        self.datagrams += outcome.datagrams;
        self.delivered += outcome.delivered;
        self.time += outcome.time;
        if self.seeds == 1 || outcome.recovery > self.slowest.recovery {
            let Outcome { seed, recovery, time: length, .. } = outcome;
            self.slowest = Slowest { seed, recovery, length };
        }
        for (mark, count) in outcome.marks {
            *self.marks.entry(mark).or_default() += count;
        }
        if outcome.failure.is_some() {
            self.failed.push(outcome.seed);
        }
    }
}

/// Says what is wrong with a world, how to see it again, and where the rest is.
fn tell(args: &Args, profile: Profile, outcome: &Outcome, out: &mut impl io::Write) -> io::Result<()> {
    let folder = PathBuf::from("target/sim").join(format!("seed-{}", outcome.seed));
    fs::create_dir_all(&folder)?;
    let outcome = swarm::examine(outcome, profile, args.length(), &folder);
    let failure = outcome.failure.as_deref().unwrap_or_default();
    fs::write(folder.join("failure.txt"), format!("{failure}\n\n{}\n\n{}", outcome.options, outcome.text))?;
    writeln!(out, "FAILED {failure}\n  {}\n  see {}", args.replay(outcome.seed), folder.display())?;
    if args.seeds() == 1 {
        writeln!(out, "{}\n{}", outcome.options, outcome.text)?;
    }
    out.flush()
}

/// Says what each stretch of a soak came to, and what is wrong with it.
fn tell_soak(args: &Args, outcome: &Outcome, out: &mut impl io::Write) -> io::Result<()> {
    write!(out, "{}", outcome.text)?;
    if let Some(failure) = &outcome.failure {
        writeln!(out, "FAILED {failure}\n  {}", args.replay(outcome.seed))?;
    }
    out.flush()
}

fn report(args: &Args, sum: &Sum, wall: Duration, cpu: Duration, out: &mut impl io::Write) -> io::Result<()> {
    let minutes = cpu.as_secs_f64().max(1e-9) / 60.0;
    let per_minute = sum.seeds as f64 / minutes;
    let hours = sum.time.as_secs_f64() / 3600.0 / minutes;
    let datagrams = sum.datagrams as f64 / cpu.as_secs_f64().max(1e-9);
    let digest: String = sum.digest.finalize().to_hex().chars().take(16).collect();
    if args.json {
        let value = serde_json::json!({
            "profile": args.profile, "from": args.from, "seeds": sum.seeds, "failed": sum.failed, "digest": digest,
            "cpu_seconds": cpu.as_secs_f64(), "wall_seconds": wall.as_secs_f64(),
            "virtual_seconds": sum.time.as_secs_f64(), "datagrams": sum.datagrams, "delivered": sum.delivered,
            "seeds_per_cpu_minute": per_minute, "virtual_hours_per_cpu_minute": hours,
            "datagrams_per_cpu_second": datagrams, "recovery_max_seconds": sum.slowest.recovery.as_secs_f64(),
            "slowest_seed": sum.slowest.seed, "slowest_seconds": sum.slowest.length.as_secs_f64(),
            "marks": sum.marks,
        });
        return writeln!(out, "{value}");
    }
    for (mark, count) in &sum.marks {
        writeln!(out, "{count:>12}  {mark}")?;
    }
    writeln!(
        out,
        "{} seeds from {}, {} failed, digest {digest}: {:.1} CPU-seconds, {:.1} s\n\
         {:.0} seeds, {:.1} simulated hours per CPU-minute; {:.0} datagrams per CPU-second; {:.1} MB delivered\n\
         {} kinds of things seen; the slowest recovery took {:.1} s of its world's time, of {:.1} s in all:\n  {}",
        sum.seeds,
        args.from,
        sum.failed.len(),
        cpu.as_secs_f64(),
        wall.as_secs_f64(),
        per_minute,
        hours,
        datagrams,
        sum.delivered as f64 / 1e6,
        sum.marks.len(),
        sum.slowest.recovery.as_secs_f64(),
        sum.slowest.length.as_secs_f64(),
        args.replay(sum.slowest.seed),
    )
}

/// Runs all worlds in two processes and compares what they say.
fn run_twice(args: &Args, out: &mut impl io::Write) -> io::Result<bool> {
    let lines = Mutex::new([BTreeMap::new(), BTreeMap::new()]);
    let failed: io::Result<()> = thread::scope(|scope| {
        let children: Vec<_> = (0..2)
            .map(|which| {
                let lines = &lines;
                scope.spawn(move || -> io::Result<()> {
                    let mut command = Command::new(std::env::current_exe()?);
                    let jobs = (args.jobs() / 2).max(1).to_string();
                    command.args(["--hashes", "--profile", &args.profile, "--jobs", &jobs]);
                    command.args(["--seeds", &args.seeds().to_string(), "--from", &args.from.to_string()]);
                    command.args(["--streams", &args.streams.to_string()]);
                    if let Some(seconds) = args.virtual_seconds {
                        command.args(["--virtual-seconds", &seconds.to_string()]);
                    }
                    let mut child = command.stdout(Stdio::piped()).spawn()?;
                    let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
                    for line in BufReader::new(stdout).lines() {
                        let line = line?;
                        let mut lines = lines.lock().map_err(|_| io::Error::other("a thread died"))?;
                        if let (Some(lines), Some((seed, rest))) =
                            (lines.get_mut(which), line.split_once(' '))
                        {
                            lines.insert(seed.parse::<u64>().map_err(io::Error::other)?, rest.to_owned());
                        }
                    }
                    child.wait().map(drop)
                })
            })
            .collect();
        children
            .into_iter()
            .try_for_each(|child| child.join().map_err(|_| io::Error::other("a thread died"))?)
    });
    failed?;
    let [first, second] = lines.into_inner().map_err(|_| io::Error::other("a thread died"))?;
    let mut differing = 0;
    let mut failing = 0;
    for seed in args.from..args.from.saturating_add(args.seeds()) {
        let (a, b) = (first.get(&seed), second.get(&seed));
        if a.is_none() || a != b {
            differing += 1;
            writeln!(out, "DIFFERS {seed}: {a:?} {b:?}\n  {}", args.replay(seed))?;
        }
        if a.is_some_and(|line| line.ends_with("true")) {
            failing += 1;
            writeln!(out, "FAILED {seed}\n  {}", args.replay(seed))?;
        }
    }
    writeln!(out, "{} seeds twice, {differing} differing, {failing} failing", args.seeds())?;
    Ok(differing == 0 && failing == 0)
}
