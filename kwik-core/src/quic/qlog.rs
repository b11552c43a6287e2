//! What QUIC does, written down for tools such as qvis (feature `qlog`).

use std::{fmt, io, time::Instant};

/// Where the connections of a configuration write what happens on them: one qlog trace for all, events grouped by
/// connection. Cheap to clone; clones write to the same place.
#[derive(Clone)]
pub struct Qlog(quinn_proto::QlogStream);

impl Qlog {
    /// Starts a trace called `title` whose times count from `start`. `None` if `writer` does not take its beginning.
    pub fn new(writer: Box<dyn io::Write + Send + Sync>, start: Instant, title: &str) -> Option<Self> {
        let mut config = quinn_proto::QlogConfig::default();
        config.writer(writer).start_time(start).title(Some(title.to_owned()));
        config.into_stream().map(Self)
    }

    pub(super) fn stream(&self) -> quinn_proto::QlogStream {
        self.0.clone()
    }
}

impl fmt::Debug for Qlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Qlog(…)")
    }
}
