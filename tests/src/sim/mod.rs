//! The simulator.

pub mod app;
pub mod book;
pub mod dice;
pub mod heap;
pub mod link;
pub mod machine;
pub mod operations;
pub mod oracle;
pub mod swarm;
pub mod tls;
pub mod trace;
pub mod world;

use std::fmt;

pub use self::{
    app::{
        Calls, ClientPlan, Ending, Interruption, Offer, OpenPlan, PrimaryPlan, Reading, SecondaryPlan,
        WriterEnd,
    },
    link::{Bursts, Conditions, Marking},
    trace::Record,
    world::{Clocks, Fault, Setup, World},
};

/// Names a machine of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) u16);

/// The first client's number.
const CLIENTS: u16 = 100;

impl NodeId {
    /// The primary.
    pub const PRIMARY: Self = Self(0);

    /// Returns the name of secondary `number`, counted from 1.
    #[must_use]
    pub const fn secondary(number: u16) -> Self {
        assert!(number >= 1 && number < CLIENTS, "secondaries are counted from 1");
        Self(number)
    }

    /// Returns the name of client `number`, counted from 1.
    #[must_use]
    pub const fn client(number: u16) -> Self {
        assert!(number >= 1, "clients are counted from 1");
        Self(CLIENTS + number)
    }

    /// Returns whether this is a client.
    #[must_use]
    pub const fn is_client(self) -> bool {
        self.0 > CLIENTS
    }

    /// Which certificate a server has.
    const fn server_index(self) -> usize {
        self.0 as usize + 1
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("primary"),
            n if self.is_client() => write!(f, "client {}", n - CLIENTS),
            n => write!(f, "secondary {n}"),
        }
    }
}
