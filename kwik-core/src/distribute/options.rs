//! Settings of an object that is sent over every path.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::{
    error::ErrorCode,
    id::PathId,
    schedule::{Digests, Options, Policy},
};

/// Settings of one object for a [`Distributor`](super::Distributor), or `SendStream::distribute` of the adapters.
#[derive(Debug, Default)]
#[must_use]
pub struct DistributeOptions {
    pub(super) payload: Bytes,
    pub(super) schedule: Options,
    pub(super) offset: u64,
    pub(super) window: Option<u64>,
    pub(crate) reset_code: Option<ErrorCode>,
    only: Option<BTreeSet<PathId>>,
    prices: BTreeMap<PathId, u64>,
}

impl DistributeOptions {
    /// Tells the other servers' applications what the object is: at most 2 KiB, the application's own, which they find in
    /// the payload of their jobs. The ranges that they are asked for are the stream's,
    /// and so the object's.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), ..Self::default() }
    }

    /// Lets only these bring the object; [`PathId::PRIMARY`] is this server itself. By default it and all paths do, those
    /// that are added meanwhile included.
    pub fn only(mut self, paths: impl IntoIterator<Item = PathId>) -> Self {
        self.only = Some(paths.into_iter().collect());
        self
    }

    /// Sets what a gibibyte over a path costs, in any unit; 0 by default. For [`CostWeighted`](crate::schedule::CostWeighted).
    pub fn price(mut self, path: PathId, per_gibibyte: u64) -> Self {
        self.prices.insert(path, per_gibibyte);
        self
    }

    /// Sets who decides which path gets what; [`CompletionTime`](crate::schedule::CompletionTime) by default.
    pub fn policy(mut self, policy: impl Policy + 'static) -> Self {
        self.schedule = self.schedule.policy(policy);
        self
    }

    /// Sets how many bytes may be asked for twice on purpose, in thousandths of the object; 20 by default.
    pub fn duplicates_permille(mut self, value: u64) -> Self {
        self.schedule = self.schedule.duplicates_permille(value);
        self
    }

    /// Sets which ranges other servers must bring with the BLAKE3 digest that they have in the source here, so that the
    /// reader sees no byte of a wrong one; none by default. Each such range is read here as well.
    pub fn digests(mut self, which: Digests) -> Self {
        self.schedule = self.schedule.digests(which);
        self
    }

    /// Begins at this offset of the object, 0 by default. The bytes before it are the stream's first ones, and were written
    /// to it before.
    pub fn offset(mut self, bytes: u64) -> Self {
        self.offset = bytes;
        self
    }

    /// Says that the reader takes the bytes in order, and that its window for the stream is so many bytes: servers keep within
    /// it, and within what the client says of it as it goes. By default they work as if the reader had room for all.
    pub fn window(mut self, bytes: u64) -> Self {
        self.window = Some(bytes);
        self
    }

    /// Sets the code with which the driver resets the stream if the object is not completed; 0 by default.
    pub fn reset_code(mut self, code: ErrorCode) -> Self {
        self.reset_code = Some(code);
        self
    }

    pub(super) fn wants(&self, path: PathId) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&path))
    }

    pub(super) fn price_of(&self, path: PathId) -> u64 {
        self.prices.get(&path).copied().unwrap_or_default()
    }
}
