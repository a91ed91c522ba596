//! One value of a document, and the syntax of durations and sizes.

use std::{
    fmt::Display,
    ops::{Range, RangeInclusive},
    time::Duration,
};

use toml::de::DeValue;

use super::{Reader, Section, digest};

/// Longer durations are mistakes, and would overflow the clock to which they are added.
const LONGEST: Duration = Duration::from_secs(3660 * 86_400);

/// One value of a document.
#[derive(Clone)]
pub struct Field<'r> {
    reader: &'r Reader<'r>,
    value: &'r DeValue<'r>,
    at: Range<usize>,
    path: String,
}

impl<'r> Field<'r> {
    pub(super) fn new(
        reader: &'r Reader<'r>,
        value: &'r DeValue<'r>,
        at: Range<usize>,
        path: String,
    ) -> Self {
        Field { reader, value, at, path }
    }

    /// Returns the location of the value.
    pub fn at(&self) -> Range<usize> {
        self.at.clone()
    }

    /// Returns the line on which the value begins, counted from 1.
    pub fn line(&self) -> usize {
        self.reader.line(self.at.start)
    }

    /// Returns the dotted path of the value.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns a digest of the value, by which a reload detects a change.
    pub fn digest(&self) -> [u8; 32] {
        digest::digest(self.value)
    }

    /// Keeps the value, or every value of the table, out of every report.
    pub fn conceal(&self) {
        match self.value {
            DeValue::Table(table) => {
                for (_, value) in table {
                    let path = String::new();
                    Field::new(self.reader, value.get_ref(), value.span(), path).conceal();
                }
            }
            _ => self.reader.concealed.borrow_mut().push(self.at.clone()),
        }
    }

    /// Records an error about this value.
    pub fn error(&self, message: impl Into<String>, help: Option<String>) {
        self.reader.error(self.at.clone(), message, help);
    }

    /// Records an error about a part of this string value. `part` is a range of bytes, counted from
    /// the first one after the opening quote.
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

    fn within<T: PartialOrd>(
        &self,
        value: T,
        range: RangeInclusive<T>,
        shown: impl Fn(&T) -> String,
    ) -> Option<T> {
        if range.contains(&value) {
            return Some(value);
        }
        let (low, high) = (shown(range.start()), shown(range.end()));
        self.error(format!("`{}` must be between {low} and {high}", self.path), None);
        None
    }

    /// Returns whether the value is a table.
    pub fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// Returns whether the value is a list.
    pub fn is_list(&self) -> bool {
        self.value.is_array()
    }

    /// Returns whether the value is a string.
    pub fn is_text(&self) -> bool {
        self.value.is_str()
    }

    /// Returns the value as a string.
    pub fn text(&self) -> Option<String> {
        match self.value {
            DeValue::String(text) => Some(text.to_string()),
            _ => self.expected("a string"),
        }
    }

    /// Returns the value as a boolean.
    pub fn boolean(&self) -> Option<bool> {
        match self.value {
            DeValue::Boolean(value) => Some(*value),
            _ => self.expected("true or false"),
        }
    }

    /// Returns the value as an integer within `range`.
    pub fn integer(&self, range: RangeInclusive<u64>) -> Option<u64> {
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

    /// Returns the value as a duration such as `"250ms"`, `"4.5s"` or `"24h"`.
    pub fn duration(&self) -> Option<Duration> {
        let text = self.text()?;
        let parsed = parse_duration(&text);
        if parsed.is_none() {
            let help = "write a number and a unit: 250ms, 4.5s, 10m, 24h, 7d".to_owned();
            self.error(format!("`{text}` is not a duration"), Some(help));
        }
        parsed
    }

    /// Returns the value as a duration within `range`.
    pub fn duration_within(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        self.within(self.duration()?, range, |span| show_duration(*span))
    }

    /// Returns the value as a number of bytes, written as `"64KiB"` or `"1MiB"`.
    pub fn size(&self) -> Option<u64> {
        let text = self.text()?;
        let parsed = parse_size(&text);
        if parsed.is_none() {
            let help = "write a number and a unit: 512B, 64KiB, 1MiB, 2GiB".to_owned();
            self.error(format!("`{text}` is not a size"), Some(help));
        }
        parsed
    }

    /// Returns the value as a number of bytes within `range`.
    pub fn size_within(&self, range: RangeInclusive<u64>) -> Option<u64> {
        self.within(self.size()?, range, |bytes| show_size(*bytes))
    }

    /// Returns the value as one of a fixed list of words.
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

    /// Returns the value as a table. Any other value is concealed, because it may be a secret in
    /// place of a table of secrets.
    pub fn section(&self) -> Option<Section<'r>> {
        match self.value {
            DeValue::Table(table) => {
                Some(Section::new(self.reader, table, self.at.clone(), self.path.clone()))
            }
            _ => {
                self.conceal();
                self.expected("a table")
            }
        }
    }

    /// Returns the elements of a list; any other value counts as a list of one element.
    pub fn items(&self) -> Vec<Field<'r>> {
        match self.value {
            DeValue::Array(values) => values
                .iter()
                .map(|value| {
                    Field::new(self.reader, value.get_ref(), value.span(), self.path.clone())
                })
                .collect(),
            _ => vec![self.clone()],
        }
    }

    /// Returns the tables of a list, written as `[[name]]`.
    pub fn sections(&self) -> Vec<Section<'r>> {
        if self.is_list() {
            return self.items().iter().filter_map(Field::section).collect();
        }
        self.conceal();
        let path = &self.path;
        let help = format!("write [[{path}]], with two brackets");
        self.error(format!("`{path}` is a list of tables"), Some(help));
        Vec::new()
    }
}

/// Parses `"250ms"`, `"4.5s"`, `"10m"`, `"24h"`, `"7d"`; at most ten years.
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
    let span = Duration::try_from_secs_f64((value * seconds * 1e6).round() / 1e6).ok()?;
    (span <= LONGEST).then_some(span)
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

/// Formats a duration as [`parse_duration`] reads it, in the largest unit that gives an integer.
pub fn show_duration(span: Duration) -> String {
    let millis = span.as_millis();
    if millis == 0 {
        return unit(0, "s");
    }
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    let whole = units.iter().find(|(_, unit)| millis.is_multiple_of(*unit));
    whole.map_or_else(|| unit(millis, "ms"), |(name, size)| unit(millis / size, name))
}

/// Formats a size as [`parse_size`] reads it, in the largest unit that gives an integer.
pub fn show_size(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let whole = units.iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    whole.map_or_else(|| unit(bytes, "B"), |(name, size)| unit(bytes / size, name))
}

fn unit(number: impl Display, name: &str) -> String {
    format!("{number}{name}")
}

/// Returns the candidate that is most similar to a mistyped word, if one is similar enough.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
