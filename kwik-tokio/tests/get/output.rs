//! Files that are written, and the lines that are printed about them.

use std::{fs, io::Read as _, process::Stdio};

use serde_json::Value;

use crate::{
    bed::{Bed, kwik, run, said, succeed},
    schema::Schema,
};

#[test]
fn an_object_comes_from_all_servers() {
    let bed = Bed::new(2);
    let bytes = bed.object("a.bin", 60_000_000);
    let said = succeed(bed.get("a.bin").args(["--json", "--timeline", "a.svg"]));
    assert!(bed.read("a.bin") == bytes);
    assert_eq!(bed.files(), ["a.bin", "a.svg"]);
    let done: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(done["event"], "done", "{said}");
    let sources = done["sources"].as_array().unwrap();
    let brought = sources.iter().filter(|source| source["bytes"].as_u64().unwrap() > 0).count();
    assert_eq!((sources.len(), brought), (3, 3), "{done}");
    let total: u64 = sources.iter().map(|source| source["bytes"].as_u64().unwrap()).sum();
    // A sliver that was gathered from several servers is nobody's.
    let len = bytes.len() as u64;
    assert!(total <= len && total > len - len / 100, "{total} of {len}");
    let svg = fs::read_to_string(bed.out("a.svg")).unwrap();
    for name in ["primary 127.0.0.1", "mirror 1 127.0.0.1", "mirror 2 127.0.0.1"] {
        assert!(svg.contains(name), "{name}");
    }
}

#[test]
fn every_line_of_json_is_as_the_schema_says() {
    let schema = Schema::new(include_str!("../../get.schema.json"));
    let check = |said: &str| -> Vec<String> {
        let event = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(schema.is_valid(&line), "{line}");
            line["event"].as_str().unwrap().to_owned()
        };
        let mut events: Vec<_> = said.lines().map(event).collect();
        events.dedup();
        events
    };
    let bed = Bed::new(1);
    bed.object("a", 5_000_000);
    bed.object("d/b", 100);
    bed.object("d/c", 0);
    let events = check(&succeed(bed.get("a").args(["--json", "--limit-rate", "5MB"])));
    assert_eq!((events.first().unwrap().as_str(), events.last().unwrap().as_str()), ("start", "done"));
    assert!(events.contains(&"progress".to_owned()) && events.contains(&"object".to_owned()));
    check(&succeed(bed.get("d").args(["--json", "-r"])));
    let (code, said) = run(bed.get("a").arg("--json"));
    assert_eq!((code, check(&said)), (9, vec!["failed".to_owned()]));
    // The other way round: what is no event is not valid.
    let more = r#"{"event":"note","text":"x","later":1}"#;
    assert!(schema.is_valid(&serde_json::from_str(more).unwrap()), "what is added later is no error");
    let negative = r#"{"event":"start","schema":1,"url":"","objects":-1,"bytes":null}"#;
    for line in [
        "{}",
        negative,
        r#"{"event":"other"}"#,
        r#"{"event":"note"}"#,
        r#"{"event":"failed","cause":"x","code":1,"message":""}"#,
    ] {
        assert!(!schema.is_valid(&serde_json::from_str(line).unwrap()), "{line}");
    }
}

#[test]
fn standard_output_gets_verified_bytes_in_order() {
    let bed = Bed::new(2);
    let bytes = bed.object("a", 30_000_000);
    let output = bed.get("a").args(["-o", "-"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(output.stdout == bytes);
    assert_eq!(bed.files(), [""; 0]);
    bed.object("empty", 0);
    let output = bed.get("empty").args(["-o", "-"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0), "{}", said(&output));
}

#[test]
fn a_pipe_that_is_closed_ends_it() {
    let bed = Bed::new(0);
    bed.object("a", 30_000_000);
    let mut running =
        bed.get("a").args(["-o", "-"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 1000];
    running.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = running.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("standard output was closed"), "{}", said(&output));
}

#[test]
fn a_directory_comes_over_one_session() {
    let bed = Bed::new(1);
    let mut all = Vec::new();
    for n in 0..120_usize {
        let name = format!("models/m{}/part-{n:03}", n % 3);
        all.push((name.clone(), bed.object(&name, n * 777)));
    }
    all.push(("models/big file".to_owned(), bed.object("models/big file", 9_000_000)));
    succeed(bed.get("models/").args(["-r", "--output-dir", "x"]));
    let mut names: Vec<_> = all.iter().map(|(name, _)| format!("x/{name}")).collect();
    names.sort();
    assert_eq!(bed.files(), names);
    for (name, bytes) in &all {
        assert!(bed.read(&format!("x/{name}")) == *bytes, "{name}");
    }
    // Again: refused, and with --continue only what is not there.
    assert_eq!(run(bed.get("models/").args(["-r", "--output-dir", "x"])).0, 9);
    fs::remove_file(bed.out("x/models/m0/part-003")).unwrap();
    fs::write(bed.out("x/models/m1/part-004"), "wrong").unwrap();
    let said = succeed(bed.get("models/").args(["-r", "--output-dir", "x", "--continue", "--json"]));
    let done: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(done["fetched"], 7 * 777, "{done}");
    assert_eq!(bed.files(), names);
    assert!(bed.read("x/models/m1/part-004") == all[4].1);
}

#[test]
fn without_a_terminal_there_are_lines_and_no_control_characters() {
    let bed = Bed::new(0);
    bed.object("a", 1_000_000);
    let said = succeed(&mut bed.get("a"));
    assert!(!said.contains('\x1b') && !said.contains('\r'), "{said:?}");
    assert!(said.contains("verified"), "{said}");
    assert_eq!(succeed(bed.get("a").args(["--quiet", "--force"])), "");
    assert_eq!(run(bed.get("a").arg("--quiet")).1.lines().count(), 1);
}

#[test]
fn the_manual_and_the_completions_are_made() {
    let page = kwik().arg("man").output().unwrap();
    assert!(page.status.success() && page.stdout.starts_with(b".") && page.stdout.len() > 500);
    let bed = tempfile::tempdir().unwrap();
    assert_eq!(run(kwik().args(["man", "--dir"]).arg(bed.path())).0, 0);
    let get = fs::read_to_string(bed.path().join("kwik-get.1")).unwrap();
    assert!(get.contains("output\\-dir") || get.contains("output-dir"), "{get}");
    for shell in ["bash", "zsh", "fish"] {
        let script = kwik().args(["completions", shell]).output().unwrap();
        assert!(
            script.status.success() && String::from_utf8(script.stdout).unwrap().contains("kwik"),
            "{shell}"
        );
    }
}

#[test]
fn the_help_has_every_exit_code() {
    let help = kwik().args(["get", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for code in (0..=12).chain([130]) {
        assert!(
            help.lines().any(|line| line.trim_start().starts_with(&format!("{code}  "))),
            "{code}: {help}"
        );
    }
}
