//! Reads scalars out of a JSON body that is not yet authentic.
//!
//! One walk serves every pointer of a scheme. What an attacker could use to make this reader and the
//! upstream's parser see different things is refused: text that is not UTF-8, a byte order mark,
//! trailing bytes, and a second member with the name of a wanted one, or of one on the way to it, after
//! unescaping. Nesting is bounded by [`MAX_DEPTH`] everywhere, wanted or not.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The deepest nesting of arrays and objects; the outermost one is at depth 1.
pub(super) const MAX_DEPTH: u32 = 64;

/// The body is not JSON as this reader takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MalformedJson;

/// A value that a pointer led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scalar<'a> {
    /// A string, unescaped.
    Text(Cow<'a, str>),
    /// An integer without fraction, exponent or negative zero, within the range of `i64`.
    Integer(i64),
    /// Anything else: null, a boolean, another number, an array, an object.
    Other,
}

/// One value that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JsonMatch<'a> {
    /// Which pointer, as numbered by [`JsonPointers::add`].
    pub(super) pointer: u16,
    /// Which element of the outermost `*` on the way; 0 without one.
    pub(super) item: u32,
    /// The value.
    pub(super) value: Scalar<'a>,
}

/// A compiled set of JSON pointers (RFC 6901), in which a `*` step stands for every array element.
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
    /// Whether nothing is wanted.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The pointer with this number, as it was written.
    pub(super) fn name(&self, pointer: u16) -> &str {
        &self.names[usize::from(pointer)]
    }

    /// Adds a pointer such as `/data/id` or `/items/*/id`; gives its number.
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

    /// Walks `body` once; gives every value that a pointer leads to, in the body's order.
    pub(super) fn read<'a>(&self, body: &'a [u8]) -> Result<Vec<JsonMatch<'a>>, MalformedJson> {
        let text = std::str::from_utf8(body).map_err(|_| MalformedJson)?;
        let mut found = Vec::new();
        let mut reader = serde_json::Deserializer::from_str(text);
        let walk = Walk { tree: self, node: Some(0), depth: 1, item: None, found: &mut found };
        walk.deserialize(&mut reader).map_err(|_| MalformedJson)?;
        reader.end().map_err(|_| MalformedJson)?;
        Ok(found)
    }
}

/// The value that stands next in the body; `node` says what is wanted at or below it, `depth` how
/// deep it would be as an array or object.
struct Walk<'w, 'a> {
    tree: &'w JsonPointers,
    node: Option<usize>,
    depth: u32,
    item: Option<u32>,
    found: &'w mut Vec<JsonMatch<'a>>,
}

impl<'a> Walk<'_, 'a> {
    fn take(self, value: Scalar<'a>) {
        if let Some(pointer) = self.node.and_then(|node| self.tree.nodes[node].wanted) {
            self.found.push(JsonMatch { pointer, item: self.item.unwrap_or(0), value });
        }
    }

    fn enter<E: Error>(&mut self) -> Result<(), E> {
        if self.depth > MAX_DEPTH {
            return Err(E::custom("nested too deep"));
        }
        if let Some(pointer) = self.node.and_then(|node| self.tree.nodes[node].wanted) {
            let item = self.item.unwrap_or(0);
            self.found.push(JsonMatch { pointer, item, value: Scalar::Other });
        }
        Ok(())
    }
}

impl<'a> DeserializeSeed<'a> for Walk<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Walk<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.take(Scalar::Other);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.take(Scalar::Integer(value));
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.take(i64::try_from(value).map_or(Scalar::Other, Scalar::Integer));
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.take(Scalar::Other);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.take(Scalar::Other);
        Ok(())
    }

    fn visit_borrowed_str<E>(self, value: &'a str) -> Result<(), E> {
        self.take(Scalar::Text(Cow::Borrowed(value)));
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        if self.node.is_some() {
            self.take(Scalar::Text(Cow::Owned(value.to_owned())));
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut elements: A) -> Result<(), A::Error> {
        self.enter()?;
        let node = self.node.and_then(|node| self.tree.nodes[node].each);
        for number in 0u32.. {
            let walk = Walk {
                tree: self.tree,
                node,
                depth: self.depth + 1,
                item: self.item.or(Some(number)),
                found: &mut *self.found,
            };
            if elements.next_element_seed(walk)?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut members: A) -> Result<(), A::Error> {
        self.enter()?;
        let wanted = match self.node {
            Some(node) => self.tree.nodes[node].members.as_slice(),
            None => &[],
        };
        let mut seen = 0u64;
        loop {
            let node = if wanted.is_empty() {
                if members.next_key::<IgnoredAny>()?.is_none() {
                    return Ok(());
                }
                None
            } else {
                match members.next_key_seed(MemberName { wanted })? {
                    None => return Ok(()),
                    Some(None) => None,
                    Some(Some(index)) if seen & (1 << index) != 0 => {
                        return Err(A::Error::custom("a wanted member comes twice"));
                    }
                    Some(Some(index)) => {
                        seen |= 1 << index;
                        Some(wanted[index].1)
                    }
                }
            };
            members.next_value_seed(Walk {
                tree: self.tree,
                node,
                depth: self.depth + 1,
                item: self.item,
                found: &mut *self.found,
            })?;
        }
    }
}

/// A member's name: which of the wanted ones it is.
struct MemberName<'w> {
    wanted: &'w [(Box<str>, usize)],
}

impl<'a> DeserializeSeed<'a> for MemberName<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'a>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for MemberName<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.wanted.iter().position(|(wanted, _)| **wanted == *name))
    }
}

#[cfg(test)]
mod tests;
