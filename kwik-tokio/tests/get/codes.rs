//! Each exit code, each with one line that says what, where and what to do.

use std::{fs, io::Write as _, net::UdpSocket, process::Command, time::Duration};

use crate::bed::{Bed, kwik, run, succeed};

/// Runs a command that is to fail with `code`, and to say so on one line with `words` in it.
fn fails(command: &mut Command, code: i32, words: &[&str]) {
    let (was, said) = run(command);
    assert_eq!(was, code, "{said}");
    let errors: Vec<_> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{said}");
    for word in words {
        assert!(errors[0].contains(word), "{word} is not in: {said}");
    }
}

#[test]
fn bad_arguments_are_2() {
    for args in [
        &["get"][..],
        &["get", "http://a/b"],
        &["get", "kwik://a/../b"],
        &["get", "kwik://a/b", "--pin", "12"],
        &["get", "kwik://a/b", "--checksum", "md5=00"],
        &["get", "kwik://a/b", "--force", "--continue"],
        &["get", "kwik://a/b", "-o", "x", "--output-dir", "y"],
        &["get", "kwik://a/b", "--ca", "/nonexistent/ca.pem"],
        &["get", "kwik://a/b/", "--pin", "0000000000000000000000000000000000000000000000000000000000000000"],
    ] {
        let (code, said) = run(kwik().args(args));
        assert_eq!(code, 2, "{args:?}: {said}");
    }
}

#[test]
fn what_the_primary_has_not_is_3_and_what_it_does_not_give_is_4() {
    let bed = Bed::new(0);
    bed.object("dir/a", 10);
    fails(&mut bed.get("b"), 3, &["b: there is no such object"]);
    fails(&mut bed.get("dir"), 2, &["dir: it is a directory", "--recursive"]);
    fails(bed.get("nothing").arg("-r"), 3, &["nothing"]);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/etc/passwd", bed.root().join("link")).unwrap();
        let (code, said) = run(&mut bed.get("link"));
        assert!(code == 3 || code == 4, "{code} {said}");
        assert!(Command::new("mkfifo").arg(bed.root().join("pipe")).status().unwrap().success());
        fails(&mut bed.get("pipe"), 4, &["pipe: it is not a regular file"]);
    }
    assert_eq!(bed.files(), [""; 0]);
}

#[test]
fn a_primary_that_is_lost_is_5_and_the_command_that_goes_on_is_named() {
    let mut bed = Bed::new(0);
    bed.object("a", 20_000_000);
    let mut running =
        bed.get("a").args(["--limit-rate", "1MB"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    while !bed.out("a.partial").exists() {
        assert!(running.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    bed.primary.kill();
    let output = running.wait_with_output().unwrap();
    let said = crate::bed::said(&output);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("to go on: ") && said.contains(" get kwik://"), "{said}");
    assert!(!bed.out("a").exists());
}

#[test]
fn another_digest_than_the_user_names_is_6() {
    let bed = Bed::new(0);
    let bytes = bed.object("a", 3_000_000);
    let zeros = "0".repeat(64);
    for kind in ["blake3", "sha256"] {
        fails(bed.get("a").arg("--checksum").arg(format!("{kind}={zeros}")), 6, &["--checksum"]);
        assert!(!bed.out("a").exists(), "{kind}");
    }
    let sha256 = ring::digest::digest(&ring::digest::SHA256, &bytes);
    let sha256: String = sha256.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    succeed(bed.get("a").arg("--checksum").arg(format!("sha256={sha256}")));
    let blake3 = blake3::hash(&bytes);
    succeed(bed.get("a").args(["-o", "b", "--checksum"]).arg(format!("blake3={blake3}")));
    assert!(bed.read("a") == bytes && bed.read("b") == bytes);
}

#[test]
fn an_object_that_does_not_stay_the_same_is_7() {
    let bed = Bed::new(0);
    // Far longer than what the servers may send ahead of whoever reads.
    bed.object("a", 96_000_000);
    let mut get = bed.get("a");
    let mut running = get.args(["--limit-rate", "4MB"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    // Written in place, again and again: the first change has the client start over, the next is one too many.
    let mut version = 0_u8;
    while running.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(100));
        if bed.out("a.partial").exists() {
            version = version.wrapping_add(1);
            let mut file = fs::OpenOptions::new().write(true).open(bed.root().join("a")).unwrap();
            file.write_all(&[version]).unwrap();
        }
    }
    let output = running.wait_with_output().unwrap();
    let said = crate::bed::said(&output);
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(said.contains("a has changed on the server: starting over"), "{said}");
    assert!(said.contains("error: a: it has changed (fetch it again)"), "{said}");
    assert!(!bed.out("a").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_without_room_is_8() {
    let bed = Bed::new(0);
    bed.object("a", 3_000_000);
    // A limit of the process stands for a disk that is full: it is met in the same place.
    let get = format!(
        "ulimit -f 1; trap '' XFSZ; exec {} get {} --pin {}",
        env!("CARGO_BIN_EXE_kwik"),
        bed.url("a"),
        bed.primary.pin
    );
    fails(Command::new("bash").current_dir(bed.out("")).args(["-c", &get]), 8, &["a.partial"]);
    assert_eq!(bed.files(), [""; 0]);
}

#[test]
fn a_target_that_exists_is_9() {
    let bed = Bed::new(0);
    let bytes = bed.object("a", 100);
    fs::write(bed.out("a"), "old").unwrap();
    fails(&mut bed.get("a"), 9, &["a exists", "--force", "--continue"]);
    assert_eq!(bed.read("a"), b"old");
    succeed(bed.get("a").arg("--continue"));
    assert_eq!(bed.read("a"), bytes);
    let said = succeed(bed.get("a").args(["--continue", "--json"]));
    assert!(said.contains(r#""fetched":0"#), "{said}");
    fs::write(bed.out("a"), "old").unwrap();
    succeed(bed.get("a").arg("--force"));
    assert_eq!(bed.read("a"), bytes);
    fs::create_dir(bed.out("d")).unwrap();
    fs::create_dir(bed.out("d/a")).unwrap();
    fails(bed.get("a").args(["--force", "--output-dir", "d"]), 9, &["no regular file"]);
}

#[test]
fn too_slow_is_10() {
    let bed = Bed::new(0);
    bed.object("a", 20_000_000);
    let mut get = bed.get("a");
    get.args(["--limit-rate", "200kB", "--speed-limit", "100MB", "--speed-time", "1"]);
    fails(&mut get, 10, &["--speed-limit", "to go on: "]);
}

#[test]
fn a_host_that_is_not_known_or_does_not_answer_is_11() {
    let pin = "0".repeat(64);
    fails(kwik().args(["get", "kwik://host.invalid/a", "--pin", &pin]), 11, &["host.invalid"]);
    // Bound and never read: nothing comes back.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let url = format!("kwik://{}/a", silent.local_addr().unwrap());
    fails(
        kwik().args(["get", &url, "--pin", &pin, "--connect-timeout", "1"]),
        11,
        &["does not answer within 1 s"],
    );
}

#[test]
fn a_certificate_that_is_not_trusted_is_12() {
    let bed = Bed::new(0);
    bed.object("a", 10);
    let pin = "0".repeat(64);
    fails(kwik().args(["get", &bed.url("a"), "--pin", &pin]), 12, &["127.0.0.1", &bed.primary.pin, &pin]);
    let other = Bed::new(0);
    let ca = other.out("ca.pem");
    fs::copy(other.root().parent().unwrap().join("primary/server.pem"), &ca).unwrap();
    fails(kwik().args(["get", &bed.url("a"), "--ca"]).arg(&ca), 12, &["127.0.0.1", "not trusted"]);
}
