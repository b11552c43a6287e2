//! Cost of the core's parts, in instructions: `cargo bench -p kwik-tests --features bench --bench instructions`.
//!
//! Needs valgrind. Unlike times, the counts do not depend on what else the machine does, and are the same in every run
//! of one build. Each body runs in a process of its own under callgrind, once for few and once for many runs; the
//! difference is what the runs between cost, without start and set-up.

use std::{
    env,
    error::Error,
    hint::black_box,
    io::{self, Write as _},
    process::{Command, ExitCode},
};

use kwik_core::bench::{Body, bodies};

type Fallible<T> = Result<T, Box<dyn Error>>;

/// Runs before counting begins, so that all that grows has grown.
const FEW: u64 = 4;
/// Runs that are counted.
const COUNTED: u64 = 16;
/// First argument of the process that is counted; a body's name and a number of runs follow.
const CHILD: &str = "--count";

fn main() -> Fallible<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [flag, name, runs] = arguments.as_slice()
        && flag == CHILD
    {
        run(name, runs.parse()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    // Cargo adds `--bench`; what is left chooses by name, as elsewhere.
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let mut out = io::stdout().lock();
    if Command::new("valgrind").arg("--version").output().is_err() {
        writeln!(out, "no valgrind here: nothing is counted")?;
        return Ok(ExitCode::FAILURE);
    }
    writeln!(out, "instructions per chunk, lease, frame or decision")?;
    for body in bodies() {
        let name = name(&body);
        if filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str())) {
            let counted = count(&name, FEW + COUNTED)? - count(&name, FEW)?;
            writeln!(out, "{:>8}  {name}", counted / (COUNTED * body.units()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn name(body: &Body) -> String {
    format!("{}/{}", body.group(), body.case())
}

/// Runs one body; this is what is counted.
fn run(name: &str, runs: u64) -> Fallible<()> {
    let mut body =
        bodies().into_iter().find(|body| self::name(body) == name).ok_or("there is no such body")?;
    for _ in 0..runs {
        black_box(body.run());
    }
    Ok(())
}

/// Counts the instructions of a process that does one body's `runs`.
fn count(name: &str, runs: u64) -> Fallible<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .args([CHILD, name, &runs.to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let counted = said.lines().find_map(|line| line.split_once("Collected : "));
    let Some((_, counted)) = counted.filter(|_| output.status.success()) else {
        return Err(format!("valgrind did not count {name}: {said}").into());
    };
    Ok(counted.trim().parse()?)
}
