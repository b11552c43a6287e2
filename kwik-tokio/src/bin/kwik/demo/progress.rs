//! Progress on standard error while the transfer runs.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::{Mutex, PoisonError},
};

use crate::size::Human;

/// A line that is drawn over and over, and notes that stay.
#[derive(Debug)]
pub(super) struct Progress {
    terminal: bool,
    /// Set while the line is on the screen. Also keeps notes and line apart.
    drawn: Mutex<bool>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), drawn: Mutex::new(false) }
    }

    /// Says how far the transfer is: `bytes` is what each server has supplied, the primary first. On a terminal only.
    pub(super) fn draw(&self, received: u64, size: u64, seconds: f64, bytes: &[u64]) {
        if self.terminal {
            self.print(&line(received, size, seconds, bytes), true);
        }
    }

    /// Says something that stays.
    pub(super) fn note(&self, text: &str) {
        self.print(&format!("kwik: {text}\n"), false);
    }

    /// Removes the line.
    pub(super) fn clear(&self) {
        self.print("", false);
    }

    fn print(&self, text: &str, drawn: bool) {
        let mut was_drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let erase = if *was_drawn { "\r\x1b[K" } else { "" };
        *was_drawn = drawn;
        // Without a standard error there is nobody to tell.
        let mut stderr = io::stderr().lock();
        write!(stderr, "{erase}{text}").and_then(|()| stderr.flush()).unwrap_or_default();
    }
}

fn line(received: u64, size: u64, seconds: f64, bytes: &[u64]) -> String {
    let part = |of: u64, all: u64| 100.0 * of as f64 / all.max(1) as f64;
    let all = bytes.iter().sum();
    let mut line = format!(
        "{:3.0}%  {} of {}  {}/s ",
        part(received, size),
        Human::bytes(received),
        Human::bytes(size),
        Human(received as f64 / seconds.max(1e-3)),
    );
    for (server, &bytes) in bytes.iter().enumerate() {
        let name = if server == 0 { "primary".to_owned() } else { format!("s{server}") };
        line.push_str(&format!(" {name} {:.0}%", part(bytes, all)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_shows_each_share() {
        let mib = 1 << 20;
        assert_eq!(
            line(100 * mib, 400 * mib, 2.0, &[50 * mib, 25 * mib, 25 * mib]),
            " 25%  100.0 MiB of 400.0 MiB  50.0 MiB/s  primary 50% s1 25% s2 25%"
        );
        assert_eq!(line(0, 0, 0.0, &[0]), "  0%  0 B of 0 B  0 B/s  primary 0%");
    }
}
