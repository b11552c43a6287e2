//! Which mutant is on: written into the core's tree by `tests/mutants`.

use std::{
    env, fs,
    io::Write as _,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

/// Mutants that there can be.
const MUTANTS_MAX: usize = 16 * 1024;

const UNREAD: u32 = u32::MAX;
const RECORDS: u32 = u32::MAX - 1;
const NONE: u32 = u32::MAX - 2;

static ACTIVE: AtomicU32 = AtomicU32::new(UNREAD);
static SEEN: [AtomicBool; MUTANTS_MAX] = [const { AtomicBool::new(false) }; MUTANTS_MAX];
static REACHED: Mutex<Option<fs::File>> = Mutex::new(None);

/// Returns whether mutant `n` is on: the one that the variable `MUTANT` names. With `MUTANTS_REACHED` none is, and the numbers
/// of all that were asked for go into the file of that name.
#[inline]
pub fn mutant(n: u32) -> bool {
    let active = ACTIVE.load(Ordering::Relaxed);
    active == n || (active >= RECORDS && look_up(active, n))
}

#[cold]
fn look_up(active: u32, n: u32) -> bool {
    let file = env::var_os("MUTANTS_REACHED");
    if active == UNREAD {
        let named = env::var("MUTANT").ok().and_then(|named| named.parse().ok()).unwrap_or(NONE);
        ACTIVE.store(if file.is_some() { RECORDS } else { named }, Ordering::Relaxed);
        return mutant(n);
    }
    if !SEEN[n as usize].swap(true, Ordering::Relaxed) {
        let mut reached = REACHED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let open = || fs::OpenOptions::new().append(true).create(true).open(file.expect("it records"));
        let reached = reached.get_or_insert_with(|| open().expect("can be written"));
        writeln!(reached, "{n}").expect("can be written");
    }
    false
}
