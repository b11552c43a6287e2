//! A mutex that wakes after it is unlocked, and tables of wakers.
//!
//! Waking or dropping a waker may run foreign code, which may want the same lock; so neither happens under it.
#![expect(
    clippy::disallowed_types,
    reason = "handles are used from many tasks: one lock per session and per endpoint (RATIONALE §3)"
)]

use std::{
    cell::Cell,
    collections::BTreeMap,
    fmt,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    task::Waker,
};

use smallvec::SmallVec;

/// Wakers to be called, and wakers to be dropped, once the lock is free.
#[derive(Default)]
pub(super) struct Owed {
    wake: SmallVec<[Waker; 4]>,
    spent: SmallVec<[Waker; 2]>,
}

impl Owed {
    /// Calls `waker` once the lock is free.
    pub(super) fn wake(&mut self, waker: Waker) {
        self.wake.push(waker);
    }

    /// Drops `waker` once the lock is free.
    pub(super) fn discard(&mut self, waker: Waker) {
        self.spent.push(waker);
    }

    fn is_empty(&self) -> bool {
        self.wake.is_empty() && self.spent.is_empty()
    }

    /// Takes over what another lock's state owes.
    fn take_over(&mut self, other: &mut Self) {
        self.wake.append(&mut other.wake);
        self.spent.append(&mut other.spent);
    }

    fn pay(self) {
        #[cfg(test)]
        assert!(HELD.get().iter().all(Option::is_none), "foreign code runs under a lock");
        for waker in self.wake {
            waker.wake();
        }
    }
}

/// State that may owe wake-ups.
pub(super) trait Owes {
    /// Returns where the wake-ups are noted; `None` if there never are any.
    fn owed(&mut self) -> Option<&mut Owed> {
        None
    }
}

/// A mutex around state that owes wake-ups.
pub(super) struct Lock<S>(Mutex<S>);

impl<S: Owes> Lock<S> {
    pub(super) const fn new(state: S) -> Self {
        Self(Mutex::new(state))
    }

    /// Runs `f` under the lock, then calls the wakers it noted. No other lock may be held; see [`Self::within`].
    ///
    /// A panic under the lock does not spread: the next caller finds the state as it was left.
    ///
    /// # Panics
    /// If this very lock is held by the caller: code of the application that runs in the middle of things, such as a
    /// certificate verifier, has used a handle of the session that it was called for. It would wait for itself for ever.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut S) -> T) -> T {
        let mut due = Owed::default();
        let out = self.within(&mut due, f);
        if !due.is_empty() {
            due.pay();
        }
        out
    }

    /// As [`Self::with`], for whoever holds a lock that comes earlier in the order that the module documentation gives: what
    /// is owed goes to `due`, which that lock pays once it is free.
    pub(super) fn within<T>(&self, due: &mut Owed, f: impl FnOnce(&mut S) -> T) -> T {
        let held = Held::new(&raw const self.0 as *const () as usize);
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let out = f(&mut guard);
        if let Some(owed) = guard.owed().filter(|owed| !owed.is_empty()) {
            due.take_over(owed);
        }
        drop(guard);
        drop(held);
        out
    }
}

/// Locks that one thread may hold at once: a session's, its endpoint's, and a leaf.
const HELD_MAX: usize = 3;

thread_local! {
    /// The locks that this thread holds, by address.
    static HELD: Cell<[Option<NonZeroUsize>; HELD_MAX]> = const { Cell::new([None; HELD_MAX]) };
}

/// One of the locks that this thread holds.
struct Held(NonZeroUsize);

impl Held {
    fn new(address: usize) -> Self {
        let this = NonZeroUsize::new(address).unwrap_or(NonZeroUsize::MIN);
        let mut held = HELD.get();
        assert!(
            !held.contains(&Some(this)),
            "a session's or endpoint's handle was used by code that it has called itself"
        );
        if let Some(place) = held.iter_mut().find(|place| place.is_none()) {
            *place = Some(this);
        }
        HELD.set(held);
        Self(this)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = HELD.get();
        for place in held.iter_mut().filter(|place| **place == Some(self.0)) {
            *place = None;
        }
        HELD.set(held);
    }
}

impl<S> fmt::Debug for Lock<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").finish_non_exhaustive()
    }
}

/// Wakers by what they wait for. Every waker found under a key is called when the key's event comes.
pub(super) struct Wakers<K> {
    table: BTreeMap<(K, u64), Waker>,
    last: u64,
    pub(super) owed: Owed,
}

/// The ticket of the one waiter that a key with a single owner can have.
const OWNER: u64 = 0;

impl<K> Default for Wakers<K> {
    fn default() -> Self {
        Self { table: BTreeMap::new(), last: OWNER, owed: Owed::default() }
    }
}

impl<K: Ord + Copy> Wakers<K> {
    /// Lets the one owner of `key` wait, in place of an earlier wait of it.
    pub(super) fn set(&mut self, key: K, waker: &Waker) {
        self.insert((key, OWNER), waker);
    }

    /// Ends the wait of the one owner of `key`.
    pub(super) fn unset(&mut self, key: K) {
        self.forget(key, OWNER);
    }

    /// Lets one of several wait for `key`. `ticket` names the wait, from the first call on.
    pub(super) fn wait(&mut self, key: K, ticket: &mut Option<u64>, waker: &Waker) {
        let ticket = *ticket.get_or_insert_with(|| {
            self.last += 1;
            self.last
        });
        self.insert((key, ticket), waker);
    }

    /// Ends one wait; harmless if it was woken before.
    pub(super) fn forget(&mut self, key: K, ticket: u64) {
        if let Some(waker) = self.table.remove(&(key, ticket)) {
            self.owed.discard(waker);
        }
    }

    /// Wakes all who wait for `key`.
    pub(super) fn wake(&mut self, key: K) {
        while let Some((&found, _)) = self.table.range((key, OWNER)..=(key, u64::MAX)).next() {
            if let Some(waker) = self.table.remove(&found) {
                self.owed.wake(waker);
            }
        }
    }

    /// Wakes everybody.
    pub(super) fn wake_all(&mut self) {
        while let Some((_, waker)) = self.table.pop_first() {
            self.owed.wake(waker);
        }
    }

    fn insert(&mut self, at: (K, u64), waker: &Waker) {
        match self.table.get(&at) {
            Some(old) if old.will_wake(waker) => {}
            Some(_) | None => {
                if let Some(old) = self.table.insert(at, waker.clone()) {
                    self.owed.discard(old);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[derive(Default)]
    struct State(Wakers<u8>);

    impl Owes for State {
        fn owed(&mut self) -> Option<&mut Owed> {
            Some(&mut self.0.owed)
        }
    }

    #[test]
    fn a_key_wakes_all_its_waiters_and_no_other() {
        let [a, b, c] = [(); 3].map(|()| Arc::new(Count::default()));
        let lock = Lock::new(State::default());
        let (mut first, mut second) = (None, None);
        lock.with(|s| {
            s.0.wait(1, &mut first, &Waker::from(a.clone()));
            s.0.wait(1, &mut second, &Waker::from(b.clone()));
            s.0.set(2, &Waker::from(c.clone()));
        });
        lock.with(|s| s.0.wake(1));
        lock.with(|s| s.0.wake(1));
        let counts = [&a, &b, &c].map(|n| n.0.load(Ordering::Relaxed));
        assert_eq!(counts, [1, 1, 0]);
        lock.with(|s| s.0.wake_all());
        assert_eq!(c.0.load(Ordering::Relaxed), 1);
    }

    /// Locks a state when it is woken, as an executor might that runs a task at once.
    struct Eager(Arc<Lock<State>>, AtomicUsize);

    impl Wake for Eager {
        fn wake(self: Arc<Self>) {
            self.0.with(|_| self.1.fetch_add(1, Ordering::Relaxed));
        }
    }

    /// It hung: a session's lock was held while its endpoint's wakers were called.
    #[test]
    fn what_an_inner_lock_owes_is_paid_when_the_outer_one_is_free() {
        let (outer, inner) = (Arc::new(Lock::new(State::default())), Lock::new(State::default()));
        let eager = Arc::new(Eager(outer.clone(), AtomicUsize::new(0)));
        inner.with(|s| s.0.set(1, &Waker::from(eager.clone())));
        outer.with(|s| {
            inner.within(&mut s.0.owed, |s| s.0.wake(1));
            assert_eq!(eager.1.load(Ordering::Relaxed), 0);
        });
        assert_eq!(eager.1.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn whoever_would_wait_for_itself_is_told_so() {
        let lock = Lock::new(State::default());
        let again = std::panic::AssertUnwindSafe(|| lock.with(|_| lock.with(|_| ())));
        assert!(std::panic::catch_unwind(again).is_err());
        lock.with(|_| ()); // and nothing is left of it
    }

    #[test]
    fn a_forgotten_wait_is_not_woken_and_lets_its_waker_go() {
        let count = Arc::new(Count::default());
        let lock = Lock::new(State::default());
        let mut ticket = None;
        lock.with(|s| s.0.wait(1, &mut ticket, &Waker::from(count.clone())));
        lock.with(|s| s.0.forget(1, ticket.unwrap()));
        lock.with(|s| s.0.wake(1));
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        assert_eq!(Arc::strong_count(&count), 1);
    }
}
