//! A primary's books.

use std::collections::BTreeMap;

use super::Primary;
use crate::{
    audit::{Contradiction, check},
    id::StreamId,
};

impl Primary {
    /// Checks leases, jobs, paths and streams against each other. Spec: PROTOCOL §5.
    pub(in crate::session) fn audit(&self) -> Result<(), Contradiction> {
        let mut owners: BTreeMap<(StreamId, u64), u64> = BTreeMap::new();
        for (id, lease) in self.leases.iter() {
            let stream = self.streams.get(&lease.stream());
            check(stream.is_some_and(|stream| stream.owns(lease.range())), || {
                format!("{id} lives, and nobody owns {} of {}", lease.range(), lease.stream())
            })?;
        }
        let live = |outcome: &Option<_>| outcome.is_none();
        for (id, run) in self.runs.iter().filter(|(_, run)| live(&run.outcome)) {
            check(run.sent <= run.range.len(), || format!("{id:?} sent past its end"))?;
            let stream = self.streams.get(&run.stream);
            check(stream.is_some_and(|stream| stream.owns(run.range)), || {
                format!("{id:?} lives, and nobody owns {} of {}", run.range, run.stream)
            })?;
            let alone = owners.insert((run.stream, run.range.start()), run.range.end()).is_none();
            check(alone, || format!("{id:?} begins where another run does"))?;
            let leased = self.leases.overlapping(run.stream, run.range).next().is_some();
            check(!leased || run.hedge_of.is_some(), || format!("{id:?} is in the range of a lease"))?;
        }
        let mut before: Option<(StreamId, u64)> = None;
        for ((stream, start), end) in owners {
            let apart = before.is_none_or(|(of, until)| of != stream || until <= start);
            check(apart, || format!("two runs own {start} of {stream}"))?;
            before = Some((stream, end));
        }
        Ok(())
    }
}
