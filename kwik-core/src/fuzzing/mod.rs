//! The bodies of the fuzz targets.
//!
//! They live beside what they test, so that this crate's own tests replay the corpus and the targets cannot rot. Each
//! takes any bytes and panics only if the code breaks a promise. Those of the role machines stand below the machines,
//! where their state can be looked at, and are only named here.

pub(crate) mod assemble;
mod dial;
pub(crate) mod frames;
mod leases;
pub(crate) mod ranges;
pub(crate) mod source;
mod ticket;
pub(crate) mod tls;
mod wire;

pub use crate::schedule::schedule_ops;
pub use crate::session::{client_ops, hello, primary_ops, secondary_ops, session_datagram};
pub use assemble::assemble_ops;
pub use dial::dial_policy;
pub use leases::lease_table;
pub use ranges::ranges_ops;
pub use ticket::{ticket_decode, ticket_open};
pub use wire::{frame_decode, header_decode};

#[cfg(test)]
mod tests;
