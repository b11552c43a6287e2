//! Sharing of an unordered reader's window among the servers: pure arithmetic. Spec: PROTOCOL §6, "Credit".

use smallvec::SmallVec;

use crate::id::LeaseId;

/// A lease that could use more credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanting {
    pub(crate) lease: LeaseId,
    /// Bytes of it that have no credit yet; more than zero.
    pub(crate) uncredited: u64,
    /// Bytes of the window that they take: fewer, where somebody else may bring the same.
    pub(crate) cost: u64,
    pub(crate) need: Need,
}

/// Credit that is of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Any.
    Part,
    /// For all of it only: it is verified, and the reader gets nothing of it before its last byte.
    Whole {
        /// There will be room for it if it is waited for.
        waits: bool,
    },
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

impl<K> Demand<K> {
    /// Cost of the lease that waits for credit as a whole, if that is the next thing the server would be given, and it has
    /// nothing else.
    fn whole_first(&self) -> Option<u64> {
        let first = self.leases.first().filter(|_| self.outstanding == 0)?;
        (first.need == Need::Whole { waits: true }).then_some(first.cost)
    }

    /// Bytes that the server is to be given of a window of which it may have `part`, and `room` is left: more than that if it
    /// is worth waiting for.
    pub(crate) fn due(&self, part: u64, room: u64) -> u64 {
        let own = part.saturating_sub(self.outstanding).max(self.whole_first().unwrap_or_default());
        let mut left = own;
        for wanting in &self.leases {
            match wanting.need {
                Need::Whole { waits: false } if wanting.cost > left.min(room) => continue,
                Need::Whole { .. } if wanting.cost > left => break,
                Need::Whole { .. } | Need::Part => left -= wanting.cost.min(left),
            }
        }
        own - left
    }
}

/// Shares `room` of a `window` out: no server is promised more than its equal part of the window, the one with the
/// least outstanding is served first, and leases in the order they will be filled. Grants smaller than `quantum`
/// wait, unless they end their lease: a credit frame per packet would cost more than it brings.
///
/// What needs credit as a whole may take more than its server's part, if that is all the server has. Where there is no
/// room for it yet, those after it get nothing: small grants would fill each gap as it opens, and it would never fit. That
/// is so only if it will fit once what is under way has come and is read.
pub(crate) fn share<K: Copy>(
    window: u64,
    mut room: u64,
    quantum: u64,
    demands: &mut [Demand<K>],
    mut grant: impl FnMut(K, LeaseId, u64),
) {
    let part = window / (demands.len() as u64).max(1);
    demands.sort_by_key(|demand| (demand.outstanding, demand.whole_first().is_none()));
    for demand in demands {
        let whole = demand.whole_first();
        if whole.is_some_and(|whole| whole > room) {
            return;
        }
        let mut own = part.saturating_sub(demand.outstanding).max(whole.unwrap_or_default()).min(room);
        for wanting in &demand.leases {
            let cost = wanting.cost.min(own);
            let bytes = match wanting.need {
                Need::Whole { waits: false } if cost < wanting.cost => continue,
                Need::Whole { .. } if cost < wanting.cost => break,
                Need::Part if cost == 0 || (cost < quantum && cost < wanting.cost) => break,
                Need::Whole { .. } => wanting.uncredited,
                Need::Part => cost,
            };
            grant(demand.source, wanting.lease, bytes);
            own -= cost;
            room -= cost;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smallvec::smallvec;

    use super::*;

    fn demand(source: u32, outstanding: u64, lease: u64, uncredited: u64) -> Demand<u32> {
        let leases =
            smallvec![Wanting { lease: LeaseId::new(lease), uncredited, cost: uncredited, need: Need::Part }];
        Demand { source, outstanding, leases }
    }

    fn whole(source: u32, outstanding: u64, lease: u64, uncredited: u64) -> Demand<u32> {
        let mut demand = demand(source, outstanding, lease, uncredited);
        demand.leases[0].need = Need::Whole { waits: true };
        demand
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

    #[test]
    fn what_is_of_use_as_a_whole_is_credited_as_a_whole_or_waited_for() {
        let given = |room, demands: &mut [Demand<u32>]| {
            let mut given = Vec::new();
            share(1_000, room, 10, demands, |source, _, bytes| given.push((source, bytes)));
            given
        };
        // More than its part of 333, and before the one that would take anything.
        let rivals = || [demand(1, 0, 1, 900), whole(2, 0, 2, 400), demand(3, 100, 3, 900)];
        assert_eq!(given(1_000, &mut rivals()), [(2, 400), (1, 333), (3, 233)]);
        assert_eq!(given(399, &mut rivals()), [], "or it would never fit");
        let mut stuck = rivals();
        stuck[1].leases[0].need = Need::Whole { waits: false };
        assert_eq!(given(399, &mut stuck), [(1, 333), (3, 66)], "it would never fit, so nobody waits for it");
        // One that has something under way already keeps to its part, and holds nobody up.
        assert_eq!(given(1_000, &mut [whole(1, 200, 1, 400), demand(2, 300, 2, 900)]), [(2, 200)]);
    }

    fn needs(outstanding: u64, leases: &[(u64, Need)]) -> Demand<u32> {
        let wanting = |(n, &(cost, need)): (u64, &(u64, Need))| Wanting {
            lease: LeaseId::new(n),
            uncredited: cost,
            cost,
            need,
        };
        Demand { source: 1, outstanding, leases: (0..).zip(leases).map(wanting).collect() }
    }

    const WAITED_FOR: Need = Need::Whole { waits: true };
    const NEVER_FITS: Need = Need::Whole { waits: false };

    #[test]
    fn what_a_server_is_due_is_what_of_its_part_is_of_use() {
        let due = |outstanding, room, leases: &[(u64, Need)]| needs(outstanding, leases).due(500, room);
        assert_eq!(due(0, 500, &[(300, Need::Part)]), 300);
        assert_eq!(due(0, 500, &[(300, Need::Part), (400, Need::Part)]), 500);
        assert_eq!(due(200, 500, &[(300, Need::Part), (400, Need::Part)]), 300);
        // As a whole or not at all, and what follows it waits with it.
        assert_eq!(due(100, 500, &[(400, WAITED_FOR)]), 400);
        assert_eq!(due(101, 500, &[(400, WAITED_FOR), (50, Need::Part)]), 0);
        assert_eq!(due(0, 100, &[(900, WAITED_FOR)]), 900, "more than its part, if that is all it has");
        // Nothing waits for what will not fit.
        assert_eq!(due(0, 400, &[(400, NEVER_FITS)]), 400);
        assert_eq!(due(0, 399, &[(400, NEVER_FITS), (50, Need::Part)]), 50);
    }

    #[test]
    fn the_leases_of_a_server_are_credited_one_after_the_other() {
        let given = |room, outstanding, leases: &[(u64, Need)]| {
            let mut given = Vec::new();
            share(1_000, room, 10, &mut [needs(outstanding, leases)], |_, lease, bytes| {
                given.push((lease.into_inner(), bytes));
            });
            given
        };
        assert_eq!(given(1_000, 0, &[(600, Need::Part), (600, Need::Part)]), [(0, 600), (1, 400)]);
        assert_eq!(given(10, 0, &[(600, Need::Part)]), [(0, 10)], "a whole quantum");
        assert_eq!(given(1_000, 0, &[(300, NEVER_FITS), (600, Need::Part)]), [(0, 300), (1, 600)]);
        assert_eq!(given(299, 0, &[(300, NEVER_FITS), (600, Need::Part)]), [(1, 299)]);
        assert_eq!(given(1_000, 700, &[(300, WAITED_FOR), (600, Need::Part)]), [(0, 300)]);
        assert_eq!(given(1_000, 701, &[(300, WAITED_FOR), (600, Need::Part)]), []);
    }

    proptest! {
        /// Never more than the room, never more than a lease wants, never more than a server's part, unless all it has is
        /// one that needs it as a whole; and never a part of such a one.
        #[test]
        fn bounds(
            window in 1u64..1_000_000,
            room in 0u64..1_000_000,
            quantum in 0u64..10_000,
            servers in prop::collection::vec(
                (prop_oneof![Just(0), 0u64..500_000], prop::collection::vec((1u64..300_000, 0..3), 0..5)),
                0..6,
            ),
        ) {
            let room = room.min(window);
            let mut next = 0;
            let mut demands: Vec<Demand<usize>> = servers.iter().enumerate().map(|(source, (outstanding, wants))| {
                let leases = wants.iter().map(|&(uncredited, need)| {
                    next += 1;
                    let need = if need == 0 { Need::Part } else { Need::Whole { waits: need == 1 } };
                    Wanting { lease: LeaseId::new(next), uncredited, cost: uncredited, need }
                }).collect();
                Demand { source, outstanding: *outstanding, leases }
            }).collect();
            let before = demands.clone();
            let part = window / (demands.len() as u64).max(1);
            let mut total = 0;
            let mut per_server = vec![0; servers.len()];
            share(window, room, quantum, &mut demands, |source, lease, bytes| {
                let want = before[source].leases.iter().find(|w| w.lease == lease).unwrap();
                assert!(bytes > 0 && bytes <= want.uncredited && (bytes == want.uncredited || want.need == Need::Part));
                total += bytes;
                per_server[source] += bytes;
            });
            prop_assert!(total <= room);
            for (source, given) in per_server.into_iter().enumerate() {
                let most = part.max(before[source].whole_first().unwrap_or_default());
                prop_assert!(given == 0 || before[source].outstanding + given <= most);
            }
        }
    }
}
