//! What a scheme requires of HTTP Message Signatures (RFC 9421).

use http::HeaderName;
use sfv::{BareItem, Item, Parameters, Parser};

/// A component of a request that a signature covers (RFC 9421, section 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::scheme) enum Component {
    /// The values of a header, joined by commas.
    Field(HeaderName),
    /// The values of a header, each as a byte sequence (`bs`).
    FieldBytes(HeaderName),
    /// One member of a header that is a dictionary (`key`).
    FieldMember(HeaderName, Box<str>),
    /// `@method`
    Method,
    /// `@target-uri`
    TargetUri,
    /// `@authority`
    Authority,
    /// `@scheme`
    Scheme,
    /// `@request-target`
    RequestTarget,
    /// `@path`
    Path,
    /// `@query`
    Query,
    /// `@query-param` with its `name`, percent-encoded.
    QueryParameter(Box<str>),
}

impl Component {
    /// Reads a component identifier. `None` for one that no request has, that needs knowledge about
    /// the header (`sf`), or that is not known.
    pub(in crate::scheme) fn read(item: &Item) -> Option<Component> {
        let name = item.bare_item.as_string()?.as_str();
        let parameter = only(&item.params);
        let Some(derived) = name.strip_prefix('@') else {
            let field = HeaderName::from_lowercase(name.as_bytes()).ok()?;
            return match parameter? {
                None => Some(Component::Field(field)),
                Some(("bs", BareItem::Boolean(true))) => Some(Component::FieldBytes(field)),
                Some(("key", BareItem::String(key))) => {
                    Some(Component::FieldMember(field, key.as_str().into()))
                }
                Some(_) => None,
            };
        };
        match (derived, parameter?) {
            ("method", None) => Some(Component::Method),
            ("target-uri", None) => Some(Component::TargetUri),
            ("authority", None) => Some(Component::Authority),
            ("scheme", None) => Some(Component::Scheme),
            ("request-target", None) => Some(Component::RequestTarget),
            ("path", None) => Some(Component::Path),
            ("query", None) => Some(Component::Query),
            ("query-param", Some(("name", BareItem::String(name)))) => {
                Some(Component::QueryParameter(name.as_str().into()))
            }
            _ => None,
        }
    }

    /// Reads the notation of scheme files: an identifier without its quotes, such as `@method` or
    /// `@query-param;name="id"`.
    pub(in crate::scheme) fn parse(text: &str) -> Option<Component> {
        let (name, parameters) = text.split_at(text.find(';').unwrap_or(text.len()));
        let item: Item = Parser::new(format!("\"{name}\"{parameters}").as_str()).parse().ok()?;
        Component::read(&item)
    }

    /// Returns whether a signature that covers this component covers `other` as well.
    pub(in crate::scheme) fn includes(&self, other: &Component) -> bool {
        let is_of_target = matches!(
            other,
            Component::RequestTarget
                | Component::Path
                | Component::Query
                | Component::QueryParameter(_)
        );
        match self {
            _ if self == other => true,
            Component::TargetUri => {
                is_of_target || matches!(other, Component::Scheme | Component::Authority)
            }
            Component::RequestTarget => is_of_target,
            Component::Query => matches!(other, Component::QueryParameter(_)),
            Component::FieldBytes(name) => *other == Component::Field(name.clone()),
            Component::Field(name) => {
                matches!(other, Component::FieldMember(field, _) if field == name)
            }
            _ => false,
        }
    }

    /// Returns the identifier as it is written in `Signature-Input`.
    pub(in crate::scheme) fn identifier(&self) -> String {
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        match self {
            Component::Field(name) => format!("\"{name}\""),
            Component::FieldBytes(name) => format!("\"{name}\";bs"),
            Component::FieldMember(name, key) => format!("\"{name}\";key=\"{}\"", quoted(key)),
            Component::Method => "\"@method\"".to_owned(),
            Component::TargetUri => "\"@target-uri\"".to_owned(),
            Component::Authority => "\"@authority\"".to_owned(),
            Component::Scheme => "\"@scheme\"".to_owned(),
            Component::RequestTarget => "\"@request-target\"".to_owned(),
            Component::Path => "\"@path\"".to_owned(),
            Component::Query => "\"@query\"".to_owned(),
            Component::QueryParameter(name) => {
                format!("\"@query-param\";name=\"{}\"", quoted(name))
            }
        }
    }
}

/// Returns the only parameter, `Some(None)` if there is none, and `None` if there are several.
fn only(parameters: &Parameters) -> Option<Option<(&str, &BareItem)>> {
    let mut all = parameters.iter().map(|(name, value)| (name.as_str(), value));
    let first = all.next();
    all.next().is_none().then_some(first)
}

/// What a scheme requires of a message signature. A request with a body must also have its digest
/// signed (`content-digest`, RFC 9530).
#[derive(Clone, Debug)]
pub(in crate::scheme) struct MessageSignatureRule {
    /// The components that it must cover. `@query` counts only where the request has a query.
    pub(in crate::scheme) cover: Vec<Component>,
    /// The slots of the headers among them.
    pub(in crate::scheme) fields: Vec<usize>,
    /// The label of the signature, if the sender always uses the same.
    pub(in crate::scheme) label: Option<Box<str>>,
    /// The application tag, if the sender uses one.
    pub(in crate::scheme) tag: Option<Box<str>>,
    /// The algorithm's name in the parameter `alg`.
    pub(in crate::scheme) algorithm: &'static str,
    /// The slot of `Signature-Input`.
    pub(in crate::scheme) input: usize,
    /// The slot of `Content-Digest`.
    pub(in crate::scheme) digest: usize,
}

impl MessageSignatureRule {
    /// Returns whether every accepted signature covers this component.
    pub(in crate::scheme) fn covers(&self, component: &Component) -> bool {
        self.cover.iter().any(|covered| covered.includes(component))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_read_and_written() {
        for text in [
            "@method",
            "@target-uri",
            "@authority",
            "@scheme",
            "@request-target",
            "@path",
            "@query",
            "content-digest",
            "x-a;bs",
            "x-a;key=\"b\"",
            "@query-param;name=\"a%22b\"",
        ] {
            let component = Component::parse(text).expect(text);
            let (name, parameters) = text.split_at(text.find(';').unwrap_or(text.len()));
            assert_eq!(component.identifier(), format!("\"{name}\"{parameters}"));
        }
        for text in [
            "@status",
            "@signature-params",
            "@query-param",
            "Content-Digest",
            "x-a;sf",
            "x-a;req",
            "x-a;tr",
            "x-a;bs;key=\"b\"",
            "@method;req",
            "@path;name=\"a\"",
            "",
            "x a",
        ] {
            assert_eq!(Component::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_target_includes_its_parts() {
        let component = |text| Component::parse(text).expect(text);
        let target = component("@target-uri");
        for part in ["@scheme", "@authority", "@path", "@query", "@request-target"] {
            assert!(target.includes(&component(part)), "{part}");
            assert!(!component(part).includes(&target), "{part}");
        }
        assert!(!target.includes(&component("@method")));
        assert!(component("x-a;bs").includes(&component("x-a")));
        assert!(!component("x-a;key=\"b\"").includes(&component("x-a")));
        assert!(!component("@request-target").includes(&component("@authority")));
    }
}
