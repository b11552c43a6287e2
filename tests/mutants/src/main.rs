//! Tries whether some test notices each small change to the parts that decide: the mutants of `cargo mutants`, all of them
//! compiled into one build of a copy of the tree, each behind a switch that an environment variable turns. A build each
//! takes days; this takes two builds and less than an hour.
//!
//! Each test is run alone once, to learn which switches it asks; then each mutant against the tests that reach it, the
//! quickest first, until one fails. A test that no longer ends is stopped by its use of the processor, and counts as one that
//! failed.
//!
//! Needs `cargo install cargo-mutants --version 27.1.0 --locked`, for the list; `.cargo/mutants.toml` says of what. From the
//! top of the tree:
//!
//! ```text
//! cargo run --release --manifest-path tests/mutants/Cargo.toml --target-dir target/mutants/tool -- [--every N] [PART...]
//! ```
//!
//! `--every 20` tries each twentieth mutant, `session/client` those of one part. Everything is in `target/mutants`, of
//! which `outcome.txt` says what became of each mutant.

mod rewrite;
mod run;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output},
};

use serde_json::Value;

use crate::{
    rewrite::Wanted,
    run::{Tests, Verdict},
};

/// What the tests of the core are built with.
const FEATURES: &str = "audit,driver,futures-io,qlog,tokio,udp";

/// One change, as cargo-mutants lists it.
struct Mutant {
    number: u32,
    file: String,
    name: String,
    place: rewrite::Place,
    replacement: String,
}

impl Mutant {
    fn new(number: usize, value: &Value) -> Option<Self> {
        let text = |key: &str| Some(value[key].as_str()?.to_owned());
        let at = |key: &str| usize::try_from(value["span"]["start"][key].as_u64()?).ok();
        Some(Self {
            number: u32::try_from(number).ok()?,
            file: text("file")?,
            name: text("name")?,
            place: (text("genre")?, at("line")?, at("column")?),
            replacement: text("replacement")?,
        })
    }

    /// The part of the core it is in: a folder of `src`, or of `src/session`.
    fn part(&self) -> String {
        let file = self.file.trim_start_matches("kwik-core/src/").trim_end_matches(".rs");
        let depth = if file.starts_with("session/") { 2 } else { 1 };
        file.split('/').take(depth).collect::<Vec<_>>().join("/")
    }
}

fn main() -> ExitCode {
    let (mut every, mut parts) = (1, BTreeSet::new());
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--every" => {
                every = arguments.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0).unwrap_or(1)
            }
            part => drop(parts.insert(part.to_owned())),
        }
    }
    let root =
        PathBuf::from(stdout(&output(Command::new("git").args(["rev-parse", "--show-toplevel"]))).trim());
    let work = root.join("target/mutants");
    let tree = work.join("tree");
    copy(&root, &tree);
    let mutants = list(&tree);
    prepare(&tree);
    let (tried, binary) = build(&tree, &work, &mutants);
    let tests = Tests::new(&binary, &tree.join("kwik-core"), &work);
    let chosen = mutants.iter().filter(|mutant| tried.contains(&mutant.number));
    let chosen = chosen.filter(|mutant| parts.is_empty() || parts.contains(&mutant.part())).step_by(every);
    let mut outcome = fs::File::create(work.join("outcome.txt")).expect("can be written");
    let mut sums: BTreeMap<String, [u32; 3]> = BTreeMap::new();
    for mutant in chosen {
        let verdict = tests.judge(mutant.number);
        writeln!(outcome, "{verdict:?} {}", mutant.name).expect("can be written");
        let sum = sums.entry(mutant.part()).or_default();
        match verdict {
            Verdict::Caught(_) => sum[0] += 1,
            Verdict::Stopped(_) => sum[1] += 1,
            Verdict::Survived => {
                println!("survives: {}", mutant.name);
                sum[2] += 1;
            }
        }
    }
    for (part, [caught, stopped, survived]) in &sums {
        let of = caught + stopped + survived;
        println!(
            "{part}: {of} tried, {} caught ({stopped} of them stopped), {survived} not",
            caught + stopped
        );
    }
    println!("{} of {} changes could be tried", tried.len(), mutants.len());
    ExitCode::SUCCESS
}

/// Copies what git knows of the tree, or would.
fn copy(root: &Path, tree: &Path) {
    let _ = fs::remove_dir_all(tree);
    let listed = ["ls-files", "--cached", "--others", "--exclude-standard", "-z"];
    let listed = output(Command::new("git").args(listed).current_dir(root));
    for file in stdout(&listed).split('\0').filter(|file| !file.is_empty() && root.join(file).is_file()) {
        let to = tree.join(file);
        fs::create_dir_all(to.parent().expect("it is in the tree")).expect("can be written");
        fs::copy(root.join(file), to).expect("can be copied");
    }
}

fn list(tree: &Path) -> Vec<Mutant> {
    let listed = ["mutants", "--list", "--json", "--package", "kwik-core"];
    let listed = output(Command::new("cargo").args(listed).current_dir(tree));
    let listed: Vec<Value> = serde_json::from_str(&stdout(&listed)).expect("cargo-mutants lists them");
    listed.iter().enumerate().filter_map(|(number, value)| Mutant::new(number, value)).collect()
}

/// Puts the switch into the core, and takes the lints away: generated code pleases none of them.
fn prepare(tree: &Path) {
    for package in ["kwik-core", "proto"] {
        let manifest = tree.join(package).join("Cargo.toml");
        let text = fs::read_to_string(&manifest).expect("a package");
        fs::write(manifest, text.replace("[lints]\nworkspace = true\n", "")).expect("can be written");
    }
    let source = tree.join("kwik-core/src");
    fs::write(source.join("mutants.rs"), include_str!("switch.rs")).expect("can be written");
    let root = source.join("lib.rs");
    let text = fs::read_to_string(&root).expect("a library");
    let text = text.replacen("\nmod ", "\nmod mutants;\nuse mutants::mutant;\nmod ", 1);
    fs::write(root, text.replacen("#![forbid(unsafe_code)]", "#![allow(warnings)]", 1))
        .expect("can be written");
}

/// Builds the core's tests with all mutants but those that do not compile. Returns the numbers of the others, and the program.
fn build(tree: &Path, work: &Path, mutants: &[Mutant]) -> (BTreeSet<u32>, PathBuf) {
    let files: BTreeSet<&str> = mutants.iter().map(|mutant| mutant.file.as_str()).collect();
    let sources: Vec<(&str, String)> = files
        .iter()
        .map(|file| (*file, fs::read_to_string(tree.join(file)).expect("it was listed")))
        .collect();
    let (mut dropped, mut consts) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let mut tried = BTreeSet::new();
        for (file, source) in &sources {
            let mut wanted = Wanted::new();
            for mutant in
                mutants.iter().filter(|mutant| mutant.file == *file && !dropped.contains(&mutant.number))
            {
                let text = mutant.replacement.clone();
                wanted.entry(mutant.place.clone()).or_default().push((mutant.number, text));
            }
            let (text, done) = rewrite::rewrite(source, &wanted, &consts);
            fs::write(tree.join(file), text).expect("can be written");
            tried.extend(done);
        }
        let messages = cargo(tree, work, &["check", "--lib"]);
        let errors: Vec<&Value> = errors(&messages).collect();
        if errors.is_empty() {
            let messages = cargo(tree, work, &["test", "--lib", "--no-run"]);
            let binary = messages.iter().find_map(|message| message["executable"].as_str());
            return (tried, binary.expect("the tests compile").into());
        }
        let before = dropped.len() + consts.len();
        for error in errors {
            if error["code"]["code"] == "E0015" {
                // A constant needs what is no constant any more: "cannot call non-const method `RangeSet::total` in ..".
                let called = error["message"].as_str().and_then(|message| message.split('`').nth(1));
                let name =
                    called.and_then(|called| called.split("::").filter(|part| !part.starts_with('<')).last());
                consts.extend(name.map(str::to_owned));
            } else {
                dropped.extend(blamed(tree, error));
            }
        }
        println!("{} changes do not compile", dropped.len());
        assert!(
            dropped.len() + consts.len() > before,
            "what the compiler says is about no mutant: {messages:?}"
        );
    }
}

fn errors(messages: &[Value]) -> impl Iterator<Item = &Value> {
    let said = messages.iter().filter(|message| message["reason"] == "compiler-message");
    let said = said.map(|message| &message["message"]);
    said.filter(|said| {
        said["level"] == "error" && said["spans"].as_array().is_some_and(|spans| !spans.is_empty())
    })
}

/// The mutants in whose text an error is.
fn blamed(tree: &Path, error: &Value) -> Vec<u32> {
    let mut spans: Vec<&Value> = error["spans"].as_array().into_iter().flatten().collect();
    spans.sort_by_key(|span| span["is_primary"] != true);
    let of = spans.into_iter().filter_map(|span| {
        let text = fs::read_to_string(tree.join(span["file_name"].as_str()?)).ok()?;
        let [start, end] = ["byte_start", "byte_end"].map(|key| usize::try_from(span[key].as_u64()?).ok());
        Some(rewrite::around(&text, start?..end?))
    });
    of.into_iter().find(|blamed| !blamed.is_empty()).unwrap_or_default()
}

/// Runs cargo on the core of the copy; returns what it says. Optimised a little: the tests are run some thousand times.
fn cargo(tree: &Path, work: &Path, arguments: &[&str]) -> Vec<Value> {
    let mut command = Command::new("cargo");
    command.args(arguments).args([
        "--package",
        "kwik-core",
        "--features",
        FEATURES,
        "--message-format",
        "json",
    ]);
    command.env("CARGO_TARGET_DIR", work.join("build")).env("CARGO_INCREMENTAL", "0").current_dir(tree);
    command.env("CARGO_PROFILE_DEV_OPT_LEVEL", "1").env("CARGO_PROFILE_DEV_DEBUG", "0");
    let said = command.stderr(std::process::Stdio::inherit()).output().expect("cargo is there");
    stdout(&said).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn output(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
