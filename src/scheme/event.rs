//! What names an event, a request and its unsigned context: digests over parts of the request.
//!
//! Every part is preceded by its length, and an absent part differs from an empty one, so two
//! different lists of parts never run together into the same bytes.

use data_encoding::HEXLOWER;
use http::HeaderValue;
use sha2::{Digest, Sha256};

use super::{RecordKey, keys::Key, request::Request, signature::is_word, source::Source};

/// What event ids may be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grammar {
    /// 1 to 128 letters, digits, `_` and `-`. Nothing that could stand between two parts of a message.
    Word,
    /// 1 to 256 visible ASCII characters.
    Visible,
}

impl Grammar {
    /// Whether `id` is in the grammar.
    pub(super) fn accepts(self, id: &[u8]) -> bool {
        match self {
            Grammar::Word => is_word(id),
            Grammar::Visible => {
                (1..=256).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
            }
        }
    }
}

/// How a scheme names its events.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// It does not: deliveries are alike on purpose.
    None,
    /// By the body's digest.
    Body,
    /// By an id.
    Id {
        /// Where its parts stand.
        from: Vec<Source>,
        /// Whether the signature covers it.
        signed: bool,
        /// Whether a request without it is named by its body instead.
        optional: bool,
        /// What it may be made of.
        grammar: Grammar,
    },
}

/// The name of one event.
pub(super) struct Name {
    /// For the upstream and the log.
    pub(super) id: Option<HeaderValue>,
    /// For the record.
    pub(super) record: Option<RecordKey>,
}

/// Adds a part to a digest.
pub(super) fn part(digest: &mut Sha256, part: Option<&[u8]>) {
    match part {
        None => digest.update([0; 9]),
        Some(bytes) => {
            let mut head = [1; 9];
            head[1..].copy_from_slice(&(bytes.len() as u64).to_be_bytes());
            digest.update(head);
            digest.update(bytes);
        }
    }
}

fn short(digest: Sha256) -> [u8; 16] {
    let whole: [u8; 32] = digest.finalize().into();
    *whole.first_chunk().expect("32 bytes have 16 at their start")
}

impl Event {
    /// The name of the event that an authentic request is about.
    pub(super) fn name(&self, request: &Request<'_>, key: &Key) -> Name {
        let mut digest = key.record.clone();
        let (ids, signed) = match self {
            Event::None => return Name { id: None, record: None },
            Event::Body => (&[] as &[Source], false),
            Event::Id { from, signed, .. } => (from.as_slice(), *signed),
        };
        let values: Option<Vec<_>> = ids.iter().map(|id| request.value(id, &[], 0)).collect();
        let id = match values {
            Some(values) if !values.is_empty() => {
                values.iter().for_each(|value| part(&mut digest, Some(value)));
                if !signed {
                    part(&mut digest, Some(request.payload.sha256()));
                }
                match (ids, values.as_slice()) {
                    ([Source::Header(slot)], _) => request.headers[*slot].cloned(),
                    (_, values) => HeaderValue::from_bytes(&values.join(&b':')).ok(),
                }
            }
            _ => {
                part(&mut digest, None);
                part(&mut digest, Some(request.payload.sha256()));
                let text = format!("sha256-{}", HEXLOWER.encode(request.payload.sha256()));
                HeaderValue::try_from(text).ok()
            }
        };
        Name { id, record: Some(digest.finalize().into()) }
    }
}

/// The digest of what is fresh in each request; `None` if the scheme knows nothing of the kind.
pub(super) fn identity(request: &Request<'_>, slots: &[usize]) -> Option<[u8; 16]> {
    if slots.is_empty() {
        return None;
    }
    let mut digest = Sha256::new();
    slots.iter().for_each(|slot| part(&mut digest, request.header(*slot)));
    Some(short(digest))
}

/// The digest of what the signature does not cover but the upstream acts on: path and query, and the
/// headers that the scheme pins.
pub(super) fn pin(request: &Request<'_>, slots: &[usize]) -> [u8; 16] {
    let mut digest = Sha256::new();
    let path = request.head.uri.path_and_query().map_or("/", |path| path.as_str());
    part(&mut digest, Some(path.as_bytes()));
    slots.iter().for_each(|slot| part(&mut digest, request.header(*slot)));
    short(digest)
}
