//! TOML documents read with their places: every problem is reported at once, each with file, line,
//! column, the line itself and what to do about it.
//!
//! serde stops at the first error and forgets where a value stood once it has it. The gateway's
//! configuration and its schemes are read through [`Section`]s instead: asking for a key also says
//! that the key exists, so what was never asked for is unknown, and the keys that were asked for are
//! the suggestions.
//!
//! A report quotes lines, and lines hold secrets. What may be one is concealed ([`Field::conceal`])
//! and overwritten in the report's copy of the text: the values of unknown keys, since `secrt` is
//! one, and all values where the document has a syntax error.

mod digest;
mod field;
mod report;

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use self::report::{Lines, Problem};
pub use self::{
    field::{Field, nearest, parse_duration, parse_size, show_duration, show_size},
    report::{Report, Severity},
};

/// Collects the problems of one document while it is read.
pub struct Reader<'d> {
    name: String,
    text: &'d str,
    lines: OnceCell<Lines>,
    problems: RefCell<Vec<Problem>>,
    errors: Cell<usize>,
    concealed: RefCell<Vec<Range<usize>>>,
    /// Every key that was asked for, with the paths of the sections that were.
    asked: RefCell<BTreeMap<&'static str, BTreeSet<String>>>,
    unknown: RefCell<Vec<Unknown>>,
    /// Whether there are syntax errors.
    broken: Cell<bool>,
}

/// A key that its section does not know.
struct Unknown {
    key: String,
    at: Range<usize>,
    section: String,
    known: Vec<&'static str>,
}

impl<'d> Reader<'d> {
    /// Starts reading `text`, called `name` in reports.
    pub fn new(name: impl Into<String>, text: &'d str) -> Self {
        Reader {
            name: name.into(),
            text,
            lines: OnceCell::new(),
            problems: RefCell::default(),
            errors: Cell::new(0),
            concealed: RefCell::default(),
            asked: RefCell::default(),
            unknown: RefCell::default(),
            broken: Cell::new(false),
        }
    }

    /// Parses the document. If it has syntax errors, these are recorded and nothing else is from then on:
    /// what could be made out is returned, but which value belongs to which key cannot be told for sure.
    pub fn parse(&self) -> Spanned<DeTable<'d>> {
        let (root, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let at = error.span().unwrap_or(0..0);
            self.concealed.borrow_mut().push(report::value_of_line(self.text, at.start));
            self.error(at, error.message(), None);
        }
        self.broken.set(!errors.is_empty());
        root
    }

    /// The top-level section of a parsed document.
    pub fn root<'r>(&'r self, table: &'r Spanned<DeTable<'d>>) -> Section<'r> {
        Section::new(self, table.get_ref(), 0..0, String::new())
    }

    /// Records an error at a byte range of the text.
    pub fn error(&self, at: Range<usize>, message: impl Into<String>, help: Option<String>) {
        self.record(Severity::Error, at, message.into(), help);
    }

    /// Records a warning at a byte range of the text.
    pub fn warning(&self, at: Range<usize>, message: impl Into<String>, help: Option<String>) {
        self.record(Severity::Warning, at, message.into(), help);
    }

    fn record(&self, severity: Severity, at: Range<usize>, message: String, help: Option<String>) {
        if self.broken.get() {
            return;
        }
        if severity == Severity::Error {
            self.errors.set(self.errors.get() + 1);
        }
        let message = report::one_line(&message);
        self.problems.borrow_mut().push(Problem { severity, at, message, help });
    }

    /// The line of a byte offset, from 1.
    fn line(&self, offset: usize) -> usize {
        self.lines.get_or_init(|| Lines::of(self.text)).line(offset)
    }

    /// Notes that `key` was asked for in the section at `path`.
    fn ask(&self, key: &'static str, path: &str) {
        let mut asked = self.asked.borrow_mut();
        let paths = asked.entry(key).or_default();
        if !paths.contains(path) {
            paths.insert(path.to_owned());
        }
    }

    /// Every key that was asked for, as dotted paths. A list of tables counts as one table.
    #[cfg(test)]
    pub(crate) fn asked(&self) -> BTreeSet<String> {
        let asked = self.asked.borrow();
        let paths = |(key, paths): (&&str, &BTreeSet<String>)| -> Vec<String> {
            paths.iter().map(|path| joined(path, key)).collect()
        };
        asked.iter().flat_map(paths).collect()
    }

    /// Ends the reading: all problems, sorted by their place.
    pub fn finish(self) -> Report {
        for unknown in self.unknown.take() {
            let help = self.advice(&unknown);
            let place = match unknown.section.as_str() {
                "" => String::new(),
                section => format!(" in {section}"),
            };
            let message = format!("unknown key `{}`{place}", unknown.key);
            self.error(unknown.at, message, Some(help));
        }
        Report::new(self.name, self.text, self.problems.take(), self.concealed.take())
    }

    /// What an unknown key was meant to be: a key misspelled, or one of another section. TOML adds
    /// whatever follows the heading of a sub-table to the sub-table, so the latter is common.
    fn advice(&self, unknown: &Unknown) -> String {
        let asked = self.asked.borrow();
        let owner = asked.get(unknown.key.as_str()).and_then(BTreeSet::first);
        if let Some(near) = nearest(&unknown.key, unknown.known.iter().copied()) {
            format!("did you mean `{near}`?")
        } else if let Some(owner) = owner {
            let place = match owner.as_str() {
                "" => "the top of the file, before the first heading".to_owned(),
                owner => format!("{owner}, before the heading of any other table"),
            };
            format!("`{}` belongs to {place}", unknown.key)
        } else {
            format!("known here: {}", unknown.known.join(", "))
        }
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
        self.reader.ask(key, &self.path);
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

    /// Whether the document has a value under `key`; does not ask for it.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// How many errors the whole document has so far.
    pub fn errors(&self) -> usize {
        self.reader.errors.get()
    }

    /// All keys and values, for tables whose keys are the user's own (no key of it is unknown).
    pub fn entries(&self) -> Vec<(String, Field<'r>)> {
        self.table
            .iter()
            .map(|(key, value)| (key.get_ref().to_string(), self.field(key.get_ref(), value)))
            .collect()
    }

    /// Whether `key` was asked for.
    pub fn knows(&self, key: &str) -> bool {
        self.asked.borrow().contains(&key)
    }

    /// Reports every key that was never asked for, with what it was most likely meant to be.
    pub fn finish(self) {
        for (key, value) in self.table {
            if self.knows(key.get_ref()) {
                continue;
            }
            self.field(key.get_ref(), value).conceal();
            self.reader.unknown.borrow_mut().push(Unknown {
                key: key.get_ref().to_string(),
                at: key.span(),
                section: self.path.clone(),
                known: self.asked.borrow().clone(),
            });
        }
    }

    fn field(&self, key: &str, value: &'r Spanned<DeValue<'r>>) -> Field<'r> {
        Field::new(self.reader, value.get_ref(), value.span(), joined(&self.path, key))
    }
}

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

#[cfg(test)]
mod tests;
