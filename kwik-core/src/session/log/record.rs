//! One record of a JSON text sequence (RFC 7464): nothing but numbers, names of ours and escaped text.

use std::fmt::{self, Write as _};

use smallvec::SmallVec;

use crate::{error::ErrorCode, id::ByteRange};

/// A record being written; its text is appended to a buffer.
#[derive(Debug)]
pub(super) struct Record<'a> {
    out: &'a mut String,
    /// Closing brackets of the objects that are open, innermost last.
    open: SmallVec<[char; 4]>,
    first: bool,
}

impl<'a> Record<'a> {
    /// Begins a record with its separator.
    pub(super) fn new(out: &'a mut String) -> Self {
        out.push_str("\u{1e}{");
        Self { out, open: SmallVec::from_slice(&['}']), first: true }
    }

    /// Adds a number.
    pub(super) fn number(&mut self, name: &str, value: u64) -> &mut Self {
        self.name(name);
        self.put(format_args!("{value}"));
        self
    }

    /// Adds a number, if there is one.
    pub(super) fn maybe(&mut self, name: &str, value: Option<u64>) -> &mut Self {
        if let Some(value) = value {
            self.number(name, value);
        }
        self
    }

    /// Adds a time in milliseconds, exact to the microsecond.
    pub(super) fn millis(&mut self, name: &str, value: std::time::Duration) -> &mut Self {
        self.name(name);
        self.put(format_args!("{}.{:03}", value.as_millis(), value.subsec_micros() % 1000));
        self
    }

    /// Adds a text, escaped where JSON wants it.
    pub(super) fn text(&mut self, name: &str, value: &dyn fmt::Display) -> &mut Self {
        self.name(name);
        self.out.push('"');
        let written = write!(Escaped(self.out), "{value}");
        debug_assert!(written.is_ok(), "a string takes everything");
        self.out.push('"');
        self
    }

    /// Adds a code: its name if it is KWIK's, its number if it is the application's.
    pub(super) fn code(&mut self, value: ErrorCode) -> &mut Self {
        match value.name() {
            Some(name) => self.text("code", &name),
            None => self.number("code", value.into_inner()),
        }
    }

    /// Adds `start` and `end`.
    pub(super) fn range(&mut self, value: ByteRange) -> &mut Self {
        self.number("start", value.start()).number("end", value.end())
    }

    /// Adds a list of ranges, each as `[start, end]`.
    pub(super) fn ranges(&mut self, name: &str, value: &[ByteRange]) -> &mut Self {
        self.name(name);
        self.out.push('[');
        for (index, range) in value.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            self.put(format_args!("{comma}[{},{}]", range.start(), range.end()));
        }
        self.out.push(']');
        self
    }

    /// Adds `true`, if so.
    pub(super) fn flag(&mut self, name: &str, value: bool) -> &mut Self {
        if value {
            self.name(name);
            self.out.push_str("true");
        }
        self
    }

    /// Begins an object inside this one; what follows goes there.
    pub(super) fn object(&mut self, name: &str) -> &mut Self {
        self.name(name);
        self.out.push('{');
        self.open.push('}');
        self.first = true;
        self
    }

    /// Ends the innermost object.
    pub(super) fn end(&mut self) -> &mut Self {
        self.out.extend(self.open.pop());
        self.first = false;
        self
    }

    /// Ends the record.
    pub(super) fn finish(&mut self) {
        while let Some(close) = self.open.pop() {
            self.out.push(close);
        }
        self.out.push('\n');
    }

    fn name(&mut self, name: &str) {
        let comma = if std::mem::take(&mut self.first) { "" } else { "," };
        self.put(format_args!("{comma}\"{name}\":"));
    }

    fn put(&mut self, args: fmt::Arguments<'_>) {
        let written = self.out.write_fmt(args);
        debug_assert!(written.is_ok(), "a string takes everything");
    }
}

/// Escapes what it is given (RFC 8259 §7).
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '"' | '\\' => self.0.extend(['\\', c]),
                '\u{0}'..='\u{1f}' => write!(self.0, "\\u{:04x}", u32::from(c))?,
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn records_are_json() {
        let mut out = String::new();
        let range = |start, end| ByteRange::between(start, end).unwrap();
        let mut record = Record::new(&mut out);
        record.millis("time", Duration::from_nanos(12_034_567)).text("name", &"a \"b\" \\ \n");
        record.object("data").maybe("none", None).maybe("some", Some(1)).flag("no", false).flag("yes", true);
        record.range(range(1, 2)).ranges("missing", &[range(3, 4), range(5, 6)]).ranges("empty", &[]);
        record.object("in").end().code(ErrorCode::PATH_DEAD).finish();
        assert_eq!(
            out,
            concat!(
                "\u{1e}{\"time\":12.034,\"name\":\"a \\\"b\\\" \\\\ \\u000a\",\"data\":{\"some\":1,\"yes\":true,",
                "\"start\":1,\"end\":2,\"missing\":[[3,4],[5,6]],\"empty\":[],\"in\":{},\"code\":\"PATH_DEAD\"}}\n"
            )
        );
    }
}
