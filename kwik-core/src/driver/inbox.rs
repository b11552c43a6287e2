//! Datagrams on their way from the endpoint's task to a session's: bounded in bytes, and never overtaken by a verdict.
//!
//! The bound is what the session's windows let honest peers have under way, so that only what no window permits finds
//! no room. Who calls it: the endpoint's task puts parcels in, the session's task takes them out, one at a time, so that
//! what is taken still counts until it was handled.

use std::{collections::VecDeque, mem, task::Waker};

use super::{
    FACTS_PER_TURN,
    lock::{Lock, Owed, Owes},
};
use crate::endpoint::SessionEvent;

/// Datagrams for one session.
#[derive(Default)]
pub(super) struct Parcel {
    pub(super) events: VecDeque<SessionEvent>,
    bytes: usize,
}

impl Parcel {
    /// Returns an empty parcel that uses `events`, which must be empty, for what comes.
    pub(super) const fn reuse(events: VecDeque<SessionEvent>) -> Self {
        Self { events, bytes: 0 }
    }

    /// Adds a datagram of `len` bytes. It weighs what it takes up, or small ones would be bounded by nothing.
    pub(super) fn push(&mut self, event: SessionEvent, len: usize) {
        self.events.push_back(event);
        self.bytes += len + size_of::<SessionEvent>();
    }
}

/// Parcels for one session's task.
pub(super) struct Inbox(Lock<State>);

struct State {
    parcels: VecDeque<Parcel>,
    /// An empty queue for the parcel to come.
    spare: VecDeque<SessionEvent>,
    /// Bytes of the parcels, the one that the session's task has in its hands included.
    bytes: usize,
    in_hand: usize,
    max: usize,
    /// Datagrams put in so far.
    delivered: u64,
    reader: Option<Waker>,
    /// The endpoint's task, if it waits for room.
    writer: Option<Waker>,
    closed: bool,
    owed: Owed,
}

impl Owes for State {
    fn owed(&mut self) -> Option<&mut Owed> {
        Some(&mut self.owed)
    }
}

impl Inbox {
    /// Creates an inbox that is full once it holds `max` bytes; the parcel that fills it may exceed them.
    pub(super) fn new(max: usize) -> Self {
        Self(Lock::new(State {
            parcels: VecDeque::new(),
            spare: VecDeque::new(),
            bytes: 0,
            in_hand: 0,
            max,
            delivered: 0,
            reader: None,
            writer: None,
            closed: false,
            owed: Owed::default(),
        }))
    }

    /// Empties `parcel` into the inbox and wakes the session. Returns whether there was room; if not, `writer` is woken
    /// once there is.
    pub(super) fn deliver(&self, parcel: &mut Parcel, writer: &Waker) -> bool {
        self.0.with(|inbox| {
            if inbox.closed {
                parcel.events.clear();
                return true;
            }
            if inbox.bytes >= inbox.max {
                if let Some(old) = inbox.writer.replace(writer.clone()) {
                    inbox.owed.discard(old);
                }
                return false;
            }
            inbox.bytes += parcel.bytes;
            inbox.delivered += parcel.events.len() as u64;
            match inbox.parcels.back_mut().filter(|last| last.events.len() < FACTS_PER_TURN) {
                Some(last) => {
                    last.events.append(&mut parcel.events);
                    last.bytes += parcel.bytes;
                    parcel.bytes = 0;
                }
                None => {
                    let empty = Parcel::reuse(mem::take(&mut inbox.spare));
                    inbox.parcels.push_back(mem::replace(parcel, empty));
                }
            }
            if let Some(reader) = inbox.reader.take() {
                inbox.owed.wake(reader);
            }
            true
        })
    }

    /// Exchanges the empty `facts`, which counted until now, for the next parcel, and has `reader` woken by what arrives
    /// from now on. Returns whether there is more.
    pub(super) fn take(&self, facts: &mut VecDeque<SessionEvent>, reader: &Waker) -> bool {
        self.0.with(|inbox| {
            inbox.bytes -= mem::take(&mut inbox.in_hand);
            if let Some(next) = inbox.parcels.pop_front() {
                inbox.in_hand = next.bytes;
                inbox.spare = mem::replace(facts, next.events);
            }
            if inbox.bytes < inbox.max {
                if let Some(writer) = inbox.writer.take() {
                    inbox.owed.wake(writer);
                }
            }
            if !inbox.reader.as_ref().is_some_and(|old| old.will_wake(reader)) {
                if let Some(old) = inbox.reader.replace(reader.clone()) {
                    inbox.owed.discard(old);
                }
            }
            !inbox.parcels.is_empty()
        })
    }

    /// Returns how many datagrams were put in so far.
    pub(super) fn delivered(&self) -> u64 {
        self.0.with(|inbox| inbox.delivered)
    }

    /// Drops what is in it, and what will come.
    pub(super) fn close(&self) {
        let rest = self.0.with(|inbox| {
            inbox.closed = true;
            if let Some(reader) = inbox.reader.take() {
                inbox.owed.discard(reader);
            }
            if let Some(writer) = inbox.writer.take() {
                inbox.owed.wake(writer);
            }
            mem::take(&mut inbox.parcels)
        });
        drop(rest);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
    };

    use super::*;
    use crate::endpoint::SessionEventInner;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn parcel(count: usize, len: usize) -> Parcel {
        let mut parcel = Parcel::default();
        for _ in 0..count {
            parcel.push(SessionEvent(SessionEventInner::Nonce(true)), len);
        }
        parcel
    }

    #[test]
    fn it_is_bounded_by_bytes_and_says_when_there_is_room() {
        let [reader, writer] = [(); 2].map(|()| Arc::new(Count::default()));
        let (reads, writes) = (Waker::from(reader.clone()), Waker::from(writer.clone()));
        let inbox = Inbox::new(8 * 1024 * 1024);
        let mut facts = VecDeque::new();
        assert!(!inbox.take(&mut facts, &reads));
        // Far more datagrams than a count of 4,096 would hold.
        let mut total = 0;
        while inbox.deliver(&mut parcel(100, 300), &writes) {
            total += 100;
        }
        let each = 300 + size_of::<SessionEvent>();
        assert!(total * each >= 8 * 1024 * 1024 && (total - 100) * each < 8 * 1024 * 1024);
        assert!(total > 10_000);
        assert_eq!(inbox.delivered(), total as u64);
        assert_eq!(reader.0.load(Ordering::Relaxed), 1, "one wake-up for all of it");
        // What is in the session's hands is not room yet.
        assert!(inbox.take(&mut facts, &reads));
        assert!(!inbox.deliver(&mut parcel(1, 1), &writes));
        assert_eq!(writer.0.load(Ordering::Relaxed), 0);
        let mut handled = facts.len();
        assert!((FACTS_PER_TURN..FACTS_PER_TURN + 100).contains(&handled));
        facts.clear();
        assert!(inbox.take(&mut facts, &reads));
        assert_eq!(writer.0.load(Ordering::Relaxed), 1);
        assert!(inbox.deliver(&mut parcel(1, 1), &writes));
        loop {
            handled += facts.len();
            facts.clear();
            let more = inbox.take(&mut facts, &reads);
            if !more && facts.is_empty() {
                break;
            }
        }
        assert_eq!(handled, total + 1);
    }

    #[test]
    fn a_closed_inbox_takes_everything_and_keeps_nothing() {
        let writer = Waker::from(Arc::new(Count::default()));
        let inbox = Inbox::new(1);
        assert!(inbox.deliver(&mut parcel(1, 1), &writer));
        assert!(!inbox.deliver(&mut parcel(1, 1), &writer));
        inbox.close();
        assert!(inbox.deliver(&mut parcel(1, 1), &writer));
        let mut facts = VecDeque::new();
        assert!(!inbox.take(&mut facts, &writer) && facts.is_empty());
    }
}
