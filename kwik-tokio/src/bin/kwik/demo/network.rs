//! The endpoints of the demo: one primary, its secondaries, one client, each with a socket of its own.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use kwik_tokio::{
    ClientConfig, Endpoint, NewPath, SecondaryConfig, ServerConfig, Signer as _, SigningKey, TransportConfig,
};

use super::{WINDOW, certs::Authority};
use crate::failure::Failure;

/// The servers and the client's endpoint.
pub(super) struct Network {
    pub(super) primary: Endpoint,
    pub(super) secondaries: Vec<Endpoint>,
    pub(super) paths: Vec<NewPath>,
    pub(super) client: Endpoint,
    /// Address at which the client finds the primary, and its name.
    pub(super) address: SocketAddr,
    pub(super) server_name: String,
    /// Of all servers, the primary first.
    pub(super) addresses: Vec<SocketAddr>,
}

impl Network {
    /// Binds all sockets. To be called from within the runtime.
    pub(super) fn start(at: SocketAddr, number: usize) -> Result<Self, Failure> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| Failure::run(format!("no random numbers: {error}")))?;
        let signer = Arc::new(SigningKey::from_seed(seed));
        let authority = Authority::new()?;

        let identity = authority.issue("primary.kwik.test".into())?;
        let config = ServerConfig::try_from(identity.tls).map_err(config_failed)?.primary(signer.clone());
        let (primary, address) = listen(config, at)?;
        let server_name = identity.name;

        let mut addresses = vec![address];
        let (mut secondaries, mut paths) = (Vec::new(), Vec::new());
        for number in 1..=number {
            let identity = authority.issue(format!("secondary-{number}.kwik.test"))?;
            let role =
                SecondaryConfig::new(signer.public_key(), &identity.certificate).map_err(config_failed)?;
            let config = ServerConfig::try_from(identity.tls).map_err(config_failed)?.secondary(role);
            let (endpoint, address) = listen(config, SocketAddr::new(at.ip(), 0))?;
            paths.push(NewPath::new(address, &identity.name, identity.key));
            secondaries.push(endpoint);
            addresses.push(address);
        }

        let any = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let mut client = Endpoint::client(SocketAddr::new(any, 0))
            .map_err(|error| Failure::run(format!("no socket for the client: {error}")))?;
        let config = ClientConfig::try_from(authority.client()?).map_err(config_failed)?;
        client.set_default_client_config(config.transport(TransportConfig::default().stream_window(WINDOW)));
        Ok(Self { primary, secondaries, paths, client, address, server_name, addresses })
    }
}

/// Opens a server. Returns it with the address at which it can be reached from here.
fn listen(config: ServerConfig, at: SocketAddr) -> Result<(Endpoint, SocketAddr), Failure> {
    let fail = |error: io::Error| Failure::input(format!("cannot listen on {at}: {error}"));
    let endpoint = Endpoint::server(config, at).map_err(fail)?;
    let mut address = endpoint.local_addr().map_err(fail)?;
    address.set_ip(address.ip().to_canonical());
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok((endpoint, address))
}

fn config_failed(error: kwik_tokio::ConfigError) -> Failure {
    Failure::run(format!("cannot set up the demo: {error}"))
}
