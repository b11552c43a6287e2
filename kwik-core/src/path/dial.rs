//! Policy for the addresses that a server may make a client dial. Spec: PROTOCOL §9.
//!
//! A server must not turn clients into scanners of networks that only the client can reach.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use crate::limits;

/// An address that a primary has named, and what is known about the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DialRequest {
    /// Address of the session's primary.
    pub primary: SocketAddr,
    /// The address to be dialled.
    pub address: SocketAddr,
    /// The address of this machine's own that it would be dialled from, where the system tells.
    pub source: Option<IpAddr>,
}

impl DialRequest {
    /// Returns a request of which the source is not known.
    pub const fn new(primary: SocketAddr, address: SocketAddr) -> Self {
        Self { primary, address, source: None }
    }
}

/// Decides whether a client dials an address that its primary named.
///
/// It is asked while nothing of the session is locked ([`Question`](crate::Question)), and may use its handles. The session
/// waits for it, for as long as `attach_timeout` at most where whoever drives it does not.
pub trait DialPolicy: Debug + Send + Sync {
    /// Returns whether to dial `dial.address`.
    fn allows(&self, dial: &DialRequest) -> bool;
}

/// The default: never an address class more private than the primary's own, and no port that belongs to a well-known
/// service of another kind: none below 1024 but 443, and none of those below 32768 at which a UDP service answers
/// strangers. From there on a port may be anybody's: it is where systems choose one for who has asked for none.
///
/// Addresses that carry an IPv4 address (mapped, NAT64, 6to4, Teredo, ISATAP) are judged by that one. Hosts in the /64 that
/// this machine would dial them from are as private as those of a private network, as far as the source is known. A
/// link-local address is for primaries that are link-local themselves: one on this machine may be a tunnel's near end,
/// whose far end has no business on the link. The metadata service of clouds, 169.254.169.254, is never dialled.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct NotMorePrivate;

impl DialPolicy for NotMorePrivate {
    fn allows(&self, dial: &DialRequest) -> bool {
        let class = |address: SocketAddr| {
            let near = dial.source.is_some_and(|source| is_neighbour(address.ip(), source));
            class(address.ip()).map(|class| if near { class.max(Class::Private) } else { class })
        };
        let (Some(primary), Some(address)) = (class(dial.primary), class(dial.address)) else {
            return false;
        };
        let linked = address != Class::LinkLocal || primary == Class::LinkLocal;
        is_for_quic(dial.address.port()) && address <= primary && linked
    }
}

/// Returns whether two addresses are hosts of one IPv6 network: the last 64 bits tell them apart.
fn is_neighbour(ip: IpAddr, own: IpAddr) -> bool {
    matches!((ip, own), (IpAddr::V6(ip), IpAddr::V6(own)) if ip.to_bits() >> 64 == own.to_bits() >> 64)
}

/// Returns an address in the only form in which sockets tell it: a mapped one would never be recognised as the peer's.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => (ip, address.port()).into(),
        IpAddr::V6(_) => address, // as it is: it may have a scope
    }
}

/// Returns a server's address on the link that its primary is on, if it is a link-local one that does not say on which:
/// the numbers of links are this machine's own affair, and no server can name them.
pub(crate) fn on_link_of(mut address: SocketAddr, primary: SocketAddr) -> SocketAddr {
    if let (SocketAddr::V6(own), SocketAddr::V6(primary)) = (&mut address, primary) {
        let local = own.ip().is_unicast_link_local() && primary.ip().is_unicast_link_local();
        if local && own.scope_id() == 0 {
            own.set_scope_id(primary.scope_id());
        }
    }
    address
}

/// Ports above 1023 at which UDP services answer datagrams of strangers: what a client sends there could be taken for a
/// question of its own (RFC 9000 §21.5). None of those that systems choose by themselves, or one in some thousand servers
/// could not be dialled.
const SERVICES: &[u16] = &[
    1194,  // OpenVPN
    1434,  // Microsoft SQL
    1604,  // Citrix
    1701,  // L2TP
    1812,  // RADIUS
    1900,  // SSDP
    2049,  // NFS
    2123,  // GTP
    2152,  // GTP
    3283,  // Apple Remote Desktop
    3389,  // Remote Desktop
    3478,  // STUN, TURN
    3544,  // Teredo
    3702,  // WS-Discovery
    4500,  // IPsec
    5060,  // SIP
    5061,  // SIP
    5093,  // Sentinel
    5351,  // NAT-PMP
    5353,  // mDNS
    5355,  // LLMNR
    5683,  // CoAP
    6881,  // BitTorrent
    10001, // Ubiquiti
    11211, // memcached
    17185, // VxWorks
    27015, // Steam
    27960, // Quake
    32414, // Plex
];

/// Returns whether a KWIK server may listen at a port.
fn is_for_quic(port: u16) -> bool {
    port == 443 || (port >= 1024 && SERVICES.binary_search(&port).is_err())
}

/// Addresses that could not be attached lately: they are left alone for a while, the longer the more often it happened.
/// Spec: PROTOCOL §9.
#[derive(Debug, Default)]
pub(crate) struct FailedDials {
    /// Not yet worked off: whoever noticed has no clock.
    fresh: SmallVec<[SocketAddr; 1]>,
    until: BTreeMap<SocketAddr, (Instant, u32)>,
}

/// Time that an address is left alone after its first failure; twice as long after each further one.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// And how often it is doubled at most: 64 s.
const BACKOFF_DOUBLINGS: u32 = 6;

impl FailedDials {
    /// An attach has failed.
    pub(crate) fn note(&mut self, address: SocketAddr) {
        self.fresh.push(address);
    }

    /// Begins the time of what was noted.
    pub(crate) fn settle(&mut self, now: Instant) {
        for address in std::mem::take(&mut self.fresh) {
            let times = self.until.get(&address).map_or(0, |(_, times)| *times).saturating_add(1);
            let wait = BACKOFF_FIRST * 2_u32.pow((times - 1).min(BACKOFF_DOUBLINGS));
            self.until.insert(address, (now + wait, times));
        }
        let forgotten = BACKOFF_FIRST * 2_u32.pow(BACKOFF_DOUBLINGS + 1);
        self.until.retain(|_, (until, _)| *until + forgotten > now);
        while self.until.len() > limits::FAILED_DIALS_MAX {
            let first = self.until.iter().min_by_key(|(_, (until, _))| *until).map(|(&address, _)| address);
            first.map(|first| self.until.remove(&first));
        }
    }

    /// Returns whether an address may be dialled again.
    pub(crate) fn allows(&self, now: Instant, address: SocketAddr) -> bool {
        !self.fresh.contains(&address) && self.until.get(&address).is_none_or(|(until, _)| *until <= now)
    }

    /// An attach has succeeded.
    pub(crate) fn forget(&mut self, address: SocketAddr) {
        self.until.remove(&address);
    }
}

/// Reach of an address, widest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Global,
    Private,
    LinkLocal,
    Loopback,
}

/// Returns how far `ip` reaches; `None` for what nobody may be told to dial at all.
fn class(ip: IpAddr) -> Option<Class> {
    match ip {
        IpAddr::V4(ip) => class_v4(ip),
        IpAddr::V6(ip) => match embedded_v4(ip) {
            Some(ip) => class_v4(ip),
            // Whichever of the parts reaches least far.
            None => tunnelled_v4(ip)
                .into_iter()
                .flatten()
                .try_fold(class_v6(ip)?, |class, inner| class_v4(inner).map(|inner| class.max(inner))),
        },
    }
}

/// The address at which clouds tell a machine its secrets.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

fn class_v4(ip: Ipv4Addr) -> Option<Class> {
    let [a, b, c, _] = ip.octets();
    if a == 0 || a >= 224 || ip == METADATA {
        return None; // this network, multicast, reserved, broadcast
    }
    // Behind a carrier's translator, protocol assignments, benchmarking: not to be had from everywhere.
    let shared = (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && b & 0xfe == 18);
    Some(if ip.is_loopback() {
        Class::Loopback
    } else if ip.is_link_local() {
        Class::LinkLocal
    } else if ip.is_private() || shared {
        Class::Private
    } else {
        Class::Global
    })
}

fn class_v6(ip: Ipv6Addr) -> Option<Class> {
    let [first, second, third, ..] = ip.segments();
    if ip.is_unspecified() || ip.is_multicast() {
        return None;
    }
    Some(if ip.is_loopback() {
        Class::Loopback
    } else if first & 0xffc0 == 0xfe80 {
        Class::LinkLocal
    } else if first & 0xfe00 == 0xfc00
        || first & 0xffc0 == 0xfec0
        || [first, second, third] == [0x64, 0xff9b, 1]
    {
        Class::Private // unique local, the old site-local, a network's own translator
    } else {
        Class::Global
    })
}

fn v4(high: u16, low: u16) -> Ipv4Addr {
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Ipv4Addr::new(a, b, c, d)
}

/// Unwraps the forms that are another way to write an IPv4 address: mapped, compatible, translated and NAT64.
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None, // nobody, and this machine
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        _ => None,
    }
}

/// Returns the IPv4 addresses that packets to this address are tunnelled to: by 6to4 (RFC 3056), Teredo (RFC 4380, both the
/// server and the client behind its translator) and ISATAP (RFC 5214, which may lie in a 6to4 network).
fn tunnelled_v4(ip: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let isatap = match ip.segments() {
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => Some(v4(high, low)),
        _ => None,
    };
    match ip.segments() {
        [0x2001, 0, high, low, _, _, client_high, client_low] => {
            [Some(v4(high, low)), Some(v4(!client_high, !client_low))]
        }
        [0x2002, high, low, ..] => [Some(v4(high, low)), isatap],
        _ => [isatap, None],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(primary: &str, address: &str) -> bool {
        allows_from(None, primary, address)
    }

    fn allows_from(source: Option<&str>, primary: &str, address: &str) -> bool {
        let primary = SocketAddr::new(primary.parse().unwrap(), 443);
        let address = SocketAddr::new(address.parse().unwrap(), 4433);
        let source = source.map(|source| source.parse().unwrap());
        NotMorePrivate.allows(&DialRequest { source, ..DialRequest::new(primary, address) })
    }

    #[test]
    fn nothing_more_private_than_the_primary() {
        assert!(
            allows("127.0.0.1", "127.0.0.1")
                && allows("127.0.0.1", "192.168.1.2")
                && allows("::1", "8.8.8.8")
        );
        assert!(allows("10.0.0.1", "192.168.1.2") && allows("8.8.8.8", "2606:4700::1"));
        assert!(
            !allows("8.8.8.8", "127.0.0.1")
                && !allows("8.8.8.8", "10.1.1.1")
                && !allows("10.0.0.1", "127.0.0.1")
        );
        assert!(
            !allows("8.8.8.8", "169.254.169.254")
                && !allows("10.0.0.1", "fe80::1")
                && !allows("8.8.8.8", "fd00::1")
        );
    }

    #[test]
    fn wrapped_forms_are_unwrapped_first() {
        for wrapped in ["::ffff:127.0.0.1", "::127.0.0.1", "2002:7f00:1::", "64:ff9b::127.0.0.1"] {
            assert!(!allows("8.8.8.8", wrapped), "{wrapped}");
        }
    }

    /// Tunnels end where the IPv4 address inside says, whatever is around it.
    #[test]
    fn tunnels_reach_as_far_as_their_ends() {
        let private = [
            "2001:0:a00:1::f5ff:fffe",           // Teredo: server and client 10.0.0.1
            "2001:0:808:808::f5ff:fffe",         // the client alone
            "2001:0:a00:1::f7f7:f7f7",           // the server alone
            "2a02:908:1:2:0:5efe:a00:1",         // ISATAP
            "2a02:908:1:2:200:5efe:192.168.1.1", // ISATAP with the bit for unique addresses
            "2002:808:808:1:0:5efe:a00:1",       // ISATAP in a 6to4 network
            "2002:a00:1::1",                     // 6to4
        ];
        for address in private {
            assert!(!allows("8.8.8.8", address), "{address}");
            assert!(allows("10.0.0.1", address), "{address}");
        }
        for address in ["2001:0:808:808::f7f7:f7f7", "2a02:908:1:2:0:5efe:808:808", "2002:808:808::1"] {
            assert!(allows("8.8.8.8", address), "{address}");
        }
        // Nobody's inside are nobody's, and what is outside counts as well.
        for address in ["2001:0:808:808::ffff:ffff", "2a02:908:1:2:0:5efe:224.0.0.1", "fe80::5efe:808:808"] {
            assert!(!allows("8.8.8.8", address) && !allows("127.0.0.1", address), "{address}");
        }
    }

    /// A global address says nothing about whether a firewall is before it: the client's own network is behind it.
    #[test]
    fn hosts_of_the_clients_own_network_are_private() {
        let own = Some("2a02:908:1:2::1234");
        for primary in ["8.8.8.8", "2606:4700::1", "2a02:908:1:3::1"] {
            assert!(!allows_from(own, primary, "2a02:908:1:2::99"), "{primary}");
            assert!(!allows_from(own, primary, "2a02:908:1:2::1234"), "{primary}");
            assert!(allows_from(own, primary, "2a02:908:1:3::99"), "{primary}");
            assert!(allows_from(None, primary, "2a02:908:1:2::99"), "{primary}");
        }
        for primary in ["2a02:908:1:2::98", "192.168.0.1", "127.0.0.1"] {
            assert!(allows_from(own, primary, "2a02:908:1:2::99"), "{primary}");
        }
    }

    /// A primary on this machine may be the near end of a tunnel.
    #[test]
    fn the_link_is_for_primaries_on_it() {
        for link in ["169.254.1.1", "fe80::2", "::ffff:169.254.1.1"] {
            assert!(!allows("127.0.0.1", link) && !allows("10.0.0.1", link), "{link}");
            assert!(allows("fe80::1", link) && allows("169.254.7.7", link), "{link}");
        }
        for metadata in ["169.254.169.254", "::ffff:169.254.169.254", "2002:a9fe:a9fe::1"] {
            for primary in ["8.8.8.8", "10.0.0.1", "127.0.0.1", "169.254.7.7"] {
                assert!(!allows(primary, metadata), "{metadata}");
            }
        }
    }

    /// Found by `dial_policy`: 0.0.0.0 in another form is this machine on some systems, and not the whole network.
    #[test]
    fn wrapped_forms_of_this_network_are_nobodys() {
        for wrapped in ["::ffff:0.0.0.0", "::ffff:0.0.0.1", "::2", "::ffff:0:0.0.0.0", "64:ff9b::"] {
            assert!(!allows("127.0.0.1", wrapped), "{wrapped}");
        }
    }

    /// Found by `dial_policy`: these blocks do not reach the whole network, whoever owns them.
    #[test]
    fn private_blocks_that_are_easily_forgotten() {
        for private in ["192.0.0.8", "198.19.0.1", "fec0::1", "64:ff9b:1::8.8.8.8", "::ffff:0:10.0.0.1"] {
            assert!(!allows("8.8.8.8", private), "{private}");
            assert!(allows("10.0.0.1", private), "{private}");
        }
    }

    #[test]
    fn ports_of_other_services_are_left_alone() {
        assert!(SERVICES.is_sorted());
        let primary = "8.8.8.8:443".parse().unwrap();
        let at = |port| NotMorePrivate.allows(&DialRequest::new(primary, ([9, 9, 9, 9], port).into()));
        assert!([443, 1024, 4433, 8443, 65_535].into_iter().all(at));
        assert!(![0, 1, 53, 123, 161, 442, 444, 1023, 1900, 5353, 11_211].into_iter().any(at));
        // A server that let the system choose its port is not refused for what it got: 37810 and 47808 once were.
        assert!((32_768..=u16::MAX).all(at));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
    fn an_address_that_fails_is_left_alone_for_longer_and_longer() {
        let (mut failed, mut now) = (FailedDials::default(), Instant::now());
        let address: SocketAddr = "9.9.9.9:443".parse().unwrap();
        for wait in [1, 2, 4, 8, 16, 32, 64, 64].map(Duration::from_secs) {
            assert!(failed.allows(now, address));
            failed.note(address);
            assert!(!failed.allows(now, address), "before it was worked off");
            failed.settle(now);
            assert!(!failed.allows(now + wait - Duration::from_nanos(1), address));
            now += wait;
        }
        failed.forget(address);
        assert!(failed.allows(now - Duration::from_secs(1), address));
        for host in 0..=255 {
            failed.note(([9, 9, 9, host], 443).into());
            failed.settle(now + Duration::from_millis(host.into()));
        }
        assert_eq!(failed.until.len(), limits::FAILED_DIALS_MAX);
        assert!(
            failed.allows(now, ([9, 9, 9, 0], 443).into())
                && !failed.allows(now, ([9, 9, 9, 255], 443).into())
        );
    }

    /// Twice the longest wait after the last one was over.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "the tests' epoch")]
    fn failures_are_forgotten_after_two_minutes_without_one() {
        let address: SocketAddr = "9.9.9.9:443".parse().unwrap();
        let (mut failed, start) = (FailedDials::default(), Instant::now());
        for (quiet, next) in [(127, 4), (128, 1)].map(|(quiet, next)| (quiet, Duration::from_secs(next))) {
            failed.forget(address);
            let mut now = start;
            for wait in [1, 2 + quiet] {
                failed.note(address);
                failed.settle(now);
                now += Duration::from_secs(wait);
            }
            failed.settle(now);
            failed.note(address);
            failed.settle(now);
            assert!(!failed.allows(now + next - Duration::from_nanos(1), address), "{quiet} s");
            assert!(failed.allows(now + next, address), "{quiet} s");
        }
    }

    /// Without its scope a system does not know where a link-local address is.
    #[test]
    fn link_local_servers_are_on_the_primarys_link() {
        let seen = |address: &str, primary: &str| {
            on_link_of(canonical(address.parse().unwrap()), primary.parse().unwrap()).to_string()
        };
        assert_eq!(seen("[fe80::2]:4433", "[fe80::1%3]:443"), "[fe80::2%3]:4433");
        assert_eq!(seen("[fe80::2%7]:4433", "[fe80::1%3]:443"), "[fe80::2%7]:4433");
        assert_eq!(seen("[2001:db8::2]:4433", "[fe80::1%3]:443"), "[2001:db8::2]:4433");
        assert_eq!(seen("[fe80::2]:4433", "[2001:db8::1]:443"), "[fe80::2]:4433");
        assert_eq!(seen("[::ffff:10.0.0.1]:4433", "[fe80::1%3]:443"), "10.0.0.1:4433");
    }

    #[test]
    fn what_nobody_may_dial() {
        for never in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1"] {
            assert!(!allows("127.0.0.1", never), "{never}");
        }
    }
}
