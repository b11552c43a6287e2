//! Going on where an earlier attempt was broken off.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::bed::{Bed, PATIENCE, said, succeed};

const LEN: usize = 40_000_000;

/// Starts a slow transfer and waits until some of it is noted.
fn begin(bed: &Bed) -> Child {
    let child = bed.get("a").args(["--limit-rate", "4MB"]).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&bed.out("a.partial.kwik"));
    child
}

fn wait_for(path: &Path) {
    let began = Instant::now();
    while !path.exists() {
        assert!(began.elapsed() < PATIENCE, "{} does not come", path.display());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Fetches the rest; returns how many bytes that took.
fn fetched(get: &mut Command) -> u64 {
    let said = succeed(get.arg("--json"));
    let done: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    done["fetched"].as_u64().unwrap()
}

#[test]
fn a_killed_client_goes_on() {
    let bed = Bed::new(1);
    let bytes = bed.object("a", LEN);
    let mut child = begin(&bed);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(bed.files(), ["a.partial", "a.partial.kwik"]);
    let fetched = fetched(&mut bed.get("a"));
    assert!(fetched > 0 && fetched < LEN as u64, "{fetched}");
    assert_eq!(bed.files(), ["a"]);
    assert!(bed.read("a") == bytes);
}

#[test]
fn what_was_damaged_meanwhile_is_fetched_again() {
    let bed = Bed::new(0);
    let bytes = bed.object("a", LEN);
    let mut child = begin(&bed);
    child.kill().unwrap();
    child.wait().unwrap();
    let partial = fs::read(bed.out("a.partial")).unwrap();
    fs::write(bed.out("a.partial"), vec![7; partial.len()]).unwrap();
    assert_eq!(fetched(&mut bed.get("a")), LEN as u64);
    assert!(bed.read("a") == bytes);
}

#[test]
fn a_changed_object_starts_over_and_says_so() {
    let bed = Bed::new(0);
    bed.object_of("a", LEN, 1);
    let mut child = begin(&bed);
    child.kill().unwrap();
    child.wait().unwrap();
    let bytes = bed.object_of("a", LEN, 2);
    let said = succeed(&mut bed.get("a"));
    assert!(said.contains("a has changed on the server: starting over"), "{said}");
    assert!(bed.read("a") == bytes);
    assert_eq!(bed.files(), ["a"]);
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_and_names_the_command_that_goes_on() {
    let bed = Bed::new(0);
    let bytes = bed.object("a", LEN);
    let child = begin(&bed);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(130), "{said}");
    let error = said.lines().find(|line| line.starts_with("error: interrupted")).unwrap();
    let again = error.split_once("to go on: ").unwrap().1.trim_end_matches(')');
    assert_eq!(bed.files(), ["a.partial", "a.partial.kwik"]);
    let again = again.replace("--limit-rate 4MB", "");
    let mut shell = Command::new("sh");
    let output = shell.current_dir(bed.out("")).args(["-c", &again]).output().unwrap();
    assert!(output.status.success(), "{again}: {}", crate::bed::said(&output));
    assert!(bed.read("a") == bytes);
}

#[test]
fn two_clients_do_not_write_one_file() {
    let bed = Bed::new(0);
    bed.object("a", LEN);
    let mut child = begin(&bed);
    let (code, said) = crate::bed::run(&mut bed.get("a"));
    assert_eq!(code, 9, "{said}");
    assert!(said.contains("another process writes"), "{said}");
    child.kill().unwrap();
    child.wait().unwrap();
}
