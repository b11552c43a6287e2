//! Objects named by `kwik://` addresses, and the addresses behind their hosts.

use std::{fmt, io, net::SocketAddr, str::FromStr};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::{
    failure::{Cause, Failure},
    protocol::{ObjectPath, PORT},
};

const SCHEME: &str = "kwik://";
/// Bytes of a name that mean something else in an address.
const SPECIAL: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'?').add(b'#').add(b'"').add(b'<').add(b'>');

/// An object or a directory on a server: `kwik://HOST[:PORT]/PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remote {
    /// Name or address, without brackets: what the server's certificate is for.
    pub(super) host: String,
    pub(super) port: u16,
    /// `None` is the root.
    pub(super) path: Option<ObjectPath>,
    /// It ends in `/`.
    pub(super) directory: bool,
}

impl Remote {
    /// Resolves the host; at least one address.
    pub(super) async fn addresses(&self) -> Result<Vec<SocketAddr>, Failure> {
        let failed = |why: &dyn fmt::Display| {
            Failure::new(Cause::Unreachable, format!("the host {} is not known: {why}", self.host))
        };
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let addresses: Vec<_> = found.map_err(|error: io::Error| failed(&error))?.collect();
        if addresses.is_empty() { Err(failed(&"it has no address")) } else { Ok(addresses) }
    }
}

impl FromStr for Remote {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("{why}; write kwik://HOST[:PORT]/PATH");
        let rest = text
            .get(..SCHEME.len())
            .filter(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
            .and_then(|_| text.get(SCHEME.len()..))
            .ok_or_else(|| bad("the address does not begin with kwik://"))?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if path.contains(['?', '#']) || authority.contains(['?', '#']) {
            return Err(bad("the address has a query or fragment (% for ? is %3F, for # is %23)"));
        }
        if authority.contains('@') {
            return Err(bad("the address names a user"));
        }
        let (host, port) = split_port(authority).ok_or_else(|| bad("the port is not one"))?;
        if host.is_empty() {
            return Err(bad("the address has no host"));
        }
        let decoded = percent_decode_str(path).decode_utf8().map_err(|_bad| bad("the path is no UTF-8"))?;
        let directory = decoded.is_empty() || decoded.ends_with('/');
        let name = decoded.strip_suffix('/').unwrap_or(&decoded);
        let path = match name {
            "" => None,
            name => {
                Some(ObjectPath::parse(name).map_err(|why| bad(&format!("no object has this name: {why}")))?)
            }
        };
        Ok(Self { host: host.to_owned(), port, path, directory })
    }
}

/// Splits a host from its port. `None` if what should be a port is none.
fn split_port(authority: &str) -> Option<(&str, u16)> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
    } else {
        match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    let port = match port {
        None | Some("") => PORT,
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
            port.parse().ok().filter(|&port| port > 0)?
        }
        Some(_) => return None,
    };
    Some((host, port))
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEME)?;
        if self.host.contains(':') { write!(f, "[{}]", self.host) } else { f.write_str(&self.host) }?;
        if self.port != PORT {
            write!(f, ":{}", self.port)?;
        }
        let path = self.path.as_ref().map_or("", ObjectPath::as_str);
        write!(f, "/{}", utf8_percent_encode(path, SPECIAL))?;
        if self.directory && self.path.is_some() { f.write_str("/") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_again() {
        for (text, host, port, path, directory, shown) in [
            ("kwik://a/b", "a", PORT, Some("b"), false, "kwik://a/b"),
            ("KWIK://a:1/b/c", "a", 1, Some("b/c"), false, "kwik://a:1/b/c"),
            ("kwik://[::1]:9/b/", "::1", 9, Some("b"), true, "kwik://[::1]:9/b/"),
            ("kwik://[::1]/b", "::1", PORT, Some("b"), false, "kwik://[::1]/b"),
            ("kwik://10.0.0.1", "10.0.0.1", PORT, None, true, "kwik://10.0.0.1/"),
            ("kwik://a/x%20y%3F", "a", PORT, Some("x y?"), false, "kwik://a/x%20y%3F"),
            ("kwik://a/100%25", "a", PORT, Some("100%"), false, "kwik://a/100%25"),
        ] {
            let remote: Remote = text.parse().unwrap();
            assert_eq!((remote.host.as_str(), remote.port), (host, port), "{text}");
            assert_eq!(remote.path.as_ref().map(ObjectPath::as_str), path, "{text}");
            assert_eq!(remote.directory, directory, "{text}");
            assert_eq!(remote.to_string(), shown);
            assert_eq!(shown.parse(), Ok(remote));
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "a/b",
            "http://a/b",
            "kwik:/a/b",
            "kwik:///b",
            "kwik://a:0/b",
            "kwik://a:x/b",
            "kwik://a:70000/b",
            "kwik://[::1/b",
            "kwik://[::1]x/b",
            "kwik://::1/b",
            "kwik://u@a/b",
            "kwik://a/b?c",
            "kwik://a/b#c",
            "kwik://a/../b",
            "kwik://a/%2e%2e/b",
            "kwik://a//b",
            "kwik://a/b//",
            "kwik://a/%ff",
            "kwik://a/%00",
        ] {
            assert!(text.parse::<Remote>().is_err(), "{text}");
        }
    }
}
