//! News for the application that it has not taken: each piece once.

use std::collections::{BTreeSet, VecDeque};

use crate::action::Event;

/// A queue in which nothing stands twice, so that it is no longer than there are things to tell of, whatever a peer sends.
#[derive(Debug, Default)]
pub(super) struct EventQueue {
    queue: VecDeque<Event>,
    /// The events in the queue, once it is long; looking through a short one is cheaper.
    index: BTreeSet<Event>,
}

/// Queues up to this long are looked through.
const SHORT: usize = 16;

impl EventQueue {
    /// Adds an event, unless it waits already.
    pub(super) fn push(&mut self, event: Event) {
        if self.index.is_empty() {
            if self.queue.len() < SHORT {
                if !self.queue.contains(&event) {
                    self.queue.push_back(event);
                }
                return;
            }
            self.index.extend(self.queue.iter().cloned());
        }
        if self.index.insert(event.clone()) {
            self.queue.push_back(event);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        let event = self.queue.pop_front()?;
        self.index.remove(&event); // once the last is gone, so is the index
        Some(event)
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::LeaseId;

    #[test]
    fn what_waits_is_not_said_twice_and_keeps_its_place() {
        let event = |id| Event::LeaseWritable(LeaseId::new(id));
        let mut events = EventQueue::default();
        for round in 0..3 {
            for id in 0..100 {
                events.push(event(id));
            }
            assert_eq!(events.queue.len(), 100, "round {round}");
        }
        for id in 0..95 {
            assert_eq!(events.pop(), Some(event(id)));
        }
        events.push(event(97));
        events.push(event(3));
        let rest: Vec<Event> = std::iter::from_fn(|| events.pop()).collect();
        assert_eq!(rest, [95, 96, 97, 98, 99, 3].map(event));
        assert!(events.index.is_empty());
        events.push(event(1));
        assert_eq!((events.pop(), events.pop()), (Some(event(1)), None));
    }
}
