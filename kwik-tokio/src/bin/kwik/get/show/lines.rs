//! Progress where there is no terminal: a line every few seconds.

use std::time::Duration;

use super::{Progress, print};
use crate::size::Human;

/// Time between two lines.
const EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Instant at which the last was printed.
    last: Duration,
}

impl Lines {
    /// Prints a line if it is time, and with `verbose` one per server.
    pub(super) fn draw(&mut self, progress: &Progress, verbose: bool) {
        if progress.elapsed < self.last + EVERY {
            return;
        }
        self.last = progress.elapsed;
        print(&progress.line());
        for source in progress.sources.iter().filter(|_| verbose) {
            print(&format!(
                "      {}: {}/s, {:.0} %, {}",
                source.name(),
                Human(source.rate),
                100.0 * source.share,
                source.state(true)
            ));
        }
    }
}
