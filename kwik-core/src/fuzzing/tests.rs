//! The corpus is replayed, and the lists of operations are explored further, on every run of the tests.

use std::{fs, path::Path};

use proptest::{
    array::uniform12,
    collection::vec,
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use super::source::OP;

/// Entries of the repository's `fuzz` folder below `path`, sorted: the folder's own order is the file system's, and a
/// failure should name the same file everywhere.
fn listed(path: &str) -> Vec<std::path::PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(path);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort();
    files
}

/// Runs `target` on every file of its corpus.
fn replay(name: &str, target: fn(&[u8])) {
    let files = listed(&format!("corpus/{name}"));
    assert!(!files.is_empty(), "no corpus for {name}");
    for file in files {
        println!("{}", file.display());
        target(&fs::read(&file).expect("readable"));
    }
}

/// Runs `target` on lists of up to `ops` operations, the same ones every time; a list that fails is cut down.
fn explore(target: fn(&[u8]), cases: u32, ops: usize) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    const _: () = assert!(OP == 12, "an operation is one array");
    let explored = runner.run(&vec(uniform12(any::<u8>()), 0..=ops), |ops| {
        target(&ops.concat());
        Ok(())
    });
    explored.unwrap_or_else(|error| panic!("{error}"));
}

/// Writes one test per target, and the list of all of them. `name(cases, operations)` is explored as well.
macro_rules! targets {
    ($($name:ident $(($cases:literal, $ops:literal))?;)*) => {
        const TARGETS: &[&str] = &[$(stringify!($name)),*];

        $(mod $name {
            #[test]
            fn corpus() {
                super::replay(stringify!($name), crate::fuzzing::$name);
            }

            $(#[test]
            fn explored() {
                super::explore(crate::fuzzing::$name, $cases, $ops);
            })?
        })*
    };
}

targets! {
    assemble_ops(150, 60);
    client_ops(300, 80);
    dial_policy(3000, 4);
    frame_decode;
    header_decode;
    hello(300, 12);
    lease_table(300, 60);
    primary_ops(300, 80);
    ranges_ops(300, 60);
    schedule_ops(300, 120);
    secondary_ops(300, 80);
    session_datagram(150, 40);
    ticket_decode(3000, 8);
    ticket_open(300, 8);
}

/// A target that nobody replays rots; a corpus that no target reads is dead.
#[test]
fn every_target_has_a_test_and_a_corpus() {
    for folder in ["fuzz_targets", "corpus"] {
        let names: Vec<_> = listed(folder)
            .iter()
            .map(|path| path.file_stem().expect("named").to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, TARGETS, "{folder}");
    }
}
