//! `kwik keygen`, `serve` and `mirror` as processes, with `kwik get` as their client.

#![cfg(unix)]

#[cfg(test)]
mod world;

use std::{fs, process::Stdio, thread, time::Duration};

use crate::world::{World, brought, run};

const MIB: usize = 1 << 20;

#[test]
fn an_object_comes_from_every_server() {
    let world = World::new();
    let bytes = world.file("files", "models/a b.bin", 24 * MIB + 12345);
    let primary = world.keys("primary", "p");
    let (_m1, first) = world.mirror("m1", "files", &primary.value("public key"));
    let (_m2, second) = world.mirror("m2", "files", &primary.value("public key"));
    let mut server = world.serve("serve", "p", "files", &["--mirror", &first, "--mirror", &second]);
    let output = world.get(&server, "models/a%20b.bin", "out").output().unwrap();
    brought(&output, &world.path("out"), &bytes);
    let sent = server.log.says("sent");
    let shares = sent["shares"].as_str().unwrap();
    assert!(shares.contains("path 1: ") && shares.contains("path 2: "), "{shares}");

    // The pin alone is enough for a client.
    let pinned =
        ["get", &format!("kwik://{}/models/a%20b.bin", server.address), "--pin", &primary.value("pin")];
    let output = world::kwik().args(pinned).args(["-o", &world.text("pinned")]).output().unwrap();
    brought(&output, &world.path("pinned"), &bytes);
}

#[test]
fn a_mirror_may_die() {
    let world = World::new();
    let bytes = world.file("files", "x", 96 * MIB);
    let primary = world.keys("primary", "p");
    let (mut mirror, name) = world.mirror("m", "files", &primary.value("public key"));
    let mut server = world.serve("serve", "p", "files", &["--mirror", &name]);
    let client = world.get(&server, "x", "out").stderr(Stdio::piped()).spawn().unwrap();
    server.log.says("mirror attached");
    mirror.log.says("job");
    mirror.kill();
    brought(&client.wait_with_output().unwrap(), &world.path("out"), &bytes);
}

#[test]
fn a_mirror_that_is_stopped_hands_back_what_it_has_not_begun() {
    let world = World::new();
    let bytes = world.file("files", "x", 96 * MIB);
    let primary = world.keys("primary", "p");
    let (mut mirror, name) = world.mirror("m", "files", &primary.value("public key"));
    let server = world.serve("serve", "p", "files", &["--mirror", &name]);
    let client = world.get(&server, "x", "out").stderr(Stdio::piped()).spawn().unwrap();
    mirror.log.says("job");
    mirror.terminate();
    assert_eq!(mirror.ended(), Some(0));
    mirror.log.says("ended");
    brought(&client.wait_with_output().unwrap(), &world.path("out"), &bytes);
}

#[test]
fn a_primary_that_is_stopped_ends_what_it_has_begun() {
    let world = World::new();
    let bytes = world.file("files", "x", 64 * MIB);
    world.keys("primary", "p");
    let mut server = world.serve("serve", "p", "files", &[]);
    let client = world.get(&server, "x", "out").stderr(Stdio::piped()).spawn().unwrap();
    server.log.says("request");
    server.terminate();
    server.log.wait_for(|line| line["message"].as_str().is_some_and(|text| text.starts_with("ending")));
    let refused = world.get(&server, "x", "late").args(["--connect-timeout", "20"]).output().unwrap();
    assert!(!refused.status.success() && !world.path("late").exists());
    brought(&client.wait_with_output().unwrap(), &world.path("out"), &bytes);
    assert_eq!(server.ended(), Some(0));
}

#[test]
fn nothing_outside_of_the_root_is_served() {
    let world = World::new();
    world.file(".", "secret", 10);
    world.file("files", "sub/x", 10);
    std::os::unix::fs::symlink("../secret", world.path("files/link")).unwrap();
    std::os::unix::fs::symlink(world.path("secret"), world.path("files/absolute")).unwrap();
    std::process::Command::new("mkfifo").arg(world.path("files/pipe")).status().unwrap();
    world.keys("primary", "p");
    let server = world.serve("serve", "p", "files", &[]);
    for path in
        ["link", "absolute", "pipe", "none", "sub/../../secret", "..%2Fsecret", "sub%2f..%2f..%2fsecret"]
    {
        let output = world.get(&server, path, "out").output().unwrap();
        let code = output.status.code().unwrap();
        assert!([2, 3, 4].contains(&code), "{path}: {code} {}", String::from_utf8_lossy(&output.stderr));
        assert!(!world.path("out").exists(), "{path}");
    }
}

#[test]
fn a_mirror_with_another_version_does_no_harm() {
    let world = World::new();
    let bytes = world.file("files", "x", 16 * MIB);
    let small = world.file("files", "small", 1000);
    let mut other = bytes.clone();
    other.reverse();
    fs::create_dir(world.path("other")).unwrap();
    fs::write(world.path("other/x"), &other).unwrap();
    fs::write(world.path("other/small"), &small[1..]).unwrap();
    let primary = world.keys("primary", "p");
    let (mut mirror, name) = world.mirror("m", "other", &primary.value("public key"));
    let mut server = world.serve("serve", "p", "files", &["--mirror", &name]);
    let output = world.get(&server, "x", "out").output().unwrap();
    brought(&output, &world.path("out"), &bytes);
    let output = world.get(&server, "small", "out-small").output().unwrap();
    brought(&output, &world.path("out-small"), &small);
    // Told where it can be mended: a job refused, or a path lost for its digest.
    let told = |line: &serde_json::Value| {
        ["mirror lost", "sent"].contains(&line["message"].as_str().unwrap_or_default())
    };
    server.log.wait_for(told);
    mirror.log.says("attached");
}

#[test]
fn whoever_is_not_trusted_is_named_and_missed_by_nobody() {
    let world = World::new();
    let bytes = world.file("files", "x", 2 * MIB);
    world.keys("primary", "p");
    let stranger = world.keys("primary", "stranger");
    let (mut mirror, name) = world.mirror("m", "files", &stranger.value("public key"));
    // A port that clients do not dial, and one where nobody answers.
    let forbidden = format!("127.0.0.1:9#{}", "00".repeat(32));
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = socket.local_addr().unwrap().to_string();
    let nobody = format!("{silent}#{}", "00".repeat(32));
    let mirrors = ["--mirror", &name, "--mirror", &forbidden, "--mirror", &nobody];
    let mut server = world.serve("serve", "p", "files", &mirrors);
    // Long enough for the attempts to end.
    let client = world
        .get(&server, "x", "out")
        .args(["--limit-rate", "200KiB"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mirror_name = name.split('#').next().unwrap().to_owned();
    let line =
        server.log.wait_for(|line| line["message"] == "mirror not attached" && line["mirror"] == mirror_name);
    assert!(line["why"].as_str().unwrap().contains("--trust"), "{line}");
    for (mirror, why) in [("127.0.0.1:9", "does not dial such an address"), (&silent, "nobody answers there")]
    {
        let line =
            server.log.wait_for(|line| line["message"] == "mirror not attached" && line["mirror"] == *mirror);
        assert!(line["why"].as_str().unwrap().contains(why), "{line}");
    }
    mirror.log.says("not attached");
    brought(&client.wait_with_output().unwrap(), &world.path("out"), &bytes);
}

#[test]
fn a_file_that_changes_while_it_is_served_is_never_spliced() {
    let world = World::new();
    let bytes = world.file("files", "x", 32 * MIB);
    world.keys("primary", "p");
    let mut server = world.serve("serve", "p", "files", &[]);
    let client =
        world.get(&server, "x", "out").args(["--limit-rate", "4MiB"]).stderr(Stdio::piped()).spawn().unwrap();
    server.log.says("request");
    thread::sleep(Duration::from_millis(1500));
    let changed: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
    fs::write(world.path("files/x"), &changed).unwrap();
    let output = client.wait_with_output().unwrap();
    match output.status.code() {
        Some(0) => {
            let got = fs::read(world.path("out")).unwrap();
            assert!(got == bytes || got == changed, "two versions in one file");
        }
        Some(7) => assert!(!world.path("out").exists()),
        code => panic!("{code:?}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

#[test]
fn more_files_may_be_open_than_processes_start_with() {
    let world = World::new();
    world.keys("primary", "p");
    let mut server = world.serve("serve", "p", "files", &[]);
    let line = server.log.says("limit of open files raised");
    assert!(line["to"].as_u64() >= line["from"].as_u64(), "{line}");
}

#[test]
fn so_many_clients_are_served_and_others_are_told() {
    let world = World::new();
    let bytes = world.file("files", "x", 2 * MIB);
    let primary = world.keys("primary", "p");
    let pin = world.keys("mirror", "m").value("pin");
    let key = primary.value("public key");
    let limit = ["--sessions-per-client", "1"];
    let mut mirror = world.serve("mirror", "m", "files", &[&["--trust", &key], &limit[..]].concat());
    let name = format!("{}#{pin}", mirror.address);
    let args = ["--sessions-max", "2", "--mirror", &name];
    let mut server = world.serve("serve", "p", "files", &args);
    let slow = |server: &world::Server, out: &str| {
        let mut get = world.get(server, "x", out);
        get.args(["--limit-rate", "200KiB"]).stderr(Stdio::piped()).spawn().unwrap()
    };
    let first = slow(&server, "first");
    server.log.says("mirror attached");
    // The mirror has one place for this address, so that only the primary serves this one.
    let second = slow(&server, "second");
    mirror.log.wait_for(|line| line["message"].as_str().is_some_and(|text| text.starts_with("turned away")));
    server.log.says("mirror not attached");
    let third = world.get(&server, "x", "third").output().unwrap();
    let said = String::from_utf8_lossy(&third.stderr);
    assert_eq!(third.status.code(), Some(4), "{said}");
    server.log.wait_for(|line| line["message"].as_str().is_some_and(|text| text.starts_with("turned away")));
    brought(&first.wait_with_output().unwrap(), &world.path("first"), &bytes);
    brought(&second.wait_with_output().unwrap(), &world.path("second"), &bytes);
}

#[test]
fn a_mirror_keeps_to_its_rate() {
    let world = World::new();
    let bytes = world.file("files", "x", 4 * MIB);
    let primary = world.keys("primary", "p");
    let pin = world.keys("mirror", "m").value("pin");
    let key = primary.value("public key");
    let limits = ["--limit-rate", "1MiB", "--limit-rate-per-client", "100KiB"];
    let mut mirror = world.serve("mirror", "m", "files", &[&["--trust", &key], &limits[..]].concat());
    let name = format!("{}#{pin}", mirror.address);
    let mut server = world.serve("serve", "p", "files", &["--mirror", &name]);
    let began = std::time::Instant::now();
    // Slow enough that it is attached while something is left.
    let client =
        world.get(&server, "x", "out").args(["--limit-rate", "1MiB"]).stderr(Stdio::piped()).spawn().unwrap();
    mirror.log.says("job");
    brought(&client.wait_with_output().unwrap(), &world.path("out"), &bytes);
    let most = 100.0 * 1024.0 * (began.elapsed().as_secs_f64() + 0.1);
    let sent = server.log.says("sent");
    let shares = sent["shares"].as_str().unwrap();
    let of_mirror = shares.split(", ").find_map(|share| share.strip_prefix("path 1: ")).unwrap();
    assert!(of_mirror.parse::<f64>().unwrap() <= most, "{shares}: more than {most}");
}

#[test]
fn whoever_watches_over_a_server_sees_what_it_does() {
    let world = World::new();
    let bytes = world.file("files", "x", 4 * MIB);
    let primary = world.keys("primary", "p");
    let pin = world.keys("mirror", "m").value("pin");
    let key = primary.value("public key");
    let metrics = ["--metrics", "127.0.0.1:0"];
    let mut mirror = world.serve("mirror", "m", "files", &[&["--trust", &key], &metrics[..]].concat());
    let name = format!("{}#{pin}", mirror.address);
    let mut server = world.serve("serve", "p", "files", &[&["--mirror", &name], &metrics[..]].concat());
    let client =
        world.get(&server, "x", "out").args(["--limit-rate", "1MiB"]).stderr(Stdio::piped()).spawn().unwrap();
    server.log.says("mirror attached");
    let page = |server: &mut world::Server, path: &str| {
        let address = server.log.says("metrics")["http"].as_str().unwrap().to_owned();
        world::http(&address, path)
    };
    let (status, text) = page(&mut server, "/metrics");
    assert_eq!(status, 200, "{text}");
    for line in ["kwik_clients 1", "kwik_clients_admitted_total 1", "kwik_mirrors_attached 1"] {
        assert!(text.lines().any(|is| is == line), "{line} is not in: {text}");
    }
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert_eq!(page(&mut server, "/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(page(&mut server, "/readyz"), (200, "ready\n".to_owned()));
    assert_eq!(page(&mut server, "/").0, 404);
    brought(&client.wait_with_output().unwrap(), &world.path("out"), &bytes);

    server.log.says("sent");
    server.log.says("gone");
    let (_, text) = page(&mut server, "/metrics");
    assert!(text.contains("kwik_requests_total{result=\"answered\"} 1"), "{text}");
    let sent = |text: &str, by: &str| -> u64 {
        let label = format!("kwik_sent_bytes_total{{by=\"{by}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&label)).map_or(0, |count| count.parse().unwrap())
    };
    let (_, of_mirror) = page(&mut mirror, "/metrics");
    assert!(of_mirror.contains("kwik_jobs_total{result=\"taken\"} 1"), "{of_mirror}");
    assert!(sent(&of_mirror, "self") >= sent(&text, "mirrors"), "{text} {of_mirror}");
    assert!(sent(&text, "self") + sent(&text, "mirrors") >= bytes.len() as u64, "{text}");

    // While it ends it is well, and takes nobody.
    let last = world
        .get(&server, "x", "last")
        .args(["--limit-rate", "1MiB"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    server.log.wait_for_another(|line| line["message"] == "request");
    server.terminate();
    server.log.wait_for(|line| line["message"].as_str().is_some_and(|text| text.starts_with("ending")));
    assert_eq!(page(&mut server, "/readyz").0, 503);
    assert_eq!(page(&mut server, "/healthz").0, 200);
    brought(&last.wait_with_output().unwrap(), &world.path("last"), &bytes);
    assert_eq!(server.ended(), Some(0));
}

#[test]
fn a_mirror_that_the_client_does_not_trust_is_named_by_everybody() {
    let world = World::new();
    let bytes = world.file("files", "x", 2 * MIB);
    let primary = world.keys("primary", "p");
    // Of no authority that the client trusts.
    let made = run(&["keygen", "mirror", "--dir", &world.text("m"), "--name", "127.0.0.1"]);
    let pin = world::Printed::of(made).value("pin");
    let mut mirror = world.serve("mirror", "m", "files", &["--trust", &primary.value("public key")]);
    let name = format!("{}#{pin}", mirror.address);
    let mut server = world.serve("serve", "p", "files", &["--mirror", &name]);
    let slow = ["--limit-rate", "400KiB", "--json"];
    let client = world.get(&server, "x", "out").args(slow).stderr(Stdio::piped()).spawn().unwrap();
    let line = server.log.says("mirror not attached");
    assert!(line["why"].as_str().unwrap().contains("the client does not trust its certificate"), "{line}");
    let line = mirror.log.says("not attached");
    assert!(line["error"].as_str().unwrap().contains("cert"), "{line}");
    let output = client.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    brought(&output, &world.path("out"), &bytes);
    assert!(said.contains("\"why\":\"the certificate of 127.0.0.1 is not trusted: "), "{said}");
}

#[test]
fn a_directory_of_small_files_arrives() {
    let world = World::new();
    let files: Vec<_> = (0..150)
        .map(|n| {
            let name = format!("set/{}/file-{n}", n % 7);
            (name.clone(), world.file("files", &name, 1000 * n))
        })
        .collect();
    let primary = world.keys("primary", "p");
    let (_mirror, name) = world.mirror("m", "files", &primary.value("public key"));
    let server = world.serve("serve", "p", "files", &["--mirror", &name]);
    let output = world::kwik()
        .args(["get", &format!("kwik://{}/set", server.address), "--recursive"])
        .args(["--ca", &world.text("ca/ca.pem"), "--output-dir", &world.text("out")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (name, bytes) in files {
        assert!(fs::read(world.path("out").join(&name)).unwrap() == bytes, "{name}");
    }
}

#[test]
fn what_a_server_cannot_do_it_says_on_one_line() {
    let world = World::new();
    world.keys("primary", "p");
    let (root, keys, none) = (world.text("files"), world.text("p"), world.text("none"));
    for (args, why) in [
        (vec!["serve", "--root", &none, "--keys", &keys], "none"),
        (vec!["serve", "--root", &root, "--keys", &none], "keygen"),
        (vec!["serve", "--root", &root, "--keys", &keys, "--mirror", "m1.example"], "no pin"),
        (vec!["serve", "--root", &root, "--keys", &keys, "--listen", "192.0.2.1:1"], "192.0.2.1"),
        (vec!["mirror", "--root", &root, "--keys", &keys], "--trust"),
        (vec!["mirror", "--root", &root, "--keys", &keys, "--trust", "abc"], "public key"),
        (vec!["serve", "--keys", &keys], "--root"),
        (vec!["keygen", "primary", "--dir", &keys, "--name", "x"], "there already"),
    ] {
        let output = run(&args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        let errors: Vec<_> = said.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(why), "{args:?}: {said}");
    }
}

#[test]
fn settings_are_read_again_and_no_session_ends() {
    let world = World::new();
    let bytes = world.file("files", "x", 4 * MIB);
    let primary = world.keys("primary", "p");
    let (mut mirror, name) = world.mirror("m", "files", &primary.value("public key"));
    fs::write(world.path("kwik.toml"), "mirrors = []\n").unwrap();
    let mut server = world.serve("serve", "p", "files", &["--config", &world.text("kwik.toml")]);
    let client = world
        .get(&server, "x", "out")
        .args(["--limit-rate", "400KiB"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    server.log.says("request");
    // A mistake changes nothing.
    fs::write(world.path("kwik.toml"), "mirrors = [7]\n").unwrap();
    server.signal("HUP");
    server.log.says("settings stay as they were");
    // A mirror that is named is attached to the sessions that there are; new keys are shown to new clients.
    fs::write(world.path("kwik.toml"), format!("mirrors = [\"{name}\"]\n")).unwrap();
    fs::remove_dir_all(world.path("p")).unwrap();
    let new = world.keys("primary", "p");
    mirror.signal("HUP");
    mirror.log.says("settings read again");
    server.signal("HUP");
    server.log.says("mirror attached");
    server.log.wait_for(|line| line["message"] == "settings read again" && line["pin"] == new.value("pin"));
    brought(&client.wait_with_output().unwrap(), &world.path("out"), &bytes);
    let pinned = ["get", &format!("kwik://{}/x", server.address), "--pin", &new.value("pin")];
    let output = world::kwik().args(pinned).args(["-o", &world.text("pinned")]).output().unwrap();
    brought(&output, &world.path("pinned"), &bytes);
}
