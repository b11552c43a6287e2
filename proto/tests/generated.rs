//! Proves that the checked-in code is what `kwik/v1/*.proto` gives, and writes it when asked to.

use std::{env, error::Error, fs, path::Path};

/// Set to 1, it makes the test write the file instead of comparing it.
const REGENERATE: &str = "KWIK_REGENERATE";
const SOURCES: [&str; 5] = [
    "kwik/v1/common.proto",
    "kwik/v1/control.proto",
    "kwik/v1/header.proto",
    "kwik/v1/lease.proto",
    "kwik/v1/stream.proto",
];
/// The one file that the generator writes: it names files after the protobuf package.
const FILE: &str = "kwik.v1.rs";

#[test]
fn checked_in_code_matches_its_sources() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let generated = generate(root)?;
    let path = root.join("src/gen").join(FILE);
    if env::var_os(REGENERATE).is_some_and(|value| value == "1") {
        fs::write(&path, generated)?;
        return Ok(());
    }

    // A checkout on Windows may have turned the line ends.
    let checked_in = fs::read_to_string(&path)?.replace("\r\n", "\n");
    if checked_in == generated {
        return Ok(());
    }
    let line = generated.lines().zip(checked_in.lines()).take_while(|(fresh, held)| fresh == held).count();
    panic!(
        "proto/src/gen/{FILE} differs from what proto/kwik/v1 gives, first in line {}:\n  sources:    {:?}\n  \
         checked in: {:?}\nrun `{REGENERATE}=1 cargo test -p kwik-proto` and commit the file",
        line + 1,
        generated.lines().nth(line),
        checked_in.lines().nth(line),
    );
}

/// A source that nobody lists would be a message that nobody generates.
#[test]
fn every_source_is_listed() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join("kwik/v1"))? {
        found.push(format!("kwik/v1/{}", entry?.file_name().to_string_lossy()));
    }
    found.sort();
    assert_eq!(found, SOURCES);
    Ok(())
}

fn generate(root: &Path) -> Result<String, Box<dyn Error>> {
    let descriptors = protox::compile(SOURCES, [root])?;
    let out = tempfile::tempdir()?;
    let mut config = prost_build::Config::new();
    config.bytes(["."]).out_dir(out.path());
    config.compile_fds(descriptors)?;
    Ok(fs::read_to_string(out.path().join(FILE))?)
}
