//! The bodies of the benchmarks, which live in the tests crate.
//!
//! They are here because what they measure is private. Each works in a state of its own that is as large after a run as
//! before it, so that any number of runs costs so many times one of them, whether time or instructions are counted.

mod frames;
mod leases;
mod reassembly;
mod schedule;

use std::fmt;

/// One thing whose cost is measured.
pub struct Body {
    group: &'static str,
    case: String,
    units: u64,
    run: Box<dyn FnMut() -> u64>,
}

impl Body {
    fn new(group: &'static str, case: String, units: u64, run: impl FnMut() -> u64 + 'static) -> Self {
        Self { group, case, units, run: Box::new(run) }
    }

    /// Returns which part of the core is measured.
    pub const fn group(&self) -> &'static str {
        self.group
    }

    /// Returns what of that part.
    pub fn case(&self) -> &str {
        &self.case
    }

    /// Returns how many chunks, look-ups, frames or decisions one run is.
    pub const fn units(&self) -> u64 {
        self.units
    }

    /// Does it once. The result means nothing and depends on all that was done, so that none of it is optimized away.
    pub fn run(&mut self) -> u64 {
        (self.run)()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("group", &self.group).field("case", &self.case).finish_non_exhaustive()
    }
}

/// Prepares all of them.
pub fn bodies() -> Vec<Body> {
    [reassembly::bodies(), leases::bodies(), frames::bodies(), schedule::bodies()]
        .into_iter()
        .flatten()
        .collect()
}

/// The numbers below `count` in an order without a pattern, the same each time.
fn shuffled(count: u64) -> Vec<u64> {
    let mut order: Vec<u64> = (0..count).collect();
    let mut state = 1_u64;
    for at in (1..order.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let other = usize::try_from(state >> 33).unwrap_or_default() % (at + 1);
        order.swap(at, other);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bodies must not drift: one that grew, or found nothing from its second run on, would measure something else.
    #[test]
    fn every_run_does_the_same() {
        for mut body in bodies() {
            let first = body.run();
            assert!(first > 0, "{body:?} does nothing");
            assert_eq!([body.run(), body.run()], [first; 2], "{body:?}");
        }
    }
}
