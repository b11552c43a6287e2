//! Events for programs, one JSON object per line. `kwik-tokio/get.schema.json` is the contract: what is in it stays, and
//! what is added later is optional.

use std::path::Path;

use serde::Serialize;

use super::{Progress, Source, State, Wait};
use crate::{
    failure::Failure,
    protocol::{ObjectPath, Version},
    size::Human,
};

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(in crate::get) enum Event {
    /// The objects to fetch are known.
    Start { schema: u32, url: String, objects: usize, bytes: Option<u64> },
    /// Several times a second.
    Progress {
        seconds: f64,
        bytes: u64,
        total: Option<u64>,
        rate: f64,
        eta: Option<f64>,
        objects_done: usize,
        objects: usize,
        sources: Vec<JsonSource>,
    },
    /// For people.
    Note { text: String },
    /// An object is complete and verified.
    Object { path: String, file: Option<String>, bytes: u64, fetched: u64, blake3: String },
    /// All are.
    Done { seconds: f64, objects: usize, bytes: u64, fetched: u64, sources: Vec<JsonSource> },
    /// They are not.
    Failed { cause: &'static str, code: u8, message: String },
}

/// A server.
#[derive(Clone, Debug, Serialize)]
pub(in crate::get) struct JsonSource {
    path: u32,
    role: &'static str,
    address: Option<String>,
    bytes: u64,
    share: f64,
    rate: f64,
    state: State,
    waits_for: Option<Wait>,
    why: Option<String>,
}

impl From<&Source> for JsonSource {
    fn from(source: &Source) -> Self {
        Self {
            path: source.path.into_inner(),
            role: if source.path.into_inner() == 0 { "primary" } else { "mirror" },
            address: source.address.map(|address| address.to_string()),
            bytes: source.bytes,
            share: source.share,
            rate: source.rate,
            state: source.state,
            waits_for: source.waits_for,
            why: source.why.clone(),
        }
    }
}

impl Event {
    pub(in crate::get) fn note(text: impl Into<String>) -> Self {
        Self::Note { text: text.into() }
    }

    pub(in crate::get) fn object(
        path: &ObjectPath,
        file: Option<&Path>,
        bytes: u64,
        fetched: u64,
        version: Version,
    ) -> Self {
        let file = file.map(|file| file.to_string_lossy().into_owned());
        Self::Object { path: path.to_string(), file, bytes, fetched, blake3: version.to_string() }
    }

    pub(super) fn progress(progress: &Progress) -> Self {
        Self::Progress {
            seconds: progress.elapsed.as_secs_f64(),
            bytes: progress.bytes,
            total: progress.total,
            rate: progress.rate,
            eta: progress.eta().map(|eta| eta.as_secs_f64()),
            objects_done: progress.objects_done,
            objects: progress.objects,
            sources: progress.sources.iter().map(JsonSource::from).collect(),
        }
    }

    pub(in crate::get) fn done(progress: &Progress, fetched: u64) -> Self {
        Self::Done {
            seconds: progress.elapsed.as_secs_f64(),
            objects: progress.objects_done,
            bytes: progress.bytes,
            fetched,
            sources: progress.sources.iter().map(JsonSource::from).collect(),
        }
    }

    pub(in crate::get) fn failed(failure: &Failure) -> Self {
        let cause = failure.cause();
        Self::Failed { cause: cause.name(), code: cause.code(), message: failure.to_string() }
    }

    /// The event as a program reads it.
    pub(super) fn to_line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The event as people read it; `None` if they see it otherwise.
    pub(super) fn to_text(&self) -> Option<String> {
        match self {
            Self::Note { text } => Some(format!("kwik: {text}")),
            Self::Done { seconds, objects, bytes, fetched, sources } => {
                let what = match objects {
                    1 => String::new(),
                    objects => format!("{objects} files, "),
                };
                let rate = Human(*fetched as f64 / seconds.max(1e-3));
                let mut text =
                    format!("{what}{} in {seconds:.1} s ({rate}/s), verified", Human::bytes(*bytes));
                if fetched < bytes {
                    text.push_str(&format!("; {} were there already", Human::bytes(bytes - fetched)));
                }
                let brought = sources.iter().filter(|source| source.bytes > 0);
                let share = |source: &JsonSource| {
                    let name = if source.path == 0 {
                        "primary".to_owned()
                    } else {
                        format!("mirror {}", source.path)
                    };
                    format!("{name} {:.0} %", 100.0 * source.share)
                };
                let shares: Vec<_> = brought.map(share).collect();
                if shares.len() > 1 {
                    text.push_str(&format!("; {}", shares.join(", ")));
                }
                Some(text)
            }
            Self::Failed { message, .. } => Some(format!("error: {message}")),
            Self::Object { .. } | Self::Progress { .. } | Self::Start { .. } => None,
        }
    }
}
