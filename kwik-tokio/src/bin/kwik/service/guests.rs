//! The places of clients: so many at once, and so many of one address.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::Metrics;

/// The clients that are served, by address.
#[derive(Debug)]
pub(crate) struct Guests {
    max: usize,
    per_client_max: usize,
    present: Mutex<Present>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Present {
    all: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

/// The place of one client, as long as it is served.
#[derive(Debug)]
#[must_use]
pub(crate) struct Guest {
    guests: Arc<Guests>,
    from: IpAddr,
}

impl Guests {
    pub(crate) fn new(max: usize, per_client_max: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { max, per_client_max, present: Mutex::default(), metrics })
    }

    /// Gives a client a place, if there is one left for it.
    pub(crate) fn enter(self: &Arc<Self>, from: IpAddr) -> Option<Guest> {
        let mut present = self.present();
        let of_client = present.by_address.get(&from).copied().unwrap_or_default();
        if present.all >= self.max || of_client >= self.per_client_max {
            self.metrics.on_client_refused();
            return None;
        }
        self.metrics.on_client_admitted();
        present.all += 1;
        present.by_address.insert(from, of_client + 1);
        Some(Guest { guests: self.clone(), from })
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.guests.metrics.on_client_gone();
        let mut present = self.guests.present();
        present.all = present.all.saturating_sub(1);
        if let Some(count) = present.by_address.get_mut(&self.from) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                present.by_address.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_clients_are_served_and_no_more() {
        let guests = Guests::new(3, 2, Metrics::of_mirror());
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = guests.enter(one).unwrap();
        let _second = guests.enter(one).unwrap();
        assert!(guests.enter(one).is_none());
        let _third = guests.enter(other).unwrap();
        assert!(guests.enter(other).is_none());
        drop(first);
        let _fourth = guests.enter(other).unwrap();
        assert_eq!(guests.present().by_address.len(), 2);
    }
}
