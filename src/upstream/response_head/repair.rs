//! Repair of response heads that real servers send although RFC 9112 does not allow them.
//!
//! An upstream has done its work when it responds, so a response is not discarded for a fault that
//! does not affect its framing: the faulty line is dropped or cleaned as RFC 9110 section 5.5 and
//! RFC 9112 sections 2.2 and 5 allow. A faulty line that could be about framing is an error.

use super::framing::MalformedResponse;

/// A head that follows RFC 9112, and the faults that the original had.
#[derive(Debug)]
pub(super) struct RepairedHead {
    pub(super) head: Vec<u8>,
    pub(super) faults: Vec<&'static str>,
}

/// The names of the headers that decide where a message ends, letters only.
const FRAMING: [&[u8]; 2] = [b"contentlength", b"transferencoding"];

/// What became of the line before, to which a folded line belongs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Previous {
    StatusLine,
    Kept,
    Dropped,
}

impl RepairedHead {
    /// Repairs a whole head, from its status line to its empty line.
    ///
    /// # Errors
    /// The fault, if it concerns the framing or if there is no status line.
    pub(super) fn new(original: &[u8]) -> Result<Self, MalformedResponse> {
        let mut repaired =
            RepairedHead { head: Vec::with_capacity(original.len()), faults: Vec::new() };
        let mut lines = original
            .split(|byte| *byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .take_while(|line| !line.is_empty());
        repaired.status_line(lines.next().unwrap_or_default())?;
        let mut previous = Previous::StatusLine;
        for line in lines {
            if line.contains(&b'\r') {
                return Err(MalformedResponse("a carriage return within a line of the head"));
            }
            previous = repaired.header_line(line, previous)?;
        }
        repaired.head.extend_from_slice(b"\r\n");
        Ok(repaired)
    }

    fn fault(&mut self, fault: &'static str) {
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    /// Writes the version and the code. The reason phrase is dropped: it is not passed on.
    fn status_line(&mut self, line: &[u8]) -> Result<(), MalformedResponse> {
        let malformed = MalformedResponse("no HTTP/1 status line");
        let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let mut words = line.split(is_blank).filter(|word| !word.is_empty());
        let version = match words.next() {
            Some(b"HTTP/1.0") => b"HTTP/1.0 ",
            Some([b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9']) => b"HTTP/1.1 ",
            Some(_) | None => return Err(malformed),
        };
        let code = words.next().unwrap_or_default();
        let is_code = matches!(code, [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9']);
        if !is_code || line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err(malformed);
        }
        self.fault("an unusual status line");
        self.head.extend_from_slice(version);
        self.head.extend_from_slice(code);
        self.head.extend_from_slice(b"\r\n");
        Ok(())
    }

    fn header_line(
        &mut self,
        line: &[u8],
        previous: Previous,
    ) -> Result<Previous, MalformedResponse> {
        if let [b' ' | b'\t', ..] = line {
            return self.folded_line(line, previous);
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.unwrap_or(line.len()));
        let (value, trimmed) = (value.get(1..).unwrap_or_default(), name.trim_ascii_end());
        if colon.is_none() || !is_token(trimmed) {
            starts_no_framing(trimmed)?;
            self.fault(match (colon, trimmed) {
                (None, _) => "a header line without a colon",
                (Some(_), []) => "a header without a name",
                (Some(_), _) => "an invalid header name",
            });
            return Ok(Previous::Dropped);
        }
        if trimmed.len() < name.len() {
            self.fault("white space before a colon");
        }
        self.head.extend_from_slice(trimmed);
        self.head.extend_from_slice(b": ");
        self.value(value, is_framing(trimmed))?;
        self.head.extend_from_slice(b"\r\n");
        Ok(Previous::Kept)
    }

    /// Adds a folded line to the value before it (RFC 9112 section 5.2).
    fn folded_line(
        &mut self,
        line: &[u8],
        previous: Previous,
    ) -> Result<Previous, MalformedResponse> {
        if line.trim_ascii().is_empty() {
            self.fault("a line of white space");
            return Ok(previous);
        }
        match previous {
            Previous::StatusLine | Previous::Dropped => {
                starts_no_framing(line)?;
                self.fault("a folded line without a header");
                return Ok(Previous::Dropped);
            }
            Previous::Kept => {}
        }
        let last = self.head[..self.head.len() - 2].rsplit(|byte| *byte == b'\n').next();
        let name = last.and_then(|last| last.split(|byte| *byte == b':').next());
        if name.is_some_and(is_framing) {
            return Err(MalformedResponse("a folded header that is about framing"));
        }
        self.fault("a folded header");
        self.head.truncate(self.head.len() - 2);
        self.head.push(b' ');
        self.value(line.trim_ascii(), false)?;
        self.head.extend_from_slice(b"\r\n");
        Ok(Previous::Kept)
    }

    /// Writes a value with spaces in place of control characters (RFC 9110 section 5.5).
    fn value(&mut self, value: &[u8], is_framing: bool) -> Result<(), MalformedResponse> {
        let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
        if value.iter().any(is_control) {
            if is_framing {
                return Err(MalformedResponse("a control character in a header about framing"));
            }
            self.fault("a control character in a header");
        }
        let clean = |byte: &u8| if is_control(byte) { b' ' } else { *byte };
        self.head.extend(value.iter().map(clean));
        Ok(())
    }
}

/// Returns the letters and digits of a text, in lower case.
fn letters(text: &[u8]) -> Vec<u8> {
    let letters = text.iter().filter(|byte| byte.is_ascii_alphanumeric());
    letters.map(u8::to_ascii_lowercase).collect()
}

/// Rejects a line that will be dropped if a more lenient reader could take it for one about
/// framing.
fn starts_no_framing(line: &[u8]) -> Result<(), MalformedResponse> {
    let letters = letters(line);
    if FRAMING.iter().any(|known| letters.starts_with(known)) {
        return Err(MalformedResponse("a faulty line that may be about framing"));
    }
    Ok(())
}

fn is_framing(name: &[u8]) -> bool {
    FRAMING.contains(&letters(name).as_slice())
}

/// Returns whether `name` is a token (RFC 9110 section 5.6.2).
fn is_token(name: &[u8]) -> bool {
    !name.is_empty()
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}
