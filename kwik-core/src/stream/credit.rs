//! How the window of an unordered reader is shared out among the servers: pure arithmetic. Spec: KWIK §6, "Credit".

use smallvec::SmallVec;

use crate::id::LeaseId;

/// A lease that could use more credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanting {
    pub(crate) lease: LeaseId,
    /// Bytes of it that have no credit yet; more than zero.
    pub(crate) uncredited: u64,
}

/// One server and what it could be given.
#[derive(Clone, Debug)]
pub(crate) struct Demand<K> {
    pub(crate) source: K,
    /// Bytes it has credit for and has not sent.
    pub(crate) outstanding: u64,
    /// Its leases in the order it fills them.
    pub(crate) leases: SmallVec<[Wanting; 8]>,
}

/// Shares `room` of a `window` out: no server is promised more than its equal part of the window, the one with the
/// least outstanding is served first, and leases in the order they will be filled. Grants smaller than `quantum`
/// wait, unless they end their lease: a credit frame per packet would cost more than it brings.
pub(crate) fn share<K: Copy>(
    window: u64,
    mut room: u64,
    quantum: u64,
    demands: &mut [Demand<K>],
    mut grant: impl FnMut(K, LeaseId, u64),
) {
    let part = window / (demands.len() as u64).max(1);
    demands.sort_by_key(|demand| demand.outstanding);
    for demand in demands {
        let mut own = part.saturating_sub(demand.outstanding).min(room);
        for wanting in &demand.leases {
            let bytes = wanting.uncredited.min(own);
            if bytes == 0 || (bytes < quantum && bytes < wanting.uncredited) {
                break;
            }
            grant(demand.source, wanting.lease, bytes);
            own -= bytes;
            room -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smallvec::smallvec;

    use super::*;

    fn demand(source: u32, outstanding: u64, lease: u64, uncredited: u64) -> Demand<u32> {
        let leases = smallvec![Wanting { lease: LeaseId::new(lease), uncredited }];
        Demand { source, outstanding, leases }
    }

    #[test]
    fn a_slow_server_cannot_hold_the_window() {
        let mut demands = [demand(1, 500, 1, 10_000), demand(2, 0, 2, 10_000)];
        let mut given = Vec::new();
        share(1_000, 500, 10, &mut demands, |source, _, bytes| given.push((source, bytes)));
        assert_eq!(given, [(2, 500)]);
    }

    #[test]
    fn slivers_wait_unless_they_end_the_lease() {
        let mut given = Vec::new();
        share(1_000, 5, 10, &mut [demand(1, 0, 1, 100)], |_, _, bytes| given.push(bytes));
        assert!(given.is_empty());
        share(1_000, 5, 10, &mut [demand(1, 0, 1, 3)], |_, _, bytes| given.push(bytes));
        assert_eq!(given, [3]);
    }

    proptest! {
        /// Never more than the room, never more than a lease wants, never more than a server's part.
        #[test]
        fn bounds(
            window in 1u64..1_000_000,
            room in 0u64..1_000_000,
            quantum in 0u64..10_000,
            servers in prop::collection::vec((0u64..500_000, prop::collection::vec(1u64..300_000, 0..5)), 0..6),
        ) {
            let room = room.min(window);
            let mut next = 0;
            let mut demands: Vec<Demand<usize>> = servers.iter().enumerate().map(|(source, (outstanding, wants))| {
                let leases = wants.iter().map(|&uncredited| {
                    next += 1;
                    Wanting { lease: LeaseId::new(next), uncredited }
                }).collect();
                Demand { source, outstanding: *outstanding, leases }
            }).collect();
            let before = demands.clone();
            let part = window / (demands.len() as u64).max(1);
            let mut total = 0;
            let mut per_server = vec![0; servers.len()];
            share(window, room, quantum, &mut demands, |source, lease, bytes| {
                let want = before[source].leases.iter().find(|w| w.lease == lease).map(|w| w.uncredited);
                assert!(want.is_some_and(|want| bytes <= want && bytes > 0));
                total += bytes;
                per_server[source] += bytes;
            });
            prop_assert!(total <= room);
            for (source, given) in per_server.into_iter().enumerate() {
                prop_assert!(given == 0 || before[source].outstanding + given <= part);
            }
        }
    }
}
