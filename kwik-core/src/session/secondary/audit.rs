//! A secondary's books.

use super::Secondary;
use crate::audit::{Contradiction, check};

impl Secondary {
    /// Checks jobs and leases against each other. Spec: PROTOCOL §5.
    pub(in crate::session) fn audit(&self) -> Result<(), Contradiction> {
        for (id, lease) in &self.leases {
            let by_offset = self.offsets.get(&lease.stream).copied().unwrap_or_default();
            let allowed = lease.credit.max(by_offset.saturating_sub(lease.range.start()));
            check(lease.sent <= allowed.min(lease.range.len()), || {
                format!("{id} sent {} of {allowed} bytes allowed", lease.sent)
            })?;
            check(lease.sent == 0 || lease.internal.is_some(), || {
                format!("{id} sent bytes through no stream")
            })?;
        }
        for (id, job) in &self.jobs {
            for lease in &job.queue {
                let fresh = self.leases.get(lease).is_some_and(|lease| lease.job == *id && lease.sent == 0);
                check(fresh, || format!("{id} queues {lease}, which is gone, another's or begun"))?;
            }
        }
        for stream in self.offsets.keys() {
            let used = self.leases.values().any(|lease| lease.stream == *stream);
            check(used, || format!("credit of {stream} is kept without a lease"))?;
        }
        Ok(())
    }
}
