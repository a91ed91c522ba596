//! TOML documents read with source locations. All problems are reported at once, each with its
//! file, line, column, source line and a suggested fix.
//!
//! serde stops at the first error and drops the location of a value after reading it. The
//! configuration and the schemes are read through [`Section`]s instead. Reading a key also declares
//! it, so every key that is never read is unknown, and the declared keys are the suggestions.
//!
//! A report quotes source lines, which may contain secrets. Values that may be secret are concealed
//! ([`Field::conceal`]): they are overwritten in the report's copy of the text. This includes the
//! values of unknown keys (such as `secrt`), and all values of a document with a syntax error.

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
    field::{Field, nearest, parse_duration, show_duration, show_size},
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
    /// Every key that was read, by the path of its section.
    asked: RefCell<BTreeMap<&'static str, BTreeSet<String>>>,
    unknown: RefCell<Vec<Unknown>>,
    /// Whether there are syntax errors.
    broken: Cell<bool>,
}

/// A key that no reader of its section declared.
struct Unknown {
    key: String,
    at: Range<usize>,
    section: String,
    known: Vec<&'static str>,
}

impl<'d> Reader<'d> {
    /// Returns a reader of `text`, which reports call `name`.
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

    /// Parses the document. If it has syntax errors, only these are reported: the returned table
    /// contains what could be parsed, but its values may belong to other keys.
    pub fn parse(&self) -> Spanned<DeTable<'d>> {
        let (root, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let at = error.span().unwrap_or(0..0);
            self.concealed.borrow_mut().push(report::value_of_line(self.text, at.start));
            let help = report::unquoted_key(self.text, at.start)
                .map(|key| format!("write text in quotes: {key} = \"…\""));
            self.error(at, error.message(), help);
        }
        self.broken.set(!errors.is_empty());
        root
    }

    /// Returns the top-level section of a parsed document.
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

    /// Returns the line of a byte offset, counted from 1.
    fn line(&self, offset: usize) -> usize {
        self.lines.get_or_init(|| Lines::of(self.text)).line(offset)
    }

    /// Declares `key` in the section at `path`.
    fn ask(&self, key: &'static str, path: &str) {
        let mut asked = self.asked.borrow_mut();
        let paths = asked.entry(key).or_default();
        if !paths.contains(path) {
            paths.insert(path.to_owned());
        }
    }

    /// Returns every key that was read, as dotted paths. A list of tables counts as one table.
    #[cfg(test)]
    pub(crate) fn asked(&self) -> BTreeSet<String> {
        let asked = self.asked.borrow();
        let paths = |(key, paths): (&&str, &BTreeSet<String>)| -> Vec<String> {
            paths.iter().map(|path| joined(path, key)).collect()
        };
        asked.iter().flat_map(paths).collect()
    }

    /// Returns all problems, sorted by location.
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

    /// Suggests what an unknown key was meant to be: a misspelled key, or a key of another section.
    /// The latter is common, because TOML assigns every key after a sub-table's heading to the
    /// sub-table.
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

/// One table of a document. Call [`Section::finish`] after reading every key that it may have.
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

    /// Returns the location of the section.
    pub fn at(&self) -> Range<usize> {
        self.at.clone()
    }

    /// Returns the dotted path of the section; it is empty for the document itself.
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

    /// Returns the value of `key`, if the document has one.
    pub fn get(&self, key: &'static str) -> Option<Field<'r>> {
        self.asked.borrow_mut().push(key);
        self.reader.ask(key, &self.path);
        let (name, value) = self.table.get_key_value(key)?;
        Some(self.field(name.get_ref(), value))
    }

    /// Returns the value of `key`, and reports an error if it is missing.
    pub fn require(&self, key: &'static str) -> Option<Field<'r>> {
        let field = self.get(key);
        if field.is_none() {
            let place = if self.path.is_empty() { "the file" } else { &self.path };
            self.error(format!("`{key}` is missing in {place}"), None);
        }
        field
    }

    /// Returns whether the document has a value for `key`, without declaring the key.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Returns the number of errors found in the whole document so far.
    pub fn errors(&self) -> usize {
        self.reader.errors.get()
    }

    /// Returns all keys and values, for tables whose keys are chosen by the user.
    pub fn entries(&self) -> Vec<(String, Field<'r>)> {
        self.table
            .iter()
            .map(|(key, value)| (key.get_ref().to_string(), self.field(key.get_ref(), value)))
            .collect()
    }

    /// Returns whether `key` was read.
    pub fn knows(&self, key: &str) -> bool {
        self.asked.borrow().contains(&key)
    }

    /// Reports every key that was never read, with the most likely intended key.
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
