//! Live leases, the tickets and seals that allow them, and the keys behind those.

pub(crate) mod nonces;
pub(crate) mod relay;
pub(crate) mod table;
pub(crate) mod ticket;
