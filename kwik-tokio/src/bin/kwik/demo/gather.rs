//! Gathers chunks of a thousand bytes into writes of many.

use std::{io, mem};

/// Bytes written at once.
const BLOCK: usize = 256 * 1024;
/// Runs gathered at once. More servers write at more places; the run that has waited longest makes room.
const RUNS: usize = 32;

/// Gathers chunks that continue each other and passes them on as blocks.
pub(super) struct Gather<W> {
    write: W,
    /// The run touched last is the last one.
    runs: Vec<Run>,
    spare: Vec<Vec<u8>>,
}

struct Run {
    offset: u64,
    bytes: Vec<u8>,
}

impl<W: FnMut(u64, &[u8]) -> io::Result<()>> Gather<W> {
    pub(super) const fn new(write: W) -> Self {
        Self { write, runs: Vec::new(), spare: Vec::new() }
    }

    /// Takes the bytes that belong at `offset`.
    pub(super) fn push(&mut self, offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        let mut run = self.run_at(offset)?;
        loop {
            let room = BLOCK - run.bytes.len().min(BLOCK);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            run.bytes.extend_from_slice(now);
            bytes = later;
            if run.bytes.len() < BLOCK {
                break;
            }
            (self.write)(run.offset, &run.bytes)?;
            run.offset += run.bytes.len() as u64;
            run.bytes.clear();
        }
        // An emptied run stays: most likely its continuation comes next.
        self.runs.push(run);
        Ok(())
    }

    /// Passes on what is left.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let mut runs = mem::take(&mut self.runs);
        runs.sort_unstable_by_key(|run| run.offset);
        runs.iter().try_for_each(|run| self.flush(run))
    }

    /// Takes the run out that ends at `offset`, or a new one.
    fn run_at(&mut self, offset: u64) -> io::Result<Run> {
        let ends_here = |run: &Run| run.offset + run.bytes.len() as u64 == offset;
        if let Some(at) = self.runs.iter().rposition(ends_here) {
            return Ok(self.runs.remove(at));
        }
        if self.runs.len() >= RUNS {
            let mut oldest = self.runs.remove(0);
            self.flush(&oldest)?;
            oldest.bytes.clear();
            self.spare.push(oldest.bytes);
        }
        let bytes = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(BLOCK));
        Ok(Run { offset, bytes })
    }

    fn flush(&mut self, run: &Run) -> io::Result<()> {
        if run.bytes.is_empty() { Ok(()) } else { (self.write)(run.offset, &run.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const CHUNK: usize = 1000;

    /// Pushes chunks of a pattern at the given places and checks what was written. Returns how many writes it took.
    fn check(total: usize, order: impl Iterator<Item = usize>) -> usize {
        let pattern: Vec<u8> = (0..total).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let written = RefCell::new((vec![None; total], 0));
        let mut gather = Gather::new(|offset, bytes: &[u8]| {
            let (file, writes) = &mut *written.borrow_mut();
            *writes += 1;
            for (at, byte) in bytes.iter().enumerate() {
                let slot = &mut file[usize::try_from(offset).unwrap() + at];
                assert_eq!(*slot, None, "written twice");
                *slot = Some(*byte);
            }
            Ok(())
        });
        for start in order {
            let end = total.min(start + CHUNK);
            gather.push(start as u64, &pattern[start..end]).unwrap();
        }
        gather.finish().unwrap();
        let (file, writes) = written.into_inner();
        assert!(file.iter().zip(&pattern).all(|(got, want)| *got == Some(*want)));
        writes
    }

    #[test]
    fn in_order_is_one_write_per_block() {
        let total = 3 * BLOCK + 5;
        assert_eq!(check(total, (0..total).step_by(CHUNK)), 4);
    }

    #[test]
    fn interleaved_runs_are_gathered_too() {
        let part = 2 * BLOCK / CHUNK * CHUNK;
        let order = (0..part).step_by(CHUNK).flat_map(|at| (0..3).map(move |server| server * part + at));
        assert!(check(3 * part, order) <= 12);
    }

    #[test]
    fn any_order_is_right() {
        let total = 500 * CHUNK;
        let order = (0..500).map(|at| at * 77 % 500 * CHUNK);
        check(total, order);
    }

    #[test]
    fn more_runs_than_are_kept() {
        let places = 3 * RUNS;
        let order = (0..4).flat_map(|step| (0..places).map(move |place| (place * 4 + step) * CHUNK));
        check(places * 4 * CHUNK, order);
    }

    #[test]
    fn a_chunk_longer_than_a_block() {
        let written = RefCell::new(Vec::new());
        let mut gather = Gather::new(|offset, bytes: &[u8]| {
            written.borrow_mut().push((offset, bytes.len()));
            Ok(())
        });
        gather.push(7, &vec![1; 2 * BLOCK + 3]).unwrap();
        gather.finish().unwrap();
        let block = BLOCK as u64;
        assert_eq!(written.into_inner(), [(7, BLOCK), (7 + block, BLOCK), (7 + 2 * block, 3)]);
    }

    #[test]
    fn an_error_is_passed_on() {
        let mut gather = Gather::new(|_, _: &[u8]| Err(io::ErrorKind::StorageFull.into()));
        gather.push(0, b"x").unwrap();
        assert_eq!(gather.finish().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
