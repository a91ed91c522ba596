//! `multipart/form-data` (RFC 7578): the fields of a form with attachments. Strict: what two
//! parsers could read differently has no fields.

use memchr::memmem;

/// The most parts of a form.
const MAX_PARTS: usize = 1000;
/// The longest head of a part.
const MAX_HEAD: usize = 1024;

/// Returns the boundary of a media type, `Some(None)` if it is malformed, and `None` if this is
/// another media type.
pub(super) fn boundary(media_type: &str) -> Option<Option<&str>> {
    let mut parameters = media_type.split(';').map(str::trim);
    if !parameters.next()?.eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let mut boundaries = parameters.filter_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.eq_ignore_ascii_case("boundary").then_some(value)
    });
    let first = boundaries.next();
    if boundaries.next().is_some() {
        return Some(None);
    }
    let bare =
        first.map(|text| text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text));
    let is_plain = |text: &&str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&byte);
        (1..=70).contains(&text.len()) && text.bytes().all(plain)
    };
    Some(bare.filter(is_plain))
}

/// Returns the value of the only part called `name`, which must not be a file. `None` if there is
/// none or more than one, or if the form is malformed.
pub(super) fn only<'b>(body: &'b [u8], boundary: &str, name: &str) -> Option<&'b [u8]> {
    let opening = format!("--{boundary}");
    let delimiter = format!("\r\n--{boundary}");
    let mut rest = body.strip_prefix(opening.as_bytes())?;
    let mut found = None;
    for _ in 0..MAX_PARTS {
        if rest.strip_prefix(b"--").is_some_and(|end| end.trim_ascii().is_empty()) {
            return found;
        }
        let part = rest.strip_prefix(b"\r\n")?;
        let end = memmem::find(part, delimiter.as_bytes())?;
        let (part, after) = part.split_at(end);
        rest = &after[delimiter.len()..];
        let head_end = memmem::find(&part[..part.len().min(MAX_HEAD)], b"\r\n\r\n")?;
        let (head, value) = (&part[..head_end], &part[head_end + 4..]);
        let disposition = disposition(std::str::from_utf8(head).ok()?)?;
        if disposition.name == name && (disposition.is_file || found.replace(value).is_some()) {
            return None;
        }
    }
    None
}

/// What the head of a part says about it.
struct Disposition<'h> {
    name: &'h str,
    is_file: bool,
}

fn disposition(head: &str) -> Option<Disposition<'_>> {
    let mut lines = head.split("\r\n").filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-disposition").then_some(value.trim())
    });
    let line = lines.next()?;
    if lines.next().is_some() {
        return None;
    }
    let parameters = line.strip_prefix("form-data")?;
    let mut names = parameters
        .match_indices("name=\"")
        .filter(|(at, _)| parameters[..*at].ends_with([' ', ';']));
    let (at, opening) = names.next()?;
    if names.next().is_some() {
        return None;
    }
    let rest = &parameters[at + opening.len()..];
    let name = &rest[..rest.find('"')?];
    Some(Disposition { name, is_file: parameters.contains("filename") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boundary_is_read_once() {
        assert_eq!(boundary("application/json"), None);
        assert_eq!(boundary("application/x-www-form-urlencoded; boundary=a"), None);
        for text in ["multipart/form-data; boundary=a-b", "Multipart/Form-Data;Boundary=\"a-b\""] {
            assert_eq!(boundary(text), Some(Some("a-b")), "{text}");
        }
        for text in [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=a; boundary=b",
            "multipart/form-data; boundary=\"a b\"",
        ] {
            assert_eq!(boundary(text), Some(None), "{text}");
        }
    }

    #[test]
    fn only_a_single_field_has_a_value() {
        let part = |head: &str, value: &str| format!("--x\r\n{head}\r\n\r\n{value}\r\n");
        let field = |name: &str, value: &str| {
            part(&format!("Content-Disposition: form-data; name=\"{name}\""), value)
        };
        let read = |body: String| only(body.as_bytes(), "x", "a").map(<[u8]>::to_vec);
        let (a, b, end) = (field("a", "1\r\n2"), field("b", "3"), "--x--\r\n");
        assert_eq!(read(format!("{a}{b}{end}")), Some(b"1\r\n2".to_vec()));
        assert_eq!(read(format!("{b}{a}--x--")), Some(b"1\r\n2".to_vec()));
        let typed =
            part("content-type: text/plain\r\ncontent-disposition: form-data; name=\"a\"", "1");
        assert_eq!(read(format!("{typed}{end}")), Some(b"1".to_vec()));
        let file = part("Content-Disposition: form-data; name=\"a\"; filename=\"f\"", "1");
        let twice = part("Content-Disposition: form-data; name=\"a\"; name=\"b\"", "1");
        for body in [
            format!("{b}{end}"),
            format!("{a}{a}{end}"),
            format!("{file}{end}"),
            format!("{a}{file}{end}"),
            format!("{twice}{end}"),
            format!("preamble\r\n{a}{end}"),
            format!("{a}{b}"),
            format!("{a}{end}more"),
            part("Content-Type: text/plain", "1") + end,
            String::new(),
        ] {
            assert_eq!(read(body.clone()), None, "{body}");
        }
    }
}
