//! Counter of the heap that the code of one thread holds, around the system's allocator.
//!
//! A counter per thread, so that worlds and tests on other threads do not disturb it. Libraries that count more cannot
//! be left by a panic, which is how a world reports a failure.
#![expect(unsafe_code, reason = "the allocator's interface is unsafe; each call is handed on as it came")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

thread_local! {
    static HELD: Cell<i64> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Adds to the counter, unless the thread is at its end and has none any more.
fn count(bytes: usize, sign: i64) {
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    // A thread without a counter is not measured either.
    HELD.try_with(|held| held.set(held.get().wrapping_add(sign.wrapping_mul(bytes)))).unwrap_or_default();
}

// SAFETY: every call goes to the system's allocator with the arguments it came with.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller keeps to the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller keeps to the contract of `GlobalAlloc::alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: the caller keeps to the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(layout.size(), -1);
        count(new_size, 1);
        // SAFETY: the caller keeps to the contract of `GlobalAlloc::realloc`.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

/// Returns how many bytes this thread has allocated and not freed.
#[must_use]
pub fn held() -> i64 {
    HELD.get()
}

/// Runs `work` and returns by how many bytes the thread's heap has grown since.
pub fn measure<T>(work: impl FnOnce() -> T) -> (T, i64) {
    let before = HELD.get();
    let result = work();
    (result, HELD.get().wrapping_sub(before))
}

/// Runs `work` without counting what it allocates or frees.
pub fn uncounted<T>(work: impl FnOnce() -> T) -> T {
    let before = HELD.get();
    let result = work();
    HELD.set(before);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_counted() {
        let (kept, grown) = measure(|| vec![0_u8; 10_000]);
        assert_eq!(grown, 10_000);
        let ((), shrunk) = measure(|| drop(kept));
        assert_eq!(shrunk, -10_000);
        let (_kept, grown) = measure(|| uncounted(|| vec![0_u8; 10_000]));
        assert_eq!(grown, 0);
    }
}
