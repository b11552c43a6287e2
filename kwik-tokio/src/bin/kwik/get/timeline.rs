//! A picture of a transfer: time across, offset up, a colour for each server.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use kwik_tokio::{ByteRange, PathId};

use crate::size::Human;

/// Pieces that are remembered. Beyond, the shortest resolution is doubled and neighbours are joined.
const PIECES_MAX: usize = 16_384;
/// The finest resolution in time.
const STEP: Duration = Duration::from_millis(10);

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 78.0;
const TOP: f64 = 44.0;
const LANE: f64 = 18.0;

/// Told apart by people who see colours differently, too (Okabe and Ito); the primary's first.
const COLORS: [&str; 7] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a7a00"];
const UNKNOWN: &str = "#999999";

/// Ranges by who brought them, and when.
#[derive(Debug)]
pub(super) struct Timeline {
    step: Duration,
    pieces: Vec<Piece>,
    /// The last piece of each run of bytes that goes on: by source and the offset at which it ends.
    open: BTreeMap<(Option<PathId>, u64), usize>,
    marks: Vec<Mark>,
    end: Duration,
    top: u64,
}

/// Bytes that one server brought, one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    source: Option<PathId>,
    start: u64,
    end: u64,
    from: Duration,
    to: Duration,
}

/// Something that befell a server's leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing more came of it.
    Lost,
    /// The primary took it back, to give it to another.
    Stolen,
    /// Another brought the same bytes, on purpose.
    Hedged,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    path: PathId,
    at: Duration,
    fate: Fate,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            step: STEP,
            pieces: Vec::new(),
            open: BTreeMap::new(),
            marks: Vec::new(),
            end: Duration::ZERO,
            top: 0,
        }
    }
}

impl Timeline {
    /// Notes that `range` of everything came from `source` at the time `at`.
    pub(super) fn came(&mut self, source: Option<PathId>, range: ByteRange, at: Duration) {
        self.end = self.end.max(at);
        self.top = self.top.max(range.end());
        let before = self.open.remove(&(source, range.start()));
        let piece = before.and_then(|number| Some((number, self.pieces.get_mut(number)?)));
        let number = match piece {
            Some((number, piece)) if at < piece.from + self.step => {
                (piece.end, piece.to) = (range.end(), at);
                number
            }
            // The run goes on, in a piece that begins where the last one ended.
            Some((_, piece)) => {
                let from = if at < piece.to + 20 * self.step { piece.to } else { at };
                self.push(Piece { source, start: range.start(), end: range.end(), from, to: at })
            }
            None => self.push(Piece { source, start: range.start(), end: range.end(), from: at, to: at }),
        };
        self.open.insert((source, range.end()), number);
        if self.open.len() > 1024 {
            self.open.clear(); // what goes on begins anew
        }
    }

    /// Notes what befell a lease of `path`.
    pub(super) fn mark(&mut self, path: PathId, fate: Fate, at: Duration) {
        self.end = self.end.max(at);
        if self.marks.len() < PIECES_MAX {
            self.marks.push(Mark { path, at, fate });
        }
    }

    fn push(&mut self, piece: Piece) -> usize {
        if self.pieces.len() >= PIECES_MAX {
            self.coarsen();
        }
        self.pieces.push(piece);
        self.pieces.len() - 1
    }

    /// Doubles the step, and joins what continues each other within it.
    fn coarsen(&mut self) {
        self.open.clear();
        self.step *= 2;
        let mut joined: Vec<Piece> = Vec::new();
        let mut ends: BTreeMap<(Option<PathId>, u64), usize> = BTreeMap::new();
        for piece in std::mem::take(&mut self.pieces) {
            let before = ends.remove(&(piece.source, piece.start));
            let before = before.and_then(|number| Some((number, joined.get_mut(number)?)));
            let number = match before {
                Some((number, before)) if piece.to < before.from + self.step => {
                    (before.end, before.to) = (piece.end, piece.to);
                    number
                }
                Some(_) | None => {
                    joined.push(piece);
                    joined.len() - 1
                }
            };
            ends.insert((piece.source, piece.end), number);
        }
        // Where nothing could be joined, the picture would be a cloud anyway: every other piece shows it as well.
        if joined.len() > PIECES_MAX / 2 {
            let mut keep = false;
            joined.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.pieces = joined;
    }

    /// Draws it. `names` are those of the servers.
    pub(super) fn to_svg(&self, title: &str, names: &BTreeMap<PathId, String>) -> String {
        let lanes = names.len().max(1) as f64;
        let height = TOP + HEIGHT + 46.0 + lanes * LANE + 30.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n",
            width = LEFT + WIDTH + 20.0,
        );
        let draw = Draw { timeline: self, names };
        // Writing to a string does not fail.
        draw.all(&mut svg, title).unwrap_or_default();
        svg.push_str("</svg>\n");
        svg
    }
}

struct Draw<'a> {
    timeline: &'a Timeline,
    names: &'a BTreeMap<PathId, String>,
}

impl Draw<'_> {
    fn x(&self, at: Duration) -> f64 {
        LEFT + WIDTH * at.as_secs_f64() / self.timeline.end.as_secs_f64().max(1e-3)
    }

    fn y(&self, offset: u64) -> f64 {
        TOP + HEIGHT - HEIGHT * offset as f64 / self.timeline.top.max(1) as f64
    }

    fn color(&self, path: Option<PathId>) -> &'static str {
        let number = path.and_then(|path| self.names.keys().position(|name| *name == path));
        number.and_then(|number| COLORS.get(number % COLORS.len()).copied()).unwrap_or(UNKNOWN)
    }

    fn all(&self, svg: &mut String, title: &str) -> std::fmt::Result {
        writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"24\" font-size=\"14\" fill=\"#000000\">{}</text>",
            escape(title)
        )?;
        self.axes(svg)?;
        for piece in &self.timeline.pieces {
            self.piece(svg, piece)?;
        }
        self.lanes(svg)
    }

    fn axes(&self, svg: &mut String) -> std::fmt::Result {
        let (bottom, right) = (TOP + HEIGHT, LEFT + WIDTH);
        for part in 0..=4_u32 {
            let offset = self.timeline.top / 4 * u64::from(part);
            let (y, text) = (self.y(offset), Human::bytes(offset));
            writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#dddddd\"/>")?;
            let (x, y) = (LEFT - 6.0, y + 4.0);
            writeln!(svg, "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\" fill=\"#444444\">{text}</text>")?;
        }
        let end = self.timeline.end.as_secs_f64();
        let step = tick(end);
        let mut at = 0.0;
        while at <= end {
            let x = self.x(Duration::from_secs_f64(at));
            let digits = if step < 0.1 { 2 } else { usize::from(step < 1.0) };
            writeln!(svg, "<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#eeeeee\"/>")?;
            let y = bottom + 16.0;
            writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\" fill=\"#444444\">{at:.digits$} s</text>"
            )?;
            at += step;
        }
        writeln!(svg, "<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" stroke=\"#444444\" fill=\"none\"/>")
    }

    /// Draws bytes as a slope, thick enough to be seen.
    fn piece(&self, svg: &mut String, piece: &Piece) -> std::fmt::Result {
        let (x0, x1) = (self.x(piece.from), self.x(piece.to).max(self.x(piece.from) + 1.0));
        let (y0, y1) = (self.y(piece.start), self.y(piece.end));
        let color = self.color(piece.source);
        writeln!(
            svg,
            "<path d=\"M{x0:.1} {y0:.1}L{x1:.1} {y1:.1}\" stroke=\"{color}\" stroke-width=\"2.5\" stroke-linecap=\"round\"/>"
        )
    }

    /// Draws a line for each server below, with its name, its part of all, and what befell its leases.
    fn lanes(&self, svg: &mut String) -> std::fmt::Result {
        let mut bytes: BTreeMap<PathId, u64> = BTreeMap::new();
        for piece in &self.timeline.pieces {
            if let Some(source) = piece.source {
                *bytes.entry(source).or_default() += piece.end - piece.start;
            }
        }
        let all: u64 = self.timeline.pieces.iter().map(|piece| piece.end - piece.start).sum();
        let top = TOP + HEIGHT + 40.0;
        for (lane, (path, name)) in self.names.iter().enumerate() {
            let (y, color) = (top + LANE * lane as f64, self.color(Some(*path)));
            let part = 100.0 * bytes.get(path).copied().unwrap_or_default() as f64 / all.max(1) as f64;
            writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{:.1}\" width=\"12\" height=\"10\" fill=\"{color}\"/>",
                y - 9.0
            )?;
            let x = LEFT + 18.0;
            writeln!(
                svg,
                "<text x=\"{x}\" y=\"{y:.1}\" fill=\"#000000\">{} {part:.0} %</text>",
                escape(name)
            )?;
            for mark in self.timeline.marks.iter().filter(|mark| mark.path == *path) {
                self.mark(svg, mark)?;
            }
        }
        let y = top + LANE * self.names.len() as f64 + 4.0;
        writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"{y:.1}\" fill=\"#444444\">time across, offset up; above the axis: \
             \u{d7} lost, \u{25bc} taken back for another, \u{25c6} brought twice on purpose</text>"
        )
    }

    fn mark(&self, svg: &mut String, mark: &Mark) -> std::fmt::Result {
        let sign = match mark.fate {
            Fate::Lost => "\u{d7}",
            Fate::Stolen => "\u{25bc}",
            Fate::Hedged => "\u{25c6}",
        };
        let (x, y, color) = (self.x(mark.at), TOP - 4.0, self.color(Some(mark.path)));
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\" fill=\"{color}\">{sign}</text>")
    }
}

/// Distance of the marks on the axis of time, in seconds: about eight of them.
fn tick(end: f64) -> f64 {
    let steps = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 3600.0];
    steps.into_iter().find(|step| end / step <= 9.0).unwrap_or(end / 8.0).max(0.01)
}

/// Text between tags.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange::between(start, end).unwrap()
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_goes_on_at_once_is_one_piece() {
        let mut timeline = Timeline::default();
        let a = Some(PathId::PRIMARY);
        let b = Some(PathId::new(1));
        timeline.came(a, range(0, 10), ms(0));
        timeline.came(b, range(100, 110), ms(1));
        timeline.came(a, range(10, 20), ms(2));
        timeline.came(b, range(110, 120), ms(30));
        timeline.came(a, range(20, 30), ms(900));
        let pieces: Vec<_> =
            timeline.pieces.iter().map(|piece| (piece.start, piece.end, piece.from, piece.to)).collect();
        assert_eq!(
            pieces,
            [
                (0, 20, ms(0), ms(2)),
                (100, 110, ms(1), ms(1)),
                (110, 120, ms(1), ms(30)),
                (20, 30, ms(900), ms(900)),
            ]
        );
    }

    #[test]
    fn a_long_transfer_is_remembered_within_bounds() {
        let mut timeline = Timeline::default();
        for n in 0..200_000 {
            timeline.came(Some(PathId::new(1)), range(n * 10, n * 10 + 10), ms(n * 11));
            timeline.came(None, range((1 << 40) + n * 20, (1 << 40) + n * 20 + 10), ms(n * 11));
        }
        assert!(timeline.pieces.len() <= PIECES_MAX);
        assert!(timeline.step > STEP);
        assert!(timeline.to_svg("x", &BTreeMap::new()).len() < 4_000_000);
    }

    #[test]
    fn the_picture_names_the_servers_and_escapes_what_is_theirs() {
        let mut timeline = Timeline::default();
        timeline.came(Some(PathId::PRIMARY), range(0, 30), ms(10));
        timeline.came(Some(PathId::new(1)), range(30, 40), ms(20));
        timeline.mark(PathId::new(1), Fate::Stolen, ms(15));
        let names = [(PathId::PRIMARY, "a <b>".to_owned()), (PathId::new(1), "c".to_owned())].into();
        let svg = timeline.to_svg("<&>", &names);
        assert!(svg.contains("a &lt;b&gt; 75 %") && svg.contains("c 25 %") && svg.contains("&lt;&amp;&gt;"));
        assert!(svg.contains('\u{25bc}') && svg.trim_end().ends_with("</svg>"));
        assert_eq!(svg.matches("stroke-width").count(), 2);
    }

    #[test]
    fn nothing_is_a_picture_too() {
        assert!(Timeline::default().to_svg("nothing", &BTreeMap::new()).contains("nothing"));
    }
}
