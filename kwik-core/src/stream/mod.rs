//! Ranges from many servers into one order. Knows no path's state, no frame and no QUIC.

pub(crate) mod assemble;
pub(crate) mod conflict;
pub(crate) mod credit;
pub(crate) mod gap;
pub(crate) mod ranges;
pub(crate) mod recv;
pub(crate) mod send;
pub(crate) mod staging;
pub(crate) mod tally;
