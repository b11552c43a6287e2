//! Progress on a terminal: a bar for all, and one for each server.

use std::collections::BTreeMap;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use kwik_tokio::PathId;

use super::{Progress, Source, State};
use crate::size::Human;

/// Steps of a bar.
const STEPS: u64 = 1000;
/// Drawings a second at most.
const HERTZ: u8 = 10;

#[derive(Debug)]
pub(super) struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    sources: BTreeMap<PathId, ProgressBar>,
    color: bool,
}

impl Bars {
    pub(super) fn new(color: bool) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(HERTZ));
        let total = all.add(ProgressBar::new(STEPS));
        total.set_style(style(if color { "{bar:30.green} {wide_msg}" } else { "{bar:30} {wide_msg}" }));
        Self { all, total, sources: BTreeMap::new(), color }
    }

    pub(super) fn draw(&mut self, progress: &Progress, verbose: bool) {
        let part = progress.total.map_or(0.0, |total| progress.bytes as f64 / total.max(1) as f64);
        self.total.set_position(steps(part));
        self.total.set_message(progress.line());
        for source in &progress.sources {
            let bar = self.bar(source);
            bar.set_position(steps(source.share));
            bar.set_message(format!(
                "{:>12}/s {:3.0}%  {}  {}",
                Human(source.rate).to_string(),
                100.0 * source.share,
                source.name(),
                source.state(verbose)
            ));
        }
    }

    /// Prints a line above the bars.
    pub(super) fn print(&self, text: &str) {
        // Without a standard error there is nobody to tell.
        self.all.println(text).unwrap_or_default();
    }

    pub(super) fn clear(&self) {
        self.all.clear().unwrap_or_default();
    }

    fn bar(&mut self, source: &Source) -> &ProgressBar {
        let Self { all, color, sources, .. } = self;
        let bar = sources.entry(source.path).or_insert_with(|| all.add(ProgressBar::new(STEPS)));
        bar.set_style(style(match (*color, source.state) {
            (false, _) => "{bar:20} {wide_msg}",
            (true, State::Active) => "{bar:20.cyan} {wide_msg}",
            (true, State::Dead | State::Silent) => "{bar:20.red} {wide_msg}",
            (true, State::Connecting | State::Draining) => "{bar:20.yellow} {wide_msg}",
        }));
        bar
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸ ")
}

/// A part of a whole in steps.
fn steps(part: f64) -> u64 {
    (0..STEPS).filter(|step| part > *step as f64 / STEPS as f64).count() as u64
}
