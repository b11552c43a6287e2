//! The tests, and what they say of a mutant.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::{Duration, Instant},
};

/// Signals that end a process which has used as much of the processor as it may.
const STOPPED: [i32; 2] = [9, 24];
/// Tests that are run at once are expected to take this long together, and then four times as long each time.
const FIRST: Duration = Duration::from_millis(150);

/// What became of a mutant, and by which test.
#[derive(Debug)]
pub enum Verdict {
    Caught(#[expect(dead_code, reason = "printed")] String),
    /// A test did not come to its end.
    Stopped(#[expect(dead_code, reason = "printed")] String),
    Survived,
}

/// The program of the core's tests, and who reaches which mutant.
pub struct Tests {
    binary: PathBuf,
    folder: PathBuf,
    /// Time and name of each test that reaches a mutant, quickest first.
    reach: BTreeMap<u32, Vec<(Duration, String)>>,
}

impl Tests {
    /// Runs each test alone, and learns which mutants it reaches.
    pub fn new(binary: &Path, folder: &Path, work: &Path) -> Self {
        let mut tests = Self { binary: binary.into(), folder: folder.into(), reach: BTreeMap::new() };
        let reached = work.join("reached.txt");
        for test in tests.names() {
            let _ = fs::remove_file(&reached);
            let start = Instant::now();
            let (status, said) = tests.run(&[&test], 600, &[("MUTANTS_REACHED", &reached.to_string_lossy())]);
            assert!(status.success(), "{test} fails without any mutant: {said}");
            let took = start.elapsed();
            for number in fs::read_to_string(&reached).unwrap_or_default().lines() {
                let number = number.parse().expect("a number on each line");
                tests.reach.entry(number).or_default().push((took, test.clone()));
            }
        }
        tests.reach.values_mut().for_each(|of| of.sort());
        tests
    }

    /// Runs what reaches a mutant until a test fails.
    pub fn judge(&self, number: u32) -> Verdict {
        let mut left = self.reach.get(&number).map(Vec::as_slice).unwrap_or_default();
        let mut most = FIRST;
        while !left.is_empty() {
            let mut expected = Duration::ZERO;
            let more = |(took, _): &&(Duration, String)| {
                expected += *took;
                expected < most
            };
            let (now, later) = left.split_at(left.iter().take_while(more).count().max(1));
            let names: Vec<&str> = now.iter().map(|(_, name)| name.as_str()).collect();
            // Slower by a good deal, it may still come to its end.
            let (status, said) =
                self.run(&names, 3 + expected.as_secs() * 10, &[("MUTANT", &number.to_string())]);
            if !status.success() {
                let failed =
                    said.lines().find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
                let by = failed.unwrap_or(names[0]).to_owned();
                let stopped = status.signal().is_some_and(|signal| STOPPED.contains(&signal));
                return if stopped { Verdict::Stopped(by) } else { Verdict::Caught(by) };
            }
            (left, most) = (later, most * 4);
        }
        Verdict::Survived
    }

    fn names(&self) -> Vec<String> {
        let listed = Command::new(&self.binary).arg("--list").current_dir(&self.folder).output();
        let listed = String::from_utf8_lossy(&listed.expect("it was built").stdout).into_owned();
        listed.lines().filter_map(|line| Some(line.strip_suffix(": test")?.to_owned())).collect()
    }

    /// Runs some tests, for at most so many seconds of the processor and with at most so much memory. Random tests try
    /// the same each time.
    fn run(&self, tests: &[&str], seconds: u64, environment: &[(&str, &str)]) -> (ExitStatus, String) {
        let limited = format!("ulimit -v 6000000; ulimit -t {seconds}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &limited]).arg(&self.binary).args(["--test-threads=1", "--exact"]).args(tests);
        command.envs(environment.iter().copied()).env("PROPTEST_RNG_SEED", "7").env("RUST_BACKTRACE", "0");
        let output = command.current_dir(&self.folder).output().expect("there is a shell");
        (output.status, String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
