//! The dial policy against the tables it must agree with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::source::Source;
use crate::path::dial::{DialPolicy as _, DialRequest, NotMorePrivate};

/// Rows of a table: the bits a prefix starts with, its length, and how far an address in it reaches. Larger is more
/// private, `NEVER` is nowhere.
type Table<T> = [(T, u32, u8)];

const GLOBAL: u8 = 0;
const PRIVATE: u8 = 1;
const LINK: u8 = 2;
const LOOPBACK: u8 = 3;
const NEVER: u8 = 4;

/// The blocks of IANA's special-purpose registry that do not reach the whole network.
const V4: &Table<[u8; 4]> = &[
    ([0, 0, 0, 0], 8, NEVER),
    ([10, 0, 0, 0], 8, PRIVATE),
    ([100, 64, 0, 0], 10, PRIVATE),
    ([127, 0, 0, 0], 8, LOOPBACK),
    ([169, 254, 169, 254], 32, NEVER),
    ([169, 254, 0, 0], 16, LINK),
    ([172, 16, 0, 0], 12, PRIVATE),
    ([192, 0, 0, 0], 24, PRIVATE),
    ([192, 168, 0, 0], 16, PRIVATE),
    ([198, 18, 0, 0], 15, PRIVATE),
    ([224, 0, 0, 0], 4, NEVER),
    ([240, 0, 0, 0], 4, NEVER),
];

/// The same for IPv6, where no IPv4 address is inside.
const V6: &Table<[u16; 8]> = &[
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, NEVER),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, LOOPBACK),
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, PRIVATE),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, PRIVATE),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, LINK),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, PRIVATE),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, NEVER),
];

/// Prefixes of IPv6 with an IPv4 address inside: their length, and the bit the address starts at.
const EMBEDDING: &[([u16; 8], u32, u32)] = &[
    ([0, 0, 0, 0, 0, 0, 0, 0], 96, 96),
    ([0, 0, 0, 0, 0, 0xffff, 0, 0], 96, 96),
    ([0, 0, 0, 0, 0xffff, 0, 0, 0], 96, 96),
    ([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, 96),
];

/// Prefixes of IPv6 whose packets are tunnelled over IPv4: their length, where the far end's address starts, and whether
/// its bits are turned round.
const TUNNELS: &[([u16; 8], u32, u32, bool)] = &[
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, 32, false),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, 96, true),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, 16, false),
];

/// The third quarter of an ISATAP address, but for one bit.
const ISATAP: u32 = 0x5efe;

/// Asks whether a primary at one address may name another, both made of `data`.
///
/// # Panics
/// If the answer is not that of the tables.
pub fn dial_policy(data: &[u8]) {
    let mut source = Source::new(data);
    let primary = address(&mut source);
    let named = address(&mut source);
    let source = source.rarely(2).then(|| own(&mut source, primary.ip(), named.ip()));
    let near = |ip: IpAddr| match (ip, source) {
        (IpAddr::V6(ip), Some(IpAddr::V6(own))) => {
            ip.octets().iter().zip(own.octets()).take(8).all(|(a, b)| *a == b)
        }
        _ => false,
    };
    let reach = |ip| reach(ip).max(if near(ip) { PRIVATE } else { GLOBAL });
    let (ours, theirs) = (reach(primary.ip()), reach(named.ip()));
    let expected = ours != NEVER
        && theirs != NEVER
        && theirs <= ours
        && (theirs != LINK || ours == LINK)
        && [443, 4433, 65_535].contains(&named.port());
    let request = DialRequest { source, ..DialRequest::new(primary, named) };
    assert_eq!(NotMorePrivate.allows(&request), expected, "{request:?}");
}

/// An address of the client's own, most often in the network of one of the others.
fn own(source: &mut Source<'_>, primary: IpAddr, named: IpAddr) -> IpAddr {
    match source.pick(&[primary, named, IpAddr::V4(Ipv4Addr::LOCALHOST)]) {
        IpAddr::V6(ip) => Ipv6Addr::from((ip.to_bits() >> 64 << 64) | u128::from(source.any::<u64>())).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

/// Any address, most often one near the edge of a block.
fn address(source: &mut Source<'_>) -> SocketAddr {
    let port = source.pick(&[443, 0, 1, 65_535, 4433, 1023, 5353, 11_211]);
    let ip = match source.below(4) {
        0 => IpAddr::from(source.any::<[u8; 4]>()),
        1 => IpAddr::from(source.any::<[u8; 16]>()),
        2 => IpAddr::from(near_v4(source)),
        _ => IpAddr::from(near_v6(source)),
    };
    SocketAddr::new(ip, port)
}

/// The first or last address of a block, or a neighbour.
fn near_v4(source: &mut Source<'_>) -> Ipv4Addr {
    let (prefix, len, _) = source.pick(V4);
    let first = u32::from_be_bytes(prefix);
    let last = first | u32::MAX.checked_shr(len).unwrap_or(0);
    Ipv4Addr::from(source.pick(&[first, last]).wrapping_add(source.pick(&[0, 1, u32::MAX])))
}

fn near_v6(source: &mut Source<'_>) -> Ipv6Addr {
    if source.rarely(2) {
        let (prefix, _, at) = source.pick(EMBEDDING);
        let inside = u128::from(u32::from(near_v4(source))) << (96 - at);
        return Ipv6Addr::from(Ipv6Addr::from(prefix).to_bits() | inside);
    }
    if source.rarely(2) {
        let (prefix, _, at, turned) = source.pick(TUNNELS);
        let end = u32::from(near_v4(source));
        let end = u128::from(if turned { !end } else { end }) << (96 - at);
        let other = u128::from(u32::from(near_v4(source))) << source.pick(&[0, 64]);
        return Ipv6Addr::from(Ipv6Addr::from(prefix).to_bits() | end | other);
    }
    let (prefix, len, _) = source.pick(V6);
    let first = Ipv6Addr::from(prefix).to_bits();
    let last = first | u128::MAX.checked_shr(len).unwrap_or(0);
    if source.rarely(4) {
        let isatap = u128::from(ISATAP | source.pick(&[0, 0x200_0000])) << 32;
        let inside = u128::from(u32::from(near_v4(source)));
        return Ipv6Addr::from((source.pick(&[first, last]) >> 64 << 64) | isatap | inside);
    }
    Ipv6Addr::from(source.pick(&[first, last]).wrapping_add(source.pick(&[0, 1, u128::MAX])))
}

/// Reach of an address, by the tables alone.
fn reach(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(ip) => reach_v4(ip),
        IpAddr::V6(ip) => {
            let bits = ip.to_bits();
            let starts = |prefix: [u16; 8], len: u32| {
                (bits ^ Ipv6Addr::from(prefix).to_bits()).checked_shr(128 - len).unwrap_or(0) == 0
            };
            let outer = V6.iter().find(|(prefix, len, _)| starts(*prefix, *len)).map(|row| row.2);
            let inside = EMBEDDING.iter().find(|(prefix, len, _)| starts(*prefix, *len));
            if let (None, Some((_, _, at))) = (outer, inside) {
                return reach_v4(v4_at(bits, *at));
            }
            let ends = TUNNELS.iter().filter(|(prefix, len, ..)| starts(*prefix, *len));
            let ends = ends.map(|&(.., at, turned)| v4_at(if turned { !bits } else { bits }, at));
            let third = u32::from(v4_at(bits, 64));
            let teredo = starts([0x2001, 0, 0, 0, 0, 0, 0, 0], 32);
            let isatap = third & !0x200_0000 == ISATAP && !teredo;
            let isatap = isatap.then(|| v4_at(bits, 96));
            let worst = ends.chain(isatap).map(reach_v4).max();
            outer.unwrap_or(GLOBAL).max(worst.unwrap_or(GLOBAL))
        }
    }
}

fn v4_at(bits: u128, at: u32) -> Ipv4Addr {
    let [a, b, c, d, ..] = (bits << at).to_be_bytes();
    Ipv4Addr::new(a, b, c, d)
}

fn reach_v4(ip: Ipv4Addr) -> u8 {
    let starts = |prefix: [u8; 4], len: u32| {
        (ip.to_bits() ^ u32::from_be_bytes(prefix)).checked_shr(32 - len).unwrap_or(0) == 0
    };
    V4.iter().find(|(prefix, len, _)| starts(*prefix, *len)).map_or(GLOBAL, |row| row.2)
}
