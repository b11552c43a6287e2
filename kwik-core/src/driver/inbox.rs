//! Datagrams on their way from the endpoint's task to a session's: bounded in bytes, and never overtaken by a verdict.
//!
//! The bound is what the session's windows let honest peers have under way, so that only what no window permits finds
//! no room. Who calls it: the endpoint's task puts parcels in, the session's task takes them out, one at a time, so that
//! what is taken still counts until it was handled.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
};

use super::{
    FACTS_PER_TURN,
    lock::{Lock, Owed, Owes},
};
use crate::{endpoint::SessionEvent, limits::HELLO_WINDOW};

/// Bytes of datagrams that may wait for a session whose peer has not been let in: what the windows until then permit, half
/// as much again, and the places of the many small ones of a handshake.
pub(super) const HELLO_INBOX: usize = 2 * HELLO_WINDOW as usize;

/// Bytes that may wait in many inboxes, all together.
pub(super) struct Pool {
    used: AtomicUsize,
    max: AtomicUsize,
}

impl Pool {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max: AtomicUsize::new(max) })
    }

    /// Replaces the bound; what is over it drains by itself.
    pub(super) fn resize(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn free(&self) -> usize {
        self.max.load(Ordering::Relaxed).saturating_sub(self.used())
    }

    fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

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
    /// The pool that its bytes count in as well.
    pool: Option<Arc<Pool>>,
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

impl State {
    /// Returns whether one more parcel may come.
    ///
    /// An inbox may hold as much as its pool has left: so inboxes that fill share the pool equally, and leave as much again
    /// to whoever comes next. One that is empty always takes a parcel, or its session would never hear anything.
    fn has_room(&self) -> bool {
        self.bytes < self.max && self.pool.as_ref().is_none_or(|pool| self.bytes <= pool.free())
            || self.bytes == 0
    }

    fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        if let Some(pool) = &self.pool {
            pool.take(bytes);
        }
    }

    fn remove(&mut self, bytes: usize) {
        self.bytes -= bytes;
        if let Some(pool) = &self.pool {
            pool.give_back(bytes);
        }
    }

    /// Wakes the endpoint's task if it waits for room that is there now.
    fn wake_writer(&mut self) {
        if self.closed || self.has_room() {
            if let Some(writer) = self.writer.take() {
                self.owed.wake(writer);
            }
        }
    }
}

impl Inbox {
    /// Creates an inbox that is full once it holds `max` bytes, or as much as `pool` has left; the parcel that fills it may
    /// exceed that.
    pub(super) fn new(max: usize, pool: Option<Arc<Pool>>) -> Self {
        Self(Lock::new(State {
            parcels: VecDeque::new(),
            spare: VecDeque::new(),
            bytes: 0,
            in_hand: 0,
            max,
            pool,
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
            if !inbox.has_room() {
                if let Some(old) = inbox.writer.replace(writer.clone()) {
                    inbox.owed.discard(old);
                }
                return false;
            }
            inbox.add(parcel.bytes);
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
            let handled = mem::take(&mut inbox.in_hand);
            inbox.remove(handled);
            if let Some(next) = inbox.parcels.pop_front() {
                inbox.in_hand = next.bytes;
                inbox.spare = mem::replace(facts, next.events);
            }
            inbox.wake_writer();
            if !inbox.reader.as_ref().is_some_and(|old| old.will_wake(reader)) {
                if let Some(old) = inbox.reader.replace(reader.clone()) {
                    inbox.owed.discard(old);
                }
            }
            !inbox.parcels.is_empty()
        })
    }

    /// Goes over to another bound and another pool, if it has one: its peer is a stranger no longer.
    pub(super) fn widen(&self, max: usize, pool: &Arc<Pool>) {
        self.0.with(|inbox| {
            if let Some(old) = inbox.pool.as_mut().filter(|_| !inbox.closed) {
                old.give_back(inbox.bytes);
                pool.take(inbox.bytes);
                *old = pool.clone();
                inbox.max = max;
                inbox.wake_writer();
            }
        });
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
            inbox.wake_writer();
            inbox.in_hand = 0;
            inbox.remove(inbox.bytes);
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
            parcel.push(SessionEvent(SessionEventInner::Nonce(Ok(()))), len);
        }
        parcel
    }

    #[test]
    fn it_is_bounded_by_bytes_and_says_when_there_is_room() {
        let [reader, writer] = [(); 2].map(|()| Arc::new(Count::default()));
        let (reads, writes) = (Waker::from(reader.clone()), Waker::from(writer.clone()));
        let inbox = Inbox::new(8 * 1024 * 1024, None);
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
        let inbox = Inbox::new(1, None);
        assert!(inbox.deliver(&mut parcel(1, 1), &writer));
        assert!(!inbox.deliver(&mut parcel(1, 1), &writer));
        inbox.close();
        assert!(inbox.deliver(&mut parcel(1, 1), &writer));
        let mut facts = VecDeque::new();
        assert!(!inbox.take(&mut facts, &writer) && facts.is_empty());
    }

    /// Spec: RATIONALE §11.
    #[test]
    fn inboxes_that_fill_share_a_pool_and_leave_room_to_others() {
        const MIB: usize = 1024 * 1024;
        let waker = Waker::from(Arc::new(Count::default()));
        let pool = Pool::new(8 * MIB);
        let flooded: Vec<Inbox> = (0..3).map(|_| Inbox::new(100 * MIB, Some(pool.clone()))).collect();
        // As much as goes in, a kilobyte each in turn.
        while flooded.iter().filter(|inbox| inbox.deliver(&mut parcel(1, 1024), &waker)).count() > 0 {}
        let part = 2 * MIB - 4096..2 * MIB + 4096;
        for inbox in &flooded {
            assert!(part.contains(&inbox.0.with(|inbox| inbox.bytes)), "a quarter");
        }
        assert!(pool.used() < 6 * MIB + 3 * 4096);
        // Who comes then finds as much, and who finds nothing still hears something.
        let late = Inbox::new(100 * MIB, Some(pool.clone()));
        assert!(late.deliver(&mut parcel(900, 1024), &waker));
        pool.resize(0);
        assert!(!late.deliver(&mut parcel(1, 1), &waker));
        let idle = Inbox::new(100 * MIB, Some(pool.clone()));
        assert!(idle.deliver(&mut parcel(1, 1), &waker));
        assert!(!idle.deliver(&mut parcel(1, 1), &waker));
        // All is given back: what was handled, and what never will be.
        let mut facts = VecDeque::new();
        while idle.take(&mut facts, &waker) || !facts.is_empty() {
            facts.clear();
        }
        flooded.iter().chain([&late]).for_each(Inbox::close);
        assert_eq!(pool.used(), 0);
    }

    /// Spec: RATIONALE §11.
    #[test]
    fn a_stranger_has_little_room_until_the_hello() {
        let writer = Arc::new(Count::default());
        let waker = Waker::from(writer.clone());
        let [strangers, guests] = [1 << 20, 8 << 20].map(Pool::new);
        let inbox = Inbox::new(HELLO_INBOX, Some(strangers.clone()));
        let mut bytes = 0;
        while inbox.deliver(&mut parcel(1, 1200), &waker) {
            bytes += 1200;
        }
        assert!((HELLO_INBOX / 2..HELLO_INBOX).contains(&bytes));
        let held = strangers.used();
        inbox.widen(4 << 20, &guests);
        assert_eq!((strangers.used(), guests.used()), (0, held));
        assert_eq!(writer.0.load(Ordering::Relaxed), 1, "there is room now");
        while inbox.deliver(&mut parcel(1, 1200), &waker) {}
        assert!(guests.used() >= 4 << 20);
        // A client's own inbox has a bound of its own, whatever.
        let own = Inbox::new(1, None);
        own.widen(1 << 20, &guests);
        assert!(own.deliver(&mut parcel(1, 1), &waker) && !own.deliver(&mut parcel(1, 1), &waker));
    }
}
