//! TOML documents read with their places: every problem is reported at once, each with file, line,
//! column, the line itself and what to do about it.
//!
//! serde stops at the first error and forgets where a value stood once it has it. The gateway's
//! configuration and its schemes are read through [`Section`]s instead: asking for a key also says
//! that the key exists, so what was never asked for is unknown, and the keys that were asked for are
//! the suggestions.

use std::{cell::RefCell, fmt, ops::Range, path::Path, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// How much a [`Problem`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The document cannot be used.
    Error,
    /// The document can be used; the operator should look.
    Warning,
}

/// Something wrong at a place in a document.
#[derive(Clone, Debug)]
pub struct Problem {
    severity: Severity,
    at: Range<usize>,
    message: String,
    help: Option<String>,
}

/// What was wrong with a document, in the order of its lines; printing it shows each place.
#[derive(Clone, Debug)]
pub struct Report {
    name: String,
    text: String,
    problems: Vec<Problem>,
}

impl Report {
    /// A report about a file that could not be read at all.
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

    /// Whether the document cannot be used.
    pub fn is_fatal(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// How many problems of this severity there are.
    pub fn count(&self, severity: Severity) -> usize {
        self.problems.iter().filter(|p| p.severity == severity).count()
    }

    /// The problems as single lines, `file:line:column: severity: message`, for a log.
    pub fn lines(&self) -> impl Iterator<Item = (Severity, String)> + '_ {
        self.problems.iter().map(|problem| {
            let (line, column, _) = place(&self.text, problem.at.start);
            (problem.severity, format!("{}:{line}:{column}: {}", self.name, problem.message))
        })
    }
}

impl std::error::Error for Report {}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            let (line, column, source) = place(&self.text, problem.at.start);
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
                let pad = " ".repeat(column - 1);
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

/// Line and column (both from 1) of a byte offset, and the text of that line.
fn place(text: &str, offset: usize) -> (usize, usize, &str) {
    let offset = offset.min(text.len());
    let start = text[..offset].rfind('\n').map_or(0, |i| i + 1);
    let line = text[..start].matches('\n').count() + 1;
    let source = text[start..].split('\n').next().unwrap_or("").trim_end_matches('\r');
    (line, text[start..offset].chars().count() + 1, source)
}

/// Collects the problems of one document while it is read.
pub struct Reader<'d> {
    name: String,
    text: &'d str,
    problems: RefCell<Vec<Problem>>,
}

impl<'d> Reader<'d> {
    /// Starts reading `text`, called `name` in reports.
    pub fn new(name: impl Into<String>, text: &'d str) -> Self {
        Reader { name: name.into(), text, problems: RefCell::default() }
    }

    /// Parses the document; a syntax error is recorded, and what could be made out is returned.
    pub fn parse(&self) -> Spanned<DeTable<'d>> {
        let (root, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            self.error(error.span().unwrap_or(0..0), error.message(), None);
        }
        root
    }

    /// The top-level section of a parsed document.
    pub fn root<'r>(&'r self, table: &'r Spanned<DeTable<'d>>) -> Section<'r> {
        Section::new(self, table.get_ref(), 0..0, String::new())
    }

    /// Records an error at a byte range of the text.
    pub fn error(&self, at: Range<usize>, message: impl Into<String>, help: Option<String>) {
        let message = message.into();
        self.problems.borrow_mut().push(Problem { severity: Severity::Error, at, message, help });
    }

    /// Records a warning at a byte range of the text.
    pub fn warning(&self, at: Range<usize>, message: impl Into<String>, help: Option<String>) {
        let message = message.into();
        self.problems.borrow_mut().push(Problem { severity: Severity::Warning, at, message, help });
    }

    /// Ends the reading: all problems, sorted by their place.
    pub fn finish(self) -> Report {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|p| (p.at.start, p.severity == Severity::Warning));
        Report { name: self.name, text: self.text.to_owned(), problems }
    }
}

/// One table of a document. Call [`Section::finish`] when every key it may have was asked for.
pub struct Section<'r> {
    reader: &'r Reader<'r>,
    table: &'r DeTable<'r>,
    at: Range<usize>,
    path: String,
    asked: RefCell<Vec<&'static str>>,
}

impl<'r> Section<'r> {
    fn new<'d: 'r>(
        reader: &'r Reader<'d>,
        table: &'r DeTable<'d>,
        at: Range<usize>,
        path: String,
    ) -> Self {
        Section { reader, table, at, path, asked: RefCell::default() }
    }

    /// Where the section stands.
    pub fn at(&self) -> Range<usize> {
        self.at.clone()
    }

    /// The dotted path of the section, empty for the document itself.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Records an error about the section as a whole.
    pub fn error(&self, message: impl Into<String>, help: Option<String>) {
        self.reader.error(self.at.clone(), message, help);
    }

    /// Records a warning about the section as a whole.
    pub fn warning(&self, message: impl Into<String>, help: Option<String>) {
        self.reader.warning(self.at.clone(), message, help);
    }

    /// The value under `key`, if the document has one.
    pub fn get(&self, key: &'static str) -> Option<Field<'r>> {
        self.asked.borrow_mut().push(key);
        let (name, value) = self.table.get_key_value(key)?;
        Some(self.field(name.get_ref(), value))
    }

    /// The value under `key`; its absence is an error.
    pub fn require(&self, key: &'static str) -> Option<Field<'r>> {
        let field = self.get(key);
        if field.is_none() {
            let place = if self.path.is_empty() { "the file" } else { &self.path };
            self.error(format!("`{key}` is missing in {place}"), None);
        }
        field
    }

    /// All keys and values, for tables whose keys are the user's own (no key of it is unknown).
    pub fn entries(&self) -> Vec<(String, Field<'r>)> {
        self.table
            .iter()
            .map(|(key, value)| (key.get_ref().to_string(), self.field(key.get_ref(), value)))
            .collect()
    }

    /// Reports every key that was never asked for, with the nearest one that was.
    pub fn finish(self) {
        let asked = self.asked.borrow();
        for (key, _) in self.table {
            let name: &str = key.get_ref();
            if asked.contains(&name) {
                continue;
            }
            let place =
                if self.path.is_empty() { String::new() } else { format!(" in {}", self.path) };
            let help = nearest(name, asked.iter().copied())
                .map(|near| format!("did you mean `{near}`?"))
                .unwrap_or_else(|| format!("known here: {}", asked.join(", ")));
            self.reader.error(key.span(), format!("unknown key `{name}`{place}"), Some(help));
        }
    }

    fn field(&self, key: &str, value: &'r Spanned<DeValue<'r>>) -> Field<'r> {
        let path =
            if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Field { reader: self.reader, value: value.get_ref(), at: value.span(), path }
    }
}

/// One value of a document.
#[derive(Clone)]
pub struct Field<'r> {
    reader: &'r Reader<'r>,
    value: &'r DeValue<'r>,
    at: Range<usize>,
    path: String,
}

impl<'r> Field<'r> {
    /// Where the value stands.
    pub fn at(&self) -> Range<usize> {
        self.at.clone()
    }

    /// The dotted path of the value.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Records an error about this value.
    pub fn error(&self, message: impl Into<String>, help: Option<String>) {
        self.reader.error(self.at.clone(), message, help);
    }

    /// Records an error about a part of this string value: `part` counts bytes from the first one
    /// after the opening quote.
    pub fn error_within(
        &self,
        part: Range<usize>,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        let start = (self.at.start + 1 + part.start).min(self.at.end);
        let end = (self.at.start + 1 + part.end).clamp(start, self.at.end);
        self.reader.error(start..end, message, help);
    }

    /// Records a warning about this value.
    pub fn warning(&self, message: impl Into<String>, help: Option<String>) {
        self.reader.warning(self.at.clone(), message, help);
    }

    fn expected<T>(&self, what: &str) -> Option<T> {
        let found = self.value.type_str();
        self.error(format!("`{}` must be {what}, not {found}", self.path), None);
        None
    }

    /// Whether the value is a table.
    pub fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// Whether the value is a string.
    pub fn is_text(&self) -> bool {
        self.value.is_str()
    }

    /// The value as a string.
    pub fn text(&self) -> Option<String> {
        match self.value {
            DeValue::String(text) => Some(text.to_string()),
            _ => self.expected("a string"),
        }
    }

    /// The value as `true` or `false`.
    pub fn boolean(&self) -> Option<bool> {
        match self.value {
            DeValue::Boolean(value) => Some(*value),
            _ => self.expected("true or false"),
        }
    }

    /// The value as a whole number within `range`.
    pub fn integer(&self, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let DeValue::Integer(digits) = self.value else {
            return self.expected("a whole number");
        };
        match u64::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(value) if range.contains(&value) => Some(value),
            _ => {
                let (low, high) = (range.start(), range.end());
                let bound = if *high == u64::MAX {
                    format!("at least {low}")
                } else {
                    format!("between {low} and {high}")
                };
                self.error(format!("`{}` must be {bound}", self.path), None);
                None
            }
        }
    }

    /// The value as a time span such as `"250ms"`, `"4.5s"` or `"24h"`.
    pub fn duration(&self) -> Option<Duration> {
        let text = self.text()?;
        let parsed = parse_duration(&text);
        if parsed.is_none() {
            let help = "write a number and a unit: 250ms, 4.5s, 10m, 24h, 7d".to_owned();
            self.error(format!("`{text}` is not a duration"), Some(help));
        }
        parsed
    }

    /// The value as a number of bytes such as `"64KiB"` or `"1MiB"`.
    pub fn size(&self) -> Option<u64> {
        let text = self.text()?;
        let parsed = parse_size(&text);
        if parsed.is_none() {
            let help = "write a number and a unit: 512B, 64KiB, 1MiB, 2GiB".to_owned();
            self.error(format!("`{text}` is not a size"), Some(help));
        }
        parsed
    }

    /// The value as one of a fixed list of words.
    pub fn one_of<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let help = nearest(&text, choices.iter().map(|(word, _)| *word))
            .map(|near| format!("did you mean \"{near}\"?"));
        let words: Vec<_> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let message =
            format!("`{}` must be one of {}, not \"{text}\"", self.path, words.join(", "));
        self.error(message, help);
        None
    }

    /// The value as a table.
    pub fn section(&self) -> Option<Section<'r>> {
        match self.value {
            DeValue::Table(table) => Some(Section {
                reader: self.reader,
                table,
                at: self.at.clone(),
                path: self.path.clone(),
                asked: RefCell::default(),
            }),
            _ => self.expected("a table"),
        }
    }

    /// The elements of a list; any other value counts as a list of one.
    pub fn items(&self) -> Vec<Field<'r>> {
        match self.value {
            DeValue::Array(values) => values
                .iter()
                .map(|value| Field {
                    reader: self.reader,
                    value: value.get_ref(),
                    at: value.span(),
                    path: self.path.clone(),
                })
                .collect(),
            _ => vec![self.clone()],
        }
    }
}

/// Parses `"250ms"`, `"4.5s"`, `"10m"`, `"24h"`, `"7d"`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(unit);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return None,
    };
    let value: f64 = number.parse().ok()?;
    Duration::try_from_secs_f64((value * seconds * 1e6).round() / 1e6).ok()
}

/// Parses `"512B"`, `"64KiB"`, `"1MiB"`, `"2GiB"`.
pub fn parse_size(text: &str) -> Option<u64> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit);
    let bytes: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(bytes)
}

/// The candidate that a mistyped word most likely meant.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_told_at_once_with_their_places() {
        let text = "[server]\nlissten = \"a\"\nidle = \"75x\"\nbody = 3\n";
        let reader = Reader::new("gateway.toml", text);
        {
            let root = reader.parse();
            let root = reader.root(&root);
            let server = root.get("server").and_then(|f| f.section()).expect("a table");
            assert!(server.get("listen").is_none());
            assert!(server.get("idle").and_then(|f| f.duration()).is_none());
            assert!(server.get("body").and_then(|f| f.size()).is_none());
            server.finish();
            root.finish();
        }
        let report = reader.finish().to_string();
        assert!(report.contains("unknown key `lissten` in server"), "{report}");
        assert!(report.contains("did you mean `listen`?"), "{report}");
        assert!(report.contains("gateway.toml:3:8"), "{report}");
        assert!(report.contains("3 | idle = \"75x\"\n  |        ^^^^^"), "{report}");
        assert!(report.contains("must be a string, not integer"), "{report}");
    }

    #[test]
    fn durations_and_sizes() {
        assert_eq!(parse_duration("4.5s"), Some(Duration::from_millis(4500)));
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("5"), None);
        assert_eq!(parse_duration("s"), None);
        assert_eq!(parse_duration("-5s"), None);
        assert_eq!(parse_size("64KiB"), Some(65536));
        assert_eq!(parse_size("1MB"), None);
        assert_eq!(parse_size("99999999999GiB"), None);
    }
}
