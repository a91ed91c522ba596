//! Problems found in a document, and how they are shown.

use std::{fmt, iter, ops::Range, path::Path};

/// The severity of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The document cannot be used.
    Error,
    /// The document can be used, but the operator should check the reported value.
    Warning,
}

/// A problem at a location in a document.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) severity: Severity,
    pub(super) at: Range<usize>,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

/// The problems of a document, ordered by line. `Display` shows each with its source line.
#[derive(Clone, Debug)]
pub struct Report {
    name: String,
    /// The document, with concealed values overwritten.
    text: String,
    problems: Vec<Problem>,
}

impl Report {
    pub(super) fn new(
        name: String,
        text: &str,
        mut problems: Vec<Problem>,
        concealed: Vec<Range<usize>>,
    ) -> Self {
        problems.sort_by_key(|p| (p.at.start, p.severity == Severity::Warning));
        Report { name, text: overwritten(text, concealed), problems }
    }

    /// Returns a report about a file that could not be read.
    pub fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        Report {
            name: path.display().to_string(),
            text: String::new(),
            problems: vec![Problem {
                severity: Severity::Error,
                at: 0..0,
                message: format!("cannot be read: {error}"),
                help: None,
            }],
        }
    }

    /// Returns whether the report contains an error, so that the document cannot be used.
    pub fn is_fatal(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// Returns the number of problems of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.problems.iter().filter(|p| p.severity == severity).count()
    }

    /// Returns the problems as single lines for a log: `file:line:column: message`.
    pub fn lines(&self) -> impl Iterator<Item = (Severity, String)> + '_ {
        let lines = Lines::of(&self.text);
        self.problems.iter().map(move |problem| {
            let (line, column, _) = lines.place(&self.text, problem.at.start);
            (problem.severity, format!("{}:{line}:{column}: {}", self.name, problem.message))
        })
    }
}

impl std::error::Error for Report {}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = Lines::of(&self.text);
        for problem in &self.problems {
            let (line, column, source) = lines.place(&self.text, problem.at.start);
            let severity = match problem.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            writeln!(f, "{severity}: {}", problem.message)?;
            writeln!(f, "  --> {}:{line}:{column}", self.name)?;
            if !self.text.is_empty() {
                let margin = line.to_string().len();
                let room = source.chars().count().saturating_sub(column - 1).max(1);
                let length = self.text.get(problem.at.clone()).map_or(1, |s| s.chars().count());
                let caret = "^".repeat(length.clamp(1, room));
                // The terminal decides how wide a tab is, so the caret's line repeats it.
                let blank = |c| if c == '\t' { c } else { ' ' };
                let pad: String = source.chars().take(column - 1).map(blank).collect();
                writeln!(f, "{:margin$} |", "")?;
                writeln!(f, "{line} | {source}")?;
                writeln!(f, "{:margin$} | {pad}{caret}", "")?;
            }
            if let Some(help) = &problem.help {
                writeln!(f, "  help: {help}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Returns the first line of a message, without control characters. Messages quote values, and an
/// unterminated string may span the lines of other keys.
pub(super) fn one_line(message: &str) -> String {
    let (first, cut) = match message.split_once('\n') {
        Some((first, _)) => (first, "…"),
        None => (message, ""),
    };
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    first.chars().map(visible).chain(cut.chars()).collect()
}

/// The offsets at which the lines of a text begin, computed once for all problems.
pub(super) struct Lines(Vec<usize>);

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        let ends = memchr::memchr_iter(b'\n', text.as_bytes());
        Lines(iter::once(0).chain(ends.map(|end| end + 1)).collect())
    }

    /// Returns the line of a byte offset, counted from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset)
    }

    /// Returns the line and column (both counted from 1) of a byte offset of `text`, and the text
    /// of that line. `text` is the document as it was read.
    fn place<'t>(&self, text: &'t str, offset: usize) -> (usize, usize, &'t str) {
        let offset = text.floor_char_boundary(offset);
        let line = self.line(offset);
        let start = self.0[line - 1];
        let source = text[start..].split('\n').next().unwrap_or("").trim_end_matches('\r');
        (line, text[start..offset].chars().count() + 1, source)
    }
}

/// Returns the range that may be a value on the line of a byte offset: everything after `key =`,
/// the whole line if it has no key, or nothing if the line is a heading.
pub(super) fn value_of_line(text: &str, offset: usize) -> Range<usize> {
    let offset = text.floor_char_boundary(offset);
    let start = text[..offset].rfind('\n').map_or(0, |i| i + 1);
    let end = text[start..].find('\n').map_or(text.len(), |i| start + i);
    let line = &text[start..end];
    let is_key = |c: char| c.is_ascii_alphanumeric() || " \t_-.".contains(c);
    let heading = line.trim_start().starts_with('[') && !line.contains(['=', '"', '\'', ',']);
    match line.split_once('=') {
        Some((key, _)) if key.chars().all(is_key) => start + key.len() + 1..end,
        None if heading => end..end,
        Some(_) | None => start..end,
    }
}

/// Returns the key of the line of a byte offset, if its value seems to be text without quotes, such
/// as an address.
pub(super) fn unquoted_key(text: &str, offset: usize) -> Option<&str> {
    let offset = text.floor_char_boundary(offset);
    let start = text[..offset].rfind('\n').map_or(0, |i| i + 1);
    let (key, value) = text[start..].lines().next()?.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let is_key = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let is_bare = value.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
    (is_bare && key.chars().all(is_key)).then_some(key)
}

/// Returns the text with every letter and digit in these ranges overwritten. Length and line breaks
/// stay the same.
fn overwritten(text: &str, mut ranges: Vec<Range<usize>>) -> String {
    ranges.sort_unstable_by_key(|range| range.start);
    let (mut ranges, mut end) = (ranges.into_iter().peekable(), 0);
    let mut hidden = |at: usize| {
        while let Some(range) = ranges.next_if(|range| range.start <= at) {
            end = end.max(range.end);
        }
        at < end
    };
    let mask = |(at, c): (usize, char)| match c.len_utf8() {
        _ if !hidden(at) => c,
        1 if !c.is_ascii_alphanumeric() => c,
        1 => '*',
        2 => '×',
        3 => '•',
        _ => '𝟎',
    };
    text.char_indices().map(mask).collect()
}
