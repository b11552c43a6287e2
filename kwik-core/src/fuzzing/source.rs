//! Choices from the bytes a fuzzer makes up.
//!
//! A list of operations is read in records of one length, so that dropping or changing one record leaves the rest as
//! they were: that is what lets a fuzzer recombine lists and a property test shrink them. A record that is cut short
//! is filled up with zeros.

use arbitrary::{Arbitrary, Unstructured};

/// Bytes of one operation.
pub(crate) const OP: usize = 12;

/// Returns the operations in `data`, the last of which may be short.
pub(crate) fn ops(data: &[u8]) -> impl Iterator<Item = Source<'_>> {
    data.chunks(OP).map(Source::new)
}

/// Bytes that decide. Once they are used up every choice is the first, or zero.
#[derive(Debug)]
pub(crate) struct Source<'a>(Unstructured<'a>);

impl<'a> Source<'a> {
    /// Reads choices from `data`.
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self(Unstructured::new(data))
    }

    /// Any value of a type: as many bytes as it has.
    pub(crate) fn any<T: Arbitrary<'a> + Default>(&mut self) -> T {
        self.0.arbitrary().unwrap_or_default()
    }

    /// A number below `bound`, which is not zero; as few bytes as that takes.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0.int_in_range(0..=bound.saturating_sub(1)).unwrap_or_default()
    }

    /// One of a few.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *self.0.choose(from).expect("there is something to choose from")
    }

    /// True once in `n`, from one byte; never for a zero, so that what is rare goes first when a case shrinks.
    pub(crate) fn rarely(&mut self, n: u8) -> bool {
        let byte: u8 = self.any();
        byte % n == n - 1
    }

    /// A number with the edges that matter: mostly below `bound`, now and then among the largest there are.
    pub(crate) fn number(&mut self, bound: u64, max: u64) -> u64 {
        if self.rarely(32) { max - self.below(3) } else { self.below(bound) }
    }
}
