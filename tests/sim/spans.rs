//! Spans and events of `tracing`: one can follow a session, a path, a stream and a lease by its id. Spec: RATIONALE §12.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::{Arc, Mutex},
    time::Duration,
};

use kwik_tests::sim::{NodeId, Offer, World, heap};
use tracing::{
    Dispatch, Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

type Fields = BTreeMap<&'static str, String>;

/// A span that was entered, or an event, with all that is known around it.
#[derive(Clone, Debug)]
struct Seen {
    /// Names of spans, the outermost first.
    spans: Vec<&'static str>,
    /// Fields of the spans and of the event; inner ones count.
    fields: Fields,
}

impl Seen {
    fn is(&self, field: &str, value: &str) -> bool {
        self.fields.get(field).is_some_and(|known| known == value)
    }
}

#[derive(Debug, Default)]
struct Captured {
    spans: Vec<(&'static str, Fields)>,
    stack: Vec<usize>,
    events: Vec<Seen>,
}

/// Keeps every event of the core. Worlds are one thread, so one stack of spans will do.
#[derive(Clone, Debug, Default)]
struct Capture(Arc<Mutex<Captured>>);

struct Take<'a>(&'a mut Fields);

impl Visit for Take<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl Capture {
    /// Works on the record, uncounted: it is no part of the machine that is looked at.
    fn with<T>(&self, work: impl FnOnce(&mut Captured) -> T) -> T {
        heap::uncounted(|| work(&mut self.0.lock().expect("nobody panics here")))
    }
}

fn index(id: &Id) -> usize {
    usize::try_from(id.into_u64()).expect("few spans") - 1
}

impl Subscriber for Capture {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("kwik_core")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.with(|captured| {
            let mut fields = Fields::new();
            span.record(&mut Take(&mut fields));
            captured.spans.push((span.metadata().name(), fields));
            Id::from_u64(captured.spans.len() as u64)
        })
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        self.with(|captured| {
            let (_, fields) = captured.spans.get_mut(index(span)).expect("a span of ours");
            values.record(&mut Take(fields));
        });
    }

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        self.with(|captured| {
            let mut seen = Seen { spans: Vec::new(), fields: Fields::new() };
            for (name, fields) in captured.stack.iter().filter_map(|&span| captured.spans.get(span)) {
                seen.spans.push(name);
                seen.fields.extend(fields.clone());
            }
            event.record(&mut Take(&mut seen.fields));
            captured.events.push(seen);
        });
    }

    fn enter(&self, span: &Id) {
        self.with(|captured| captured.stack.push(index(span)));
    }

    fn exit(&self, span: &Id) {
        self.with(|captured| {
            let at = captured.stack.iter().rposition(|entered| *entered == index(span));
            captured.stack.remove(at.expect("it was entered"));
        });
    }
}

/// Runs a world of one client, two secondaries and one object, of which a lease each has something.
fn run() -> (String, String, String) {
    let mut world = World::seeded(51).secondaries(2).one_way(Duration::from_millis(10)).build();
    world.offer(Offer { size: 300_000, range: 60_000, ..Offer::default() });
    world.run_until(Duration::from_secs(60), |w| w.delivered() == 300_000 && w.is_done());
    let streams = "3".to_owned(); // the first that a server opens in one direction
    let session = world.call(NodeId::client(1), |session, _| session.session_id()).flatten();
    world.finish();
    (session.expect("a session").to_string(), streams, world.trace().hash())
}

#[test]
fn a_session_a_path_a_stream_and_a_lease_can_be_followed() {
    // With one subscriber only, a place in the code that another test comes by first would be switched off for all.
    let _another = Dispatch::new(Capture::default());
    let capture = Capture::default();
    let (session, stream, hash) = tracing::subscriber::with_default(capture.clone(), run);
    assert_eq!(hash, run().2, "whoever looks on changes nothing");
    let (spans, events) = capture.with(|captured| {
        assert!(captured.stack.is_empty(), "every span is left again");
        (std::mem::take(&mut captured.spans), std::mem::take(&mut captured.events))
    });

    // All four ends of the session tell its name, and their role in it.
    let named = spans.iter().filter(|(name, _)| *name == "session");
    let roles: Vec<&str> = named.map(|(_, fields)| fields["role"].as_str()).collect();
    for (role, count) in [("Client", 1), ("Primary", 1), ("Secondary", 2)] {
        let of = |seen: &&&str| seen.contains(role);
        assert_eq!(roles.iter().filter(of).count(), count, "{roles:?}");
    }
    let outside = events.iter().find(|seen| seen.spans.first() != Some(&"session"));
    assert!(outside.is_none(), "{outside:?}");
    let of_session: Vec<&Seen> = events.iter().filter(|seen| seen.is("session", &session)).collect();
    assert!(of_session.len() * 10 > events.len() * 9, "all but the handshakes have the name");

    // What is said of a path, a stream, a lease comes from each end that has to do with it.
    let ends = |field: &str, value: &str| -> BTreeSet<String> {
        let of = of_session.iter().filter(|seen| seen.is(field, value));
        of.map(|seen| seen.fields["role"].clone()).collect()
    };
    assert_eq!(ends("path", "1").len(), 3, "{:?}", ends("path", "1"));
    assert_eq!(ends("path", "2").len(), 3);
    assert!(ends("stream", &stream).len() >= 2, "{:?}", ends("stream", &stream));
    assert_eq!(ends("lease", "0").len(), 3, "{:?}", ends("lease", "0"));
    let told = |what: &str| {
        let of = of_session.iter().filter(|seen| seen.is("lease", "0"));
        of.flat_map(|seen| seen.fields.get("action").or_else(|| seen.fields.get("frame")))
            .any(|text| text.contains(what))
    };
    for what in ["LeaseGrant", "LeaseNotice", "StreamMappingUpdate", "LeaseDone"] {
        assert!(told(what), "nothing is told of a {what}");
    }
    // Bytes are placed inside spans that say whose they are.
    let placed = of_session.iter().find(|seen| seen.spans.contains(&"internal") && seen.is("lease", "0"));
    let placed = placed.expect("bytes of the lease came");
    assert!(placed.is("stream", &stream) && placed.fields["path"] != "0", "{placed:?}");
}

/// Whoever reads a log of everything can neither attach with it nor learn what the servers are asked for.
#[test]
fn tickets_and_payloads_are_in_no_log() {
    let _another = Dispatch::new(Capture::default());
    let capture = Capture::default();
    tracing::subscriber::with_default(capture.clone(), run);
    let (spans, events) = capture.with(|captured| (captured.spans.clone(), captured.events.clone()));
    let of_spans = spans.iter().flat_map(|(_, fields)| fields.values());
    let texts: Vec<&String> = of_spans.chain(events.iter().flat_map(|seen| seen.fields.values())).collect();
    for hidden in ["ticket: <", "payload: <", "nonce: <"] {
        assert!(texts.iter().any(|text| text.contains(hidden)), "the run has no {hidden}");
    }
    let bytes = texts.iter().find(|text| text.contains("b\"") || has_array(text));
    assert!(bytes.is_none(), "{bytes:?}");
}

/// Returns whether eight numbers stand in a row, which is what arrays of bytes look like.
fn has_array(text: &str) -> bool {
    let parts: Vec<&str> = text.split(", ").collect();
    parts.windows(8).any(|row| row.iter().skip(1).take(6).all(|part| part.parse::<u8>().is_ok()))
}
