//! One server's life as a client sees it: may it be dialled, does it answer. Never mentions streams.

pub(crate) mod dial;
pub(crate) mod health;
pub(crate) mod race;
pub(crate) mod state;
pub(crate) mod watch;
