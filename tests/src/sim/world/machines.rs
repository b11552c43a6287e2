//! The machines of a world come, connect, close and go.

use std::{collections::VecDeque, fs, io, sync::Arc, time::Duration};

use kwik_core::{
    ClientConfig, Endpoint, Qlog, SecondaryConfig, ServerConfig, Side, Signer as _, SigningKey,
    TransportConfig,
};

use super::{
    Clocks, World,
    host::{Clock, Host},
};
use crate::sim::{
    NodeId,
    app::{App, Calls, ClientApp, GOODBYE, PrimaryApp, SecondaryApp},
    dice::{Dice, derive},
    evil::Casting,
    heap,
    machine::Machine,
    resident::Resident,
    tls,
};

impl World {
    pub(super) fn add_host(&mut self, node: NodeId, clocks: &mut Dice) {
        let Clocks { drift_ppm, skew, late } = self.setup.clocks;
        let signed = |dice: &mut Dice, max: u64| {
            i64::try_from(dice.between(0, 2 * max)).unwrap_or_default()
                - i64::try_from(max).unwrap_or_default()
        };
        let clock = Clock {
            ppm: signed(clocks, drift_ppm.into()),
            ahead: Duration::ZERO,
            skew: signed(clocks, skew.as_secs()),
        };
        let host = Host {
            machine: None,
            clock,
            late: clocks.time(Duration::ZERO, late),
            paused_until: Duration::ZERO,
            backlog: VecDeque::new(),
            blocked_until: Duration::ZERO,
            sent_at: Duration::ZERO,
            was_blocked: false,
            wake: None,
            dice: Dice::new(self.seed, &format!("kwik sim: application of {node}")),
            incarnation: 0,
            heap: 0,
            heap_start: 0,
            turns: 0,
            received: 0,
            busy: Duration::ZERO,
            calls: Calls::default(),
        };
        self.hosts.insert(node, host);
        if !node.is_client() {
            self.book.assign(node, 0);
            self.book.set_identity(node, tls::identity(node.server_index(), false));
            self.start(node);
        }
    }

    /// Gives a machine an endpoint and an application.
    pub(super) fn start(&mut self, node: NodeId) {
        if self.start_evil(node) {
            return;
        }
        let is_primary = self.is_primary(node);
        let app = match node {
            _ if is_primary => {
                let app = PrimaryApp::new(self.setup.primary_plan.clone());
                App::Primary(match &self.setup.evil {
                    Some(casting) => app.apart(self.seed, casting.reserved()),
                    None => app,
                })
            }
            node if node.is_client() => {
                let session = self.hosts.get(&node).map(|host| host.incarnation).unwrap_or_default();
                App::Client(ClientApp::new(self.setup.client_plan.clone(), session))
            }
            _ => {
                let crawls = self.setup.primary_plan.crawler == Some(node);
                let plan = self.setup.secondary_plan;
                App::Secondary(SecondaryApp::new(if crawls { plan.crawling() } else { plan }))
            }
        };
        let server = self.book.identity(node).map(|identity| {
            let config = ServerConfig::try_from(identity.tls.clone()).expect("made for QUIC");
            let config = config.transport(self.traced(node, self.setup.server_transport.clone()));
            let reset_key = derive(self.seed, &format!("kwik sim: resets of {node}"));
            let config = if self.setup.reset_keys { config.reset_key(reset_key) } else { config };
            if is_primary {
                config.primary(self.signer(node))
            } else {
                let trusted = self.signer.public_key();
                let trust = SecondaryConfig::new(trusted, &identity.certificate).expect("a certificate");
                let others = self.setup.evil.iter().flat_map(Casting::others);
                let trust = others.fold(trust, |trust, other| trust.primary(self.signer(other).public_key()));
                config.secondary(trust)
            }
        });
        let host = self.hosts.get_mut(&node).expect("the machine exists");
        let seed = derive(self.seed, &format!("kwik sim: endpoint of {node}, {}", host.incarnation));
        host.incarnation += 1;
        let now = self.epoch + host.clock.local(self.at);
        let endpoint = Endpoint::new(seed, now, server, true).expect("the settings are possible");
        host.machine = Some(Resident::Honest(Machine::new(endpoint, app)));
        host.heap = 0;
        host.wake = Some(self.at);
    }

    /// Adds a qlog of this machine to what its connections do, if that is asked for.
    pub(super) fn traced(&self, node: NodeId, transport: TransportConfig) -> TransportConfig {
        let Some(folder) = &self.setup.qlog else {
            return transport;
        };
        let incarnation = self.hosts.get(&node).map(|host| host.incarnation).unwrap_or_default();
        let name = format!("{}-{incarnation}.sqlog", node.to_string().replace(' ', "-"));
        let file = fs::File::create(folder.join(&name)).expect("the folder can be written to");
        let qlog = Qlog::new(Box::new(io::BufWriter::new(file)), self.epoch, &name);
        let sessions = folder.clone();
        let qlog = qlog.expect("the file can be written to").sessions(move |session, role, path| {
            heap::uncounted(|| {
                let name = format!("session-{session}-{role:?}-{}.sqlog", path.into_inner());
                let file = fs::File::create(sessions.join(name)).expect("the folder can be written to");
                Some(Box::new(file) as Box<dyn io::Write + Send + Sync>)
            })
        });
        transport.qlog(qlog)
    }

    /// Starts a machine that a script runs, if this is one.
    pub(super) fn start_evil(&mut self, node: NodeId) -> bool {
        let Some(machine) =
            self.setup.evil.and_then(|casting| casting.machine(self.seed, node, self.signer.clone()))
        else {
            return false;
        };
        self.oracle.set_hostile(node);
        if node.is_client() {
            self.oracle.reader_gone(node, 0, Side::Server); // nobody checks what a script reads
        }
        if let Some(host) = self.hosts.get_mut(&node) {
            host.incarnation += 1;
            host.machine = Some(Resident::Evil(machine));
            host.wake = Some(self.at);
        }
        true
    }

    pub(super) fn is_primary(&self, node: NodeId) -> bool {
        node == NodeId::PRIMARY || self.setup.evil.iter().flat_map(Casting::others).any(|other| other == node)
    }

    /// Each primary has a key of its own.
    pub(super) fn signer(&self, node: NodeId) -> Arc<SigningKey> {
        if node == NodeId::PRIMARY {
            return self.signer.clone();
        }
        Arc::new(SigningKey::from_seed(derive(self.seed, &format!("kwik sim: signer of {node}"))))
    }

    pub(super) fn connect(&mut self, node: NodeId) {
        self.machine_gone(node); // whatever ran there before
        let number = self.hosts.get(&node).map(|host| host.incarnation).unwrap_or_default();
        self.book.assign(node, number);
        self.start(node);
        let config = ClientConfig::try_from(tls::client()).expect("made for QUIC");
        let config = config.transport(self.traced(node, self.setup.client_transport.clone()));
        let primary = self.setup.evil.map_or(NodeId::PRIMARY, |casting| casting.primary_of(node));
        let to = self.book.address(primary);
        let name = tls::server_name(primary.server_index());
        let Some(host) = self.hosts.get_mut(&node) else {
            return;
        };
        let now = self.epoch + host.clock.local(self.at);
        if let Some(machine) = host.machine.as_mut().and_then(Resident::honest) {
            let ((), grown) = heap::measure(|| {
                machine.connect(now, config, to, &name);
            });
            host.heap_start = host.heap;
            host.heap += grown;
        }
    }

    /// Notes that whoever reads on a machine is gone.
    pub(super) fn machine_gone(&mut self, node: NodeId) {
        let present = |host: &Host| host.incarnation.checked_sub(1);
        let of = self.hosts.iter().filter(|(client, _)| client.is_client());
        let sessions = of.filter_map(|(&client, host)| Some((client, present(host)?)));
        self.oracle.machine_gone(node, sessions.filter(|(client, _)| !node.is_client() || *client == node));
    }

    pub(super) fn close(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get_mut(&node) else {
            return;
        };
        let now = self.epoch + host.clock.local(self.at);
        if let Some(Resident::Evil(machine)) = host.machine.as_mut() {
            machine.close(now);
        }
        if let Some(machine) = host.machine.as_mut().and_then(Resident::honest) {
            let ((), grown) = heap::measure(|| {
                for (_, session) in machine.sessions() {
                    let closed = session.close(now, GOODBYE, b"");
                    assert!(closed.is_ok(), "the code is the application's");
                }
                machine.touch_all();
            });
            host.heap += grown;
        }
        self.poke(node);
    }

    /// Gives a machine a turn now.
    pub(super) fn poke(&mut self, node: NodeId) {
        let at = self.at;
        if let Some(host) = self.hosts.get_mut(&node) {
            host.wake = Some(at);
        }
        if let Some(machine) = self.machine_mut(node) {
            machine.touch_all();
        }
    }

    pub(super) fn machine_mut(&mut self, node: NodeId) -> Option<&mut Machine> {
        self.hosts.get_mut(&node)?.machine.as_mut()?.honest()
    }
}
