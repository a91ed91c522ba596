//! Reads scalars out of a JSON body that is not yet authentic.
//!
//! One pass serves every pointer of a scheme, and its cost is linear in the body. Input that this
//! reader and the upstream's parser could understand differently is rejected: text that is not
//! UTF-8, a byte order mark, trailing bytes, and a second member with the name of a wanted one, or
//! of one on the way to it. Names are compared after unescaping and without regard to case, because
//! parsers in Go and .NET ignore the case of names.
//!
//! Members that the scheme does not read are checked for syntax only: a lone surrogate or a number
//! that no `f64` can hold does not make the rest unreadable.
//!
//! Limits: nesting up to [`MAX_DEPTH`], [`MAX_VALUES`] values in total, and [`MAX_ITEMS`] elements
//! of an array that a `*` step enters.

mod scanner;

use std::borrow::Cow;

use self::scanner::{Scanner, Text};

/// The deepest nesting of arrays and objects; the outermost one is at depth 1.
pub(super) const MAX_DEPTH: u32 = 64;
/// The most values (members, elements and the document itself) in one body.
pub(super) const MAX_VALUES: u32 = 100_000;
/// The most elements of an array whose elements are read.
pub(super) const MAX_ITEMS: u32 = 4096;
/// The longest string that is read, in bytes of the body: longer ones count as [`Scalar::Other`].
/// Senders that sign members of a JSON body put whole messages into them.
pub(super) const MAX_TEXT: usize = 1024 * 1024;

/// The body is not JSON, or not within the limits of this reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MalformedJson;

/// A value that a pointer leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scalar<'a> {
    /// A string, unescaped.
    Text(Cow<'a, str>),
    /// An integer without fraction, exponent or negative zero, within the range of `i64`.
    Integer(i64),
    /// Anything else: null, a boolean, another number, an array, an object, a string with a lone
    /// surrogate or of more than [`MAX_TEXT`] bytes.
    Other,
}

/// One value that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JsonMatch<'a> {
    /// The pointer, as numbered by [`JsonPointers::add`].
    pub(super) pointer: u16,
    /// The element of the outermost `*` step; 0 without one.
    pub(super) item: u32,
    /// The value.
    pub(super) value: Scalar<'a>,
}

/// The values that the pointers of a set lead to, indexed by pointer and item.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct JsonMatches<'a>(Vec<JsonMatch<'a>>);

impl<'a> JsonMatches<'a> {
    /// Returns all values, by pointer.
    pub(super) fn all(&self) -> &[JsonMatch<'a>] {
        &self.0
    }

    /// Returns all values of a pointer, in the order of the body.
    pub(super) fn of(&self, pointer: u16) -> &[JsonMatch<'a>] {
        let start = self.0.partition_point(|found| found.pointer < pointer);
        let end = self.0.partition_point(|found| found.pointer <= pointer);
        &self.0[start..end]
    }

    /// Returns the only value of a pointer in an item.
    pub(super) fn only(&self, pointer: u16, item: u32) -> Option<&Scalar<'a>> {
        let place = (pointer, item);
        let at = self.0.partition_point(|found| (found.pointer, found.item) < place);
        let mut values = self.0[at..].iter();
        let is_here = |found: &&JsonMatch<'_>| (found.pointer, found.item) == place;
        let first = values.next().filter(is_here)?;
        values.next().filter(is_here).is_none().then_some(&first.value)
    }
}

/// A compiled set of JSON pointers (RFC 6901), in which a `*` step matches every array element.
#[derive(Clone, Debug)]
pub(super) struct JsonPointers {
    nodes: Vec<PointerNode>,
    names: Vec<Box<str>>,
}

#[derive(Clone, Debug, Default)]
struct PointerNode {
    members: Vec<(Box<str>, usize)>,
    each: Option<usize>,
    wanted: Option<u16>,
}

impl Default for JsonPointers {
    fn default() -> Self {
        JsonPointers { nodes: vec![PointerNode::default()], names: Vec::new() }
    }
}

impl JsonPointers {
    /// Returns whether nothing is wanted.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Returns the pointer with this number, as it was written.
    pub(super) fn name(&self, pointer: u16) -> &str {
        &self.names[usize::from(pointer)]
    }

    /// Adds a pointer such as `/data/id` or `/items/*/id` and returns its number.
    ///
    /// # Errors
    /// A pointer that does not start with `/`, has an empty step, or would want more members of one
    /// object than the reader can watch for duplicates.
    pub(super) fn add(&mut self, pointer: &str) -> Result<u16, &'static str> {
        if let Some(known) = self.names.iter().position(|name| &**name == pointer) {
            return Ok(known as u16);
        }
        let steps = pointer.strip_prefix('/').ok_or("a JSON pointer starts with `/`")?;
        let mut at = 0;
        for step in steps.split('/') {
            if step.is_empty() {
                return Err("a JSON pointer has no empty step");
            }
            let next = self.nodes.len();
            let step = step.replace("~1", "/").replace("~0", "~");
            let node = &mut self.nodes[at];
            let known = match step.as_str() {
                "*" => node.each,
                name => node.members.iter().find(|(n, _)| &**n == name).map(|(_, next)| *next),
            };
            at = match known {
                Some(known) => known,
                None if step == "*" => {
                    node.each = Some(next);
                    self.nodes.push(PointerNode::default());
                    next
                }
                None if node.members.len() >= 64 => return Err("too many members of one object"),
                None => {
                    node.members.push((step.into(), next));
                    self.nodes.push(PointerNode::default());
                    next
                }
            };
        }
        let number = u16::try_from(self.names.len()).map_err(|_| "too many pointers")?;
        self.nodes[at].wanted = Some(number);
        self.names.push(pointer.into());
        Ok(number)
    }

    /// Reads `body` once and returns every value that a pointer leads to.
    ///
    /// # Errors
    /// [`MalformedJson`] if the body is not JSON, exceeds a limit, or has two members with the name
    /// of a wanted one.
    pub(super) fn read<'a>(&self, body: &'a [u8]) -> Result<JsonMatches<'a>, MalformedJson> {
        let text = std::str::from_utf8(body).map_err(|_| MalformedJson)?;
        let mut reader =
            JsonReader { tree: self, scanner: Scanner::new(text, MAX_VALUES), found: Vec::new() };
        reader.value(0, 1, None)?;
        reader.scanner.end()?;
        let mut found = reader.found;
        // The values of one pointer are in the order of their items, and the sort is stable.
        found.sort_by_key(|found| found.pointer);
        Ok(JsonMatches(found))
    }
}

/// The position in the body, and what was found before it.
struct JsonReader<'w, 'a> {
    tree: &'w JsonPointers,
    scanner: Scanner<'a>,
    found: Vec<JsonMatch<'a>>,
}

impl<'a> JsonReader<'_, 'a> {
    /// Reads the next value. `node` says what is wanted at or below it, `depth` how deep it is
    /// nested as an array or object.
    fn value(&mut self, node: usize, depth: u32, item: Option<u32>) -> Result<(), MalformedJson> {
        let tree = self.tree;
        let node = &tree.nodes[node];
        if node.members.is_empty() && node.each.is_none() && node.wanted.is_none() {
            return self.scanner.skip_value(depth);
        }
        let value = match self.scanner.peek() {
            b'{' if !node.members.is_empty() => {
                self.matched(node, item, Scalar::Other);
                return self.object(&node.members, depth, item);
            }
            b'[' if let Some(each) = node.each => {
                self.matched(node, item, Scalar::Other);
                return self.array(each, depth, item);
            }
            b'"' => {
                self.scanner.count_value()?;
                let text = self.scanner.text()?;
                let is_short = text.raw_len() <= MAX_TEXT;
                let text = if is_short { text.unescaped() } else { None };
                text.map_or(Scalar::Other, Scalar::Text)
            }
            b'-' | b'0'..=b'9' => {
                self.scanner.count_value()?;
                integer(self.scanner.number()?)
            }
            _ => {
                self.scanner.skip_value(depth)?;
                Scalar::Other
            }
        };
        self.matched(node, item, value);
        Ok(())
    }

    fn matched(&mut self, node: &PointerNode, item: Option<u32>, value: Scalar<'a>) {
        if let Some(pointer) = node.wanted {
            self.found.push(JsonMatch { pointer, item: item.unwrap_or(0), value });
        }
    }

    fn array(&mut self, each: usize, depth: u32, item: Option<u32>) -> Result<(), MalformedJson> {
        self.scanner.open(depth)?;
        if self.scanner.closes(b']') {
            return Ok(());
        }
        for number in 0..MAX_ITEMS {
            self.value(each, depth + 1, item.or(Some(number)))?;
            if self.scanner.comma_or(b']')? {
                return Ok(());
            }
        }
        Err(MalformedJson)
    }

    fn object(
        &mut self,
        wanted: &[(Box<str>, usize)],
        depth: u32,
        item: Option<u32>,
    ) -> Result<(), MalformedJson> {
        self.scanner.open(depth)?;
        if self.scanner.closes(b'}') {
            return Ok(());
        }
        let mut seen = 0u64;
        loop {
            let name = self.scanner.name()?;
            let node = match position(wanted, &name) {
                None => None,
                Some((index, _)) if seen & (1 << index) != 0 => return Err(MalformedJson),
                Some((index, exact)) => {
                    seen |= 1 << index;
                    exact.then_some(wanted[index].1)
                }
            };
            match node {
                Some(node) => self.value(node, depth + 1, item)?,
                None => self.scanner.skip_value(depth + 1)?,
            }
            if self.scanner.comma_or(b'}')? {
                return Ok(());
            }
        }
    }
}

/// Returns the wanted member that a name means, and whether it is exactly that name.
fn position(wanted: &[(Box<str>, usize)], name: &Text<'_>) -> Option<(usize, bool)> {
    let folded = match name.as_plain().filter(|name| name.is_ascii()) {
        Some(name) => wanted
            .iter()
            .position(|(known, _)| **known == *name || known.eq_ignore_ascii_case(name)),
        None => {
            let chars = || name.chars().map(|c| fold(c.unwrap_or_default()));
            wanted.iter().position(|(known, _)| chars().eq(known.chars().map(fold)))
        }
    }?;
    let exact = wanted.iter().position(|(known, _)| match name.as_plain() {
        Some(name) => **known == *name,
        None => name.chars().eq(known.chars().map(Some)),
    });
    // Two wanted names may differ only in case; then the exact one is meant.
    Some((exact.unwrap_or(folded), exact.is_some()))
}

/// Returns a character without regard to the case of ASCII letters; `ſ` and the Kelvin sign count
/// as `s` and `k`, as they do in Go.
fn fold(c: char) -> char {
    match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    }
}

fn integer(number: &str) -> Scalar<'static> {
    match number.parse() {
        Ok(0) if number.starts_with('-') => Scalar::Other,
        Ok(value) => Scalar::Integer(value),
        Err(_) => Scalar::Other,
    }
}

#[cfg(test)]
mod tests;
