//! Report at the end: a table for people, or one JSON object for programs.

use std::{fmt, io, net::SocketAddr};

use blake3::Hash;
use serde_json::json;

use super::roster;
use crate::size::Human;

/// The outcome of a transfer.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) bytes: u64,
    /// Time from the request to the last byte.
    pub(super) seconds: f64,
    /// The whole command, hashing included.
    pub(super) command_seconds: f64,
    pub(super) ordered: bool,
    /// BLAKE3 of what the servers read.
    pub(super) source_hash: Hash,
    /// BLAKE3 of what the client wrote; `None` if it is not even as long.
    pub(super) result_hash: Option<Hash>,
    pub(super) peak_rss_mib: Option<f64>,
    pub(super) client_buffer_mib: f64,
    /// The primary first.
    pub(super) servers: Vec<Share>,
}

/// Contribution of one server.
#[derive(Clone, Debug)]
pub(super) struct Share {
    pub(super) address: SocketAddr,
    pub(super) bytes: u64,
    pub(super) leases_done: u64,
    pub(super) leases_lost: u64,
    /// The state of its path at the end.
    pub(super) state: String,
    pub(super) killed: bool,
}

impl Report {
    /// Returns whether what the client wrote is what the servers read.
    pub(super) fn verified(&self) -> bool {
        self.result_hash == Some(self.source_hash)
    }

    /// Writes one JSON object on one line.
    pub(super) fn write_json(&self, to: &mut impl io::Write) -> io::Result<()> {
        let servers: Vec<_> = self
            .servers
            .iter()
            .enumerate()
            .map(|(index, server)| {
                json!({
                    "role": if index == 0 { "primary" } else { "secondary" },
                    "address": server.address.to_string(),
                    "bytes": server.bytes,
                    "share": self.share(server),
                    "leases_done": server.leases_done,
                    "leases_lost": server.leases_lost,
                    "state": server.state,
                })
            })
            .collect();
        let killed = self.servers.iter().position(|server| server.killed);
        let report = json!({
            "bytes": self.bytes,
            "seconds": self.seconds,
            "command_seconds": self.command_seconds,
            "verified": self.verified(),
            "blake3": self.result_hash.map(|hash| hash.to_hex().to_string()),
            "ordered": self.ordered,
            "peak_rss_mib": self.peak_rss_mib,
            "client_buffer_mib": self.client_buffer_mib,
            "killed": killed.map(roster::name),
            "servers": servers,
        });
        writeln!(to, "{report}")
    }

    /// A server's part of the bytes, 0 to 1.
    fn share(&self, server: &Share) -> f64 {
        server.bytes as f64 / self.bytes.max(1) as f64
    }

    fn rate(&self, bytes: u64) -> String {
        format!("{}/s", Human(bytes as f64 / self.seconds.max(1e-6)))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head =
            ["server", "address", "bytes", "share", "rate", "leases", "lost", "state"].map(String::from);
        let mut rows = vec![head];
        for (index, server) in self.servers.iter().enumerate() {
            let state =
                if server.killed { format!("killed, {}", server.state) } else { server.state.clone() };
            rows.push([
                roster::name(index),
                server.address.to_string(),
                Human::bytes(server.bytes).to_string(),
                format!("{:.1} %", 100.0 * self.share(server)),
                self.rate(server.bytes),
                server.leases_done.to_string(),
                server.leases_lost.to_string(),
                state,
            ]);
        }
        let sum = |of: fn(&Share) -> u64| self.servers.iter().map(of).sum::<u64>();
        let bytes = sum(|server| server.bytes);
        rows.push([
            "total".into(),
            String::new(),
            Human::bytes(bytes).to_string(),
            format!("{:.1} %", 100.0 * bytes as f64 / self.bytes.max(1) as f64),
            self.rate(bytes),
            sum(|server| server.leases_done).to_string(),
            sum(|server| server.leases_lost).to_string(),
            String::new(),
        ]);
        write_table(f, &rows)?;
        writeln!(
            f,
            "\n{} bytes in {:.3} s ({}), read {}; the whole command took {:.1} s",
            self.bytes,
            self.seconds,
            self.rate(self.bytes),
            if self.ordered { "in order" } else { "as they came" },
            self.command_seconds,
        )?;
        write!(f, "client buffer at most {:.1} MiB", self.client_buffer_mib)?;
        match self.peak_rss_mib {
            Some(mib) => writeln!(f, ", memory of the whole process at most {mib:.0} MiB")?,
            None => writeln!(f)?,
        }
        match self.result_hash {
            Some(hash) if hash == self.source_hash => writeln!(f, "verified BLAKE3 {hash}"),
            Some(hash) => writeln!(f, "NOT VERIFIED: BLAKE3 {hash} instead of {}", self.source_hash),
            None => writeln!(f, "NOT VERIFIED: the result has another length"),
        }
    }
}

/// Columns of text to the left, of numbers to the right.
fn write_table<const N: usize>(f: &mut fmt::Formatter<'_>, rows: &[[String; N]]) -> fmt::Result {
    let numbers = 2..7;
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let cell = if numbers.contains(&column) {
                format!("{cell:>width$}  ")
            } else {
                format!("{cell:<width$}  ")
            };
            line.push_str(&cell);
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

/// The most memory this process has had, in MiB, where the system tells.
pub(super) fn peak_rss_mib() -> Option<f64> {
    vm_hwm(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// Finds the peak in what Linux tells of a process; proc(5).
fn vm_hwm(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(bytes: u64, result: &[u8]) -> Report {
        let server = |port, bytes, killed| Share {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            bytes,
            leases_done: 3,
            leases_lost: u64::from(killed),
            state: if killed { "degraded" } else { "active" }.into(),
            killed,
        };
        Report {
            bytes,
            seconds: 0.5,
            command_seconds: 1.25,
            ordered: false,
            source_hash: blake3::hash(b"object"),
            result_hash: Some(blake3::hash(result)),
            peak_rss_mib: Some(64.0),
            client_buffer_mib: 1.5,
            servers: vec![server(1000, bytes - bytes / 4, false), server(20000, bytes / 4, true)],
        }
    }

    #[test]
    fn json_is_one_line_with_every_field() {
        let mut line = Vec::new();
        report(4096, b"object").write_json(&mut line).unwrap();
        assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["verified"], true);
        assert_eq!((&value["bytes"], &value["killed"]), (&json!(4096), &json!("secondary 1")));
        assert_eq!(value["servers"][0]["share"], 0.75);
        assert_eq!(value["servers"][1]["role"], "secondary");
        assert_eq!(value["servers"][1]["leases_lost"], 1);
    }

    #[test]
    fn the_table_is_aligned() {
        let text = report(4 << 20, b"object").to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "server       address            bytes    share       rate  leases  lost  state"
        );
        assert_eq!(
            lines[1],
            "primary      127.0.0.1:1000   3.0 MiB   75.0 %  6.0 MiB/s       3     0  active"
        );
        assert_eq!(
            lines[2],
            "secondary 1  127.0.0.1:20000  1.0 MiB   25.0 %  2.0 MiB/s       3     1  killed, degraded"
        );
        assert!(text.contains("verified BLAKE3") && !text.contains("NOT"));
    }

    #[test]
    fn other_bytes_are_not_verified() {
        let report = report(4096, b"objecT");
        assert!(!report.verified() && report.to_string().contains("NOT VERIFIED"));
        assert!(report_empty().to_string().contains("0 bytes"));
    }

    fn report_empty() -> Report {
        report(0, b"object")
    }

    #[test]
    fn the_peak_is_found() {
        assert_eq!(vm_hwm("Name:\tkwik\nVmHWM:\t   65536 kB\nVmRSS:\t 1 kB\n"), Some(64.0));
        assert_eq!(vm_hwm("Name:\tkwik\n"), None);
    }
}
