//! Description of a world before it is made.

use std::{path::PathBuf, time::Duration};

use kwik_core::TransportConfig;

use super::World;
use crate::sim::{
    app::{ClientPlan, PrimaryPlan, SecondaryPlan},
    evil::Casting,
    link::Conditions,
    trace::Record,
};

/// Setup of a world; turn it into one with [`Setup::build`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Setup {
    pub(super) seed: u64,
    pub(super) clients: u16,
    pub(super) secondaries: u16,
    pub(super) conditions: Conditions,
    pub(super) client_transport: TransportConfig,
    pub(super) server_transport: TransportConfig,
    pub(super) client_plan: ClientPlan,
    pub(super) primary_plan: PrimaryPlan,
    pub(super) secondary_plan: SecondaryPlan,
    pub(super) record: Record,
    pub(super) qlog: Option<PathBuf>,
    pub(super) clocks: Clocks,
    pub(super) batch: usize,
    pub(super) nat: Option<Duration>,
    pub(super) reset_keys: bool,
    pub(super) evil: Option<Casting>,
    pub(super) timed: bool,
}

/// Differences of the machines' clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clocks {
    /// Clocks run fast or slow by up to this, in parts per million.
    pub drift_ppm: u16,
    /// Wall clocks are wrong by up to this.
    pub skew: Duration,
    /// Timers fire late by up to this, per machine.
    pub late: Duration,
}

impl Setup {
    /// Sets how many clients there are; one by default.
    pub fn clients(mut self, count: u16) -> Self {
        self.clients = count;
        self
    }

    /// Sets how many secondaries there are, none by default. The primary adds each as soon as a client is there.
    pub fn secondaries(mut self, count: u16) -> Self {
        self.secondaries = count;
        self
    }

    /// Sets how long a datagram is under way; 10 ms by default.
    pub fn one_way(mut self, delay: Duration) -> Self {
        self.conditions.delay = delay;
        self
    }

    /// Sets what every direction of every link is like.
    pub fn conditions(mut self, conditions: Conditions) -> Self {
        self.conditions = conditions;
        self
    }

    /// Sets the clients' transport.
    pub fn client_transport(mut self, transport: TransportConfig) -> Self {
        self.client_transport = transport;
        self
    }

    /// Sets the servers' transport.
    pub fn server_transport(mut self, transport: TransportConfig) -> Self {
        self.server_transport = transport;
        self
    }

    /// Sets what clients do.
    pub fn client_plan(mut self, plan: ClientPlan) -> Self {
        self.client_plan = plan;
        self
    }

    /// Sets what the primary does. A plan that says nothing of when to add which secondary adds all at once.
    pub fn primary_plan(mut self, plan: PrimaryPlan) -> Self {
        self.primary_plan = plan;
        self
    }

    /// Sets how secondaries behave.
    pub fn secondary_plan(mut self, plan: SecondaryPlan) -> Self {
        self.secondary_plan = plan;
        self
    }

    /// Sets how much the clocks differ; not at all by default.
    pub fn clocks(mut self, clocks: Clocks) -> Self {
        self.clocks = clocks;
        self
    }

    /// Sets how many datagrams a socket takes at once, at most; 10 by default.
    pub fn batch(mut self, datagrams: usize) -> Self {
        self.batch = datagrams;
        self
    }

    /// Puts every client behind a NAT that forgets it after so long a silence of its own: what comes then is lost, and
    /// what it sends comes from another port.
    pub fn nat(mut self, memory: Option<Duration>) -> Self {
        self.nat = memory;
        self
    }

    /// Gives each server a key of stateless resets that outlives a crash; none by default.
    pub fn reset_keys(mut self, lasting: bool) -> Self {
        self.reset_keys = lasting;
        self
    }

    /// Puts machines into the hands of scripts that need not keep to the rules.
    pub fn evil(mut self, casting: Casting) -> Self {
        self.evil = Some(casting);
        self
    }

    /// Measures how long the machines take, of a processor's time.
    pub fn timed(mut self) -> Self {
        self.timed = true;
        self
    }

    /// Sets how much text of the run is kept.
    pub fn record(mut self, record: Record) -> Self {
        self.record = record;
        self
    }

    /// Has every machine write what QUIC does there into a file of its own in `folder`, which exists, and each end of a
    /// session what KWIK does.
    pub fn qlog(mut self, folder: PathBuf) -> Self {
        self.qlog = Some(folder);
        self
    }

    /// Makes the world. Its clients have begun to connect.
    #[must_use]
    pub fn build(self) -> World {
        World::new(self)
    }
}
