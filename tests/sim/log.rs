//! The log of a session: all its paths in one place, the same on every run. Spec: RATIONALE §12.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use kwik_core::{Qlog, Role, SessionStats, TransportConfig};
use kwik_tests::sim::{NodeId, Offer, World, heap};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Records of each end's log, by the end that wrote it.
type Logs = Arc<Mutex<BTreeMap<(String, u32), Vec<u8>>>>;

struct Sink(Logs, (String, u32));

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        heap::uncounted(|| {
            let mut logs = self.0.lock().expect("nobody panics here");
            logs.entry(self.1.clone()).or_default().extend_from_slice(bytes);
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logging(logs: &Logs) -> TransportConfig {
    let logs = logs.clone();
    let qlog = Qlog::new(Box::new(io::sink()), Instant::now(), "world").expect("a sink takes everything");
    TransportConfig::default().qlog(qlog.sessions(move |_, role, path| {
        heap::uncounted(|| {
            let end = (format!("{role:?}"), path.into_inner());
            Some(Box::new(Sink(logs.clone(), end)) as Box<dyn io::Write + Send + Sync>)
        })
    }))
}

/// A session with three servers, one of which falls silent, and nobody to tell what happened but its log.
fn run(logs: Option<&Logs>) -> (String, SessionStats) {
    let transport = || logs.map(logging).unwrap_or_default();
    let mut world = World::seeded(61)
        .secondaries(2)
        .one_way(ms(20))
        .client_transport(transport())
        .server_transport(transport())
        .build();
    world.offer(Offer { size: 3 * MIB, range: 96 * 1024, meddle: 200, own: 100, ..Offer::default() });
    world.run_until(LIMIT, |w| w.delivered() > MIB);
    world.cut(NodeId::secondary(1));
    world.run_until(LIMIT, |w| w.delivered() == 3 * MIB && w.is_done());
    let stats = world.call(NodeId::client(1), |session, _| session.stats()).expect("a session");
    world.finish();
    (world.trace().hash(), stats)
}

/// The records of a log, the header first.
fn records(log: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(log).expect("text");
    let mut records = text.split('\u{1e}');
    assert_eq!(records.next(), Some(""), "a separator comes before each record");
    records
        .map(|record| {
            assert!(record.ends_with('\n') && record.matches('\n').count() == 1, "{record}");
            let parsed: Result<Value, _> = serde_json::from_str(record);
            assert!(parsed.is_ok(), "{parsed:?}: {record}");
            parsed.unwrap_or_default()
        })
        .collect()
}

struct Events(Vec<Value>);

impl Events {
    fn named(&self, name: &str) -> impl Iterator<Item = &Value> {
        let of = move |event: &&Value| event["name"] == format!("kwik:{name}");
        self.0.iter().filter(of).map(|event| &event["data"])
    }

    fn of_lease(&self, lease: &Value) -> Vec<&str> {
        let of = self.0.iter().filter(|event| event.pointer("/data/lease") == Some(lease));
        of.map(|event| event["name"].as_str().expect("a name")).collect()
    }

    fn states(&self, path: u32) -> Vec<&str> {
        let of = self.named("path_state").filter(|data| data["path"] == path);
        of.map(|data| data["state"].as_str().expect("a state")).collect()
    }
}

#[test]
fn a_log_tells_all_that_happened_on_all_paths() {
    let logs = Logs::default();
    let (_, stats) = run(Some(&logs));
    let logs = std::mem::take(&mut *logs.lock().expect("nobody panics here"));
    let ends: Vec<(&str, u32)> = logs.keys().map(|(role, path)| (role.as_str(), *path)).collect();
    assert_eq!(ends, [("Client", 0), ("Primary", 0), ("Secondary", 1), ("Secondary", 2)]);
    let of = |role: Role, path: u32| {
        let mut records = records(&logs[&(format!("{role:?}"), path)]);
        let header = records.remove(0);
        assert_eq!((&header["qlog_version"], &header["qlog_format"]), (&"0.3".into(), &"JSON-SEQ".into()));
        let times = records.iter().map(|event| event["time"].as_f64().expect("a time"));
        assert!(times.is_sorted(), "time goes on");
        assert_eq!(records[0]["name"], "kwik:session_started");
        (header["trace"]["common_fields"]["group_id"].clone(), Events(records))
    };
    let (session, client) = of(Role::Client, 0);
    let (named, primary) = of(Role::Primary, 0);
    assert_eq!(session, named);
    assert!(client.named("session_ended").count() == 1 && primary.named("session_ended").count() == 1);

    // Paths: one attaches and stays, the other goes silent while bytes are due.
    let attaching = ["connecting", "dialling", "authenticating", "active"];
    assert_eq!(client.states(2), attaching);
    assert_eq!(client.states(1)[..5], [&attaching[..], &["degraded"]].concat());
    assert!(client.named("probe").any(|data| data["path"] == 1));
    let suspended = client.named("lease_suspended").any(|data| data["path"] == 1);
    let stalled = |data: &Value| data["code"] == "PATH_STALLED" && data["missing"][0].is_array();
    assert!(suspended && client.named("lease_lost").any(stalled));

    // Leases: every one from its grant to its end, with path and stream, and as often as was counted.
    for grant in client.named("lease_granted") {
        let mut life = client.of_lease(&grant["lease"]);
        life.retain(|name| *name != "kwik:lease_revoked"); // which may come late
        let ends = ["kwik:lease_done", "kwik:lease_lost", "kwik:lease_refused"];
        assert_eq!(life.iter().filter(|name| ends.contains(name)).count(), 1, "{grant}: {life:?}");
        assert!(ends.contains(life.last().expect("an end")), "{grant}: {life:?}");
        assert!(grant["path"] != 0 && grant["stream"] == 3, "{grant}");
    }
    let counted = |path, name| client.named(name).filter(|data| data["path"] == path).count() as u64;
    for (path, source) in stats.sources.iter().filter(|(path, _)| !path.is_primary()) {
        let path = path.into_inner();
        assert_eq!(counted(path, "lease_lost"), source.leases_lost, "path {path}");
        assert!(counted(path, "lease_done") >= source.leases_done, "path {path}");
        assert_eq!(counted(path, "probe"), source.probes, "path {path}");
    }
    assert_eq!(client.named("credit").count() as u64, stats.credit_frames);

    // The stream, from both ends.
    for name in ["split", "split_acknowledged", "final", "complete"] {
        for end in [&client, &primary] {
            assert_eq!(end.named(name).filter(|data| data["stream"] == 3).count(), 1, "{name}");
        }
    }
    assert_eq!(client.named("final").next().expect("one")["size"], 3 * MIB);
    assert_eq!(client.named("fault").count(), 0);

    // A secondary's log is of its own path.
    let (named, secondary) = of(Role::Secondary, 2);
    assert_eq!(session, named);
    assert!(secondary.named("lease_noticed").count() > 0);
    let strange = secondary.0.iter().find(|event| event["data"].get("path").is_some_and(|path| *path != 2));
    assert_eq!(strange, None, "one path is all it knows");
}

/// Writing it down changes nothing, and says the same every time.
#[test]
fn a_log_is_the_same_every_time_and_changes_nothing() {
    let [first, second] = [Logs::default(), Logs::default()];
    let hashes = [run(Some(&first)).0, run(Some(&second)).0, run(None).0];
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    let [first, second] = [first, second].map(|logs| std::mem::take(&mut *logs.lock().expect("it is there")));
    for (end, log) in &first {
        // When the trace of QUIC began is a matter of the clock on the wall.
        assert_eq!(records(log)[1..], records(&second[end])[1..], "{end:?}");
    }
}
