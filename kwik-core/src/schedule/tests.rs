//! The scheduler against links of a fluid: what it makes of their rates, and what it does when they fail.

mod goodput;
mod model;
mod properties;
mod rules;

use std::time::{Duration, Instant};

use super::*;

const MS: Duration = Duration::from_millis(1);
const MIB: u64 = 1 << 20;

/// The one instant that tests begin at.
#[expect(clippy::disallowed_methods, reason = "tests count from some instant")]
fn epoch() -> Instant {
    Instant::now()
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::between(start, end).expect("not empty")
}
