//! Which addresses a server may make a client dial. Spec: KWIK §9.
//!
//! A server must not turn clients into scanners of networks that only the client can reach.

use std::{
    fmt::Debug,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Decides whether a client dials an address that its primary named.
pub trait DialPolicy: Debug + Send + Sync {
    /// Returns whether to dial `address`. `primary` is where the session's primary is.
    fn allows(&self, primary: SocketAddr, address: SocketAddr) -> bool;
}

/// The default: never an address class more private than the primary's own.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct NotMorePrivate;

impl DialPolicy for NotMorePrivate {
    fn allows(&self, primary: SocketAddr, address: SocketAddr) -> bool {
        address.port() != 0
            && class(address.ip()).is_some_and(|c| class(primary.ip()).is_some_and(|p| c <= p))
    }
}

/// How far an address reaches, widest first.
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
            None => class_v6(ip),
        },
    }
}

fn class_v4(ip: Ipv4Addr) -> Option<Class> {
    let [a, b, c, _] = ip.octets();
    if a == 0 || a >= 224 {
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

/// Unwraps the forms that carry an IPv4 address: mapped, compatible, translated, 6to4 and NAT64.
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None, // nobody, and this machine
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(primary: &str, address: &str) -> bool {
        let primary = SocketAddr::new(primary.parse().unwrap(), 443);
        NotMorePrivate.allows(primary, SocketAddr::new(address.parse().unwrap(), 4433))
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
    fn what_nobody_may_dial() {
        for never in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1"] {
            assert!(!allows("127.0.0.1", never), "{never}");
        }
    }
}
