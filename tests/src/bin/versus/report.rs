//! Figures of all runs: medians with their spread, as a table or as JSON.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::Duration,
};

use serde_json::{Value, json};

use crate::meter::Used;

/// The contender that the others are compared with.
pub(crate) const BASE: &str = "quinn";

/// Unit of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Millions of bytes of payload a second.
    MegabytesPerSecond,
    /// Answered requests a second.
    RequestsPerSecond,
    /// Completed handshakes a second.
    ConnectsPerSecond,
    /// Millionths of a second; less is better.
    Microseconds,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::MegabytesPerSecond => "MB/s",
            Self::RequestsPerSecond => "requests/s",
            Self::ConnectsPerSecond => "connects/s",
            Self::Microseconds => "us",
        }
    }
}

/// One run's figure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    value: f64,
    unit: Unit,
    /// Processor seconds per gigabyte of payload, for runs that move much of it.
    cpu_s_per_gb: Option<f64>,
    rss_mib: f64,
    switches: f64,
}

#[expect(clippy::cast_precision_loss, reason = "figures for humans")]
impl Measured {
    /// The rate at which `bytes` were moved.
    pub(crate) fn rate(bytes: u64, used: &Used) -> Self {
        let cpu = used.cpu.as_secs_f64() / (bytes as f64 / 1e9);
        let value = bytes as f64 / used.wall.as_secs_f64() / 1e6;
        Self { cpu_s_per_gb: Some(cpu), ..Self::new(value, Unit::MegabytesPerSecond, used) }
    }

    /// The rate at which `count` of something were done.
    pub(crate) fn count(count: u64, unit: Unit, used: &Used) -> Self {
        Self::new(count as f64 / used.wall.as_secs_f64(), unit, used)
    }

    /// The time that something took.
    pub(crate) fn time(took: Duration, used: &Used) -> Self {
        Self::new(took.as_secs_f64() * 1e6, Unit::Microseconds, used)
    }

    fn new(value: f64, unit: Unit, used: &Used) -> Self {
        let rss_mib = used.resident as f64 / 1024.0 / 1024.0;
        Self { value, unit, cpu_s_per_gb: None, rss_mib, switches: used.switches as f64 }
    }
}

/// All figures, by what was done and by whom, in the order in which they were first seen.
#[derive(Default)]
pub(crate) struct Report {
    order: Vec<(&'static str, &'static str)>,
    runs: BTreeMap<(&'static str, &'static str), Vec<Measured>>,
}

impl Report {
    pub(crate) fn add(&mut self, row: &'static str, contender: &'static str, measured: Measured) {
        let runs = self.runs.entry((row, contender)).or_insert_with(|| {
            self.order.push((row, contender));
            Vec::new()
        });
        runs.push(measured);
    }

    /// The median of how much more each run reached than the base's of the same round.
    fn ratio(&self, row: &'static str, contender: &'static str) -> Option<f64> {
        let (mine, base) = (self.runs.get(&(row, contender))?, self.runs.get(&(row, BASE))?);
        let ratios = mine.iter().zip(base).map(|(mine, base)| mine.value / base.value);
        Some(median(ratios.collect()))
    }

    fn lines(&self) -> Vec<Line> {
        let order = self.order.iter();
        let lines = order.filter_map(|&(row, contender)| {
            let runs = self.runs.get(&(row, contender))?;
            let of = |figure: fn(&Measured) -> Option<f64>| -> Vec<f64> {
                runs.iter().filter_map(figure).collect()
            };
            let mut values = of(|run| Some(run.value));
            values.sort_by(f64::total_cmp);
            let cpu = of(|run| run.cpu_s_per_gb);
            Some(Line {
                row,
                contender,
                unit: runs.first()?.unit,
                least: *values.first()?,
                most: *values.last()?,
                value: median(values),
                ratio: self.ratio(row, contender),
                cpu_s_per_gb: (!cpu.is_empty()).then(|| median(cpu)),
                rss_mib: median(of(|run| Some(run.rss_mib))),
                switches: median(of(|run| Some(run.switches))),
            })
        });
        lines.collect()
    }

    /// Prints a table.
    pub(crate) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "{:<14} {:<18} {:>9} {:>19} {:<10} {:>8} {:>9} {:>8} {:>9}",
            "row",
            "contender",
            "median",
            "[min .. max]",
            "unit",
            "x quinn",
            "cpu s/GB",
            "rss MiB",
            "switches"
        )?;
        let mut last = "";
        for line in self.lines() {
            if last != line.row && !last.is_empty() {
                writeln!(out)?;
            }
            last = line.row;
            let optional =
                |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
            writeln!(
                out,
                "{:<14} {:<18} {:>9.1} {:>19} {:<10} {:>8} {:>9} {:>8.1} {:>9.0}",
                line.row,
                line.contender,
                line.value,
                format!("[{:.1} .. {:.1}]", line.least, line.most),
                line.unit.name(),
                optional(line.ratio),
                optional(line.cpu_s_per_gb),
                line.rss_mib,
                line.switches,
            )?;
        }
        Ok(())
    }

    pub(crate) fn json(&self) -> Value {
        let rows = self.lines().into_iter().map(|line| {
            json!({
                "name": line.row,
                "contender": line.contender,
                "value": line.value,
                "min": line.least,
                "max": line.most,
                "unit": line.unit.name(),
                "ratio_to_quinn": line.ratio,
                "cpu_s_per_gb": line.cpu_s_per_gb,
                "rss_mib": line.rss_mib,
                "context_switches": line.switches,
            })
        });
        json!({ "rows": rows.collect::<Vec<_>>() })
    }
}

struct Line {
    row: &'static str,
    contender: &'static str,
    unit: Unit,
    value: f64,
    least: f64,
    most: f64,
    ratio: Option<f64>,
    cpu_s_per_gb: Option<f64>,
    rss_mib: f64,
    switches: f64,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
