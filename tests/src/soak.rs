//! Long runs of one session, and whether their last stretches cost what the first did.
//!
//! A soak is cut into [`STRETCHES`] with the same work in each. In the first [`WARM_UP`] of them tables, windows and caches
//! may grow to what the work needs. The rest are looked at in groups of [`GROUP`]: what a group comes to is its fastest
//! stretch, and the least heap that was held when one of its stretches was over and nothing was under way, so that neither
//! a busy machine nor a buffer that was about to go is taken for a trend. Each group is compared with the first one:
//! whatever grows or slows down for ever leaves its [`Tolerance`]. And no group may be slower than the fastest stretch of
//! the warm-up: what slows down at once and then never more is a collapse as well.

use std::{collections::BTreeSet, fmt, time::Duration};

/// Stretches of a soak.
pub const STRETCHES: usize = 20;
/// Stretches that are not judged.
pub const WARM_UP: usize = 4;
/// Stretches that are looked at together.
pub const GROUP: usize = 4;

/// Bytes that an end may hold more at any time, however little it holds: tables of a bounded number of things double.
const TABLES: f64 = 32.0 * 1024.0;

/// Distance that a group may have from the first one, in parts per hundred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "there is nothing else to measure")]
pub struct Tolerance {
    /// Fewer streams per second.
    pub slower: u32,
    /// More streams per second: then the first were not what they should be.
    pub faster: u32,
    /// Of the heap of each end.
    pub heap: u32,
}

/// Figures of one stretch.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "whoever soaks fills it in")]
pub struct Stretch {
    /// Streams that were begun and came to an end.
    pub streams: u64,
    /// Bytes that readers got, if they are counted.
    pub bytes: u64,
    /// Time that it took.
    pub time: Duration,
    /// Bytes that each end held afterwards.
    pub heap: Vec<(String, i64)>,
}

impl Stretch {
    /// Returns how many streams there were in a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.streams as f64 / self.time.as_secs_f64().max(1e-9)
    }

    /// Returns how many bytes readers got in a second.
    #[must_use]
    pub fn byte_rate(&self) -> f64 {
        self.bytes as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

impl fmt::Display for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>6} streams in {:>9.3} s, {:>8.1}/s;",
            self.streams,
            self.time.as_secs_f64(),
            self.rate()
        )?;
        self.heap.iter().try_for_each(|(end, bytes)| write!(f, " {end} {bytes}"))
    }
}

/// Returns what is not flat.
#[must_use]
pub fn judge(stretches: &[Stretch], tolerance: Tolerance) -> Vec<String> {
    let groups: Vec<&[Stretch]> = stretches.get(WARM_UP..).unwrap_or_default().chunks_exact(GROUP).collect();
    let Some((first, later)) = groups.split_first().filter(|(_, later)| !later.is_empty()) else {
        return vec!["too few stretches to judge".to_owned()];
    };
    let mut wrong = Vec::new();
    let fastest = rate(stretches.get(..WARM_UP + GROUP).unwrap_or_default());
    for (index, group) in groups.iter().enumerate() {
        let (now, at) = (rate(group), WARM_UP + GROUP * index);
        let slower = now < fastest - part(fastest, tolerance.slower);
        if slower || now > rate(first) + part(rate(first), tolerance.faster) {
            wrong.push(format!(
                "{now:.1} streams a second from stretch {at} on; {:.1} in the first that are judged, {fastest:.1} at best before",
                rate(first)
            ));
        }
    }
    for (end, (index, group)) in
        ends(first).into_iter().flat_map(|end| later.iter().enumerate().map(move |of| (end, of)))
    {
        let at = WARM_UP + GROUP * (index + 1);
        wrong.extend(
            change(first, group, end, tolerance.heap, TABLES)
                .map(|held| format!("from stretch {at} on: {held}")),
        );
    }
    wrong
}

/// Returns what some ends hold more or less at the end of a run than a group of stretches before, by more than some parts per
/// hundred and some `bytes`: what fills its tables for longer than [`WARM_UP`] can be judged by that alone.
#[must_use]
pub fn judge_heap(stretches: &[Stretch], percent: u32, bytes: u32) -> Vec<String> {
    let mut groups = stretches.rchunks_exact(GROUP);
    let (Some(last), Some(before)) = (groups.next(), groups.next()) else {
        return vec!["too few stretches to judge".to_owned()];
    };
    let ends = ends(before);
    ends.into_iter().filter_map(|end| change(before, last, end, percent, bytes.into())).collect()
}

fn ends(group: &[Stretch]) -> BTreeSet<&str> {
    group.iter().flat_map(|stretch| &stretch.heap).map(|(end, _)| end.as_str()).collect()
}

/// Says what an end holds in a group if that is not what it held in an earlier one.
fn change(earlier: &[Stretch], group: &[Stretch], end: &str, percent: u32, bytes: f64) -> Option<String> {
    let (before, now) = (heap(earlier, end), heap(group, end));
    let most = part(before, percent).max(bytes);
    ((now - before).abs() > most).then(|| format!("{now} bytes held by {end}, {before} before"))
}

fn part(of: f64, percent: u32) -> f64 {
    of.abs() * f64::from(percent) / 100.0
}

fn rate(group: &[Stretch]) -> f64 {
    group.iter().map(Stretch::rate).fold(0.0, f64::max)
}

fn heap(group: &[Stretch], of: &str) -> f64 {
    let held = group.iter().flat_map(|stretch| &stretch.heap).filter(|(end, _)| end == of);
    held.map(|(_, bytes)| *bytes as f64).fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: Tolerance = Tolerance { slower: 5, faster: 5, heap: 5 };

    fn soak(stretch: impl Fn(usize) -> (u64, i64)) -> Vec<String> {
        let stretches: Vec<Stretch> = (0..STRETCHES)
            .map(|index| {
                let (millis, bytes) = stretch(index);
                let heap = vec![("client".to_owned(), bytes)];
                Stretch { streams: 100, time: Duration::from_millis(millis), heap, ..Stretch::default() }
            })
            .collect();
        judge(&stretches, TOLERANCE)
    }

    #[test]
    fn what_is_flat_passes_whatever_the_warm_up_was_like() {
        assert_eq!(soak(|_| (1000, 100_000)), Vec::<String>::new());
        assert_eq!(
            soak(|index| if index < WARM_UP { (5000, 1) } else { (1000, 100_000) }),
            Vec::<String>::new()
        );
        // One stretch on a busy machine, or with a buffer that was about to go.
        assert_eq!(
            soak(|index| if index == 9 { (9000, 900_000) } else { (1000, 100_000) }),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_grows_or_slows_down_does_not() {
        let grows = soak(|index| (1000, 100_000 + 4000 * i64::try_from(index).unwrap()));
        assert!(
            grows.iter().all(|line| line.contains("bytes held by client")) && !grows.is_empty(),
            "{grows:?}"
        );
        let slows = soak(|index| (1000 + 20 * index as u64, 100_000));
        assert!(slows.iter().all(|line| line.contains("streams a second")) && !slows.is_empty(), "{slows:?}");
        // So does what shrinks: the first stretches were not what they should be.
        assert!(!soak(|index| (1000, 200_000 - 4000 * i64::try_from(index).unwrap())).is_empty());
        assert!(!judge(&[], TOLERANCE).is_empty());
    }
}
