//! Bounded reading of request bodies.
//!
//! Limits: one body is at most [`Limits::bytes`] long and arrives within [`Limits::time`]; all
//! bodies together hold at most [`Budget`] bytes. Bytes are charged when they have arrived, not when
//! `Content-Length` announces them, so an attacker cannot book memory with a header. Small pieces are
//! copied together, so that a body sent one byte at a time costs its length and not a buffer a byte.

use std::{
    mem,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};

use crate::reject::Reject;

/// Pieces shorter than this are copied together.
const SMALL: usize = 2048;
/// Up to this length, beyond which growing would leave too much unused.
const PIECE: usize = 4 * 1024;

/// What one body may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest body, in bytes.
    pub bytes: u64,
    /// From the first wait for the body to its last byte.
    pub time: Duration,
}

/// The memory that all bodies may hold at one time.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Budget { limit, used: AtomicU64::new(0) })
    }

    /// How many bytes are held now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// The part of a [`Budget`] that one body holds; given back when dropped.
#[derive(Debug)]
pub(crate) struct BodyShare {
    budget: Arc<Budget>,
    bytes: u64,
}

/// Bytes that are charged to a [`Budget`] until the last handle to them is dropped.
struct ChargedBytes {
    bytes: Bytes,
    _share: BodyShare,
}

impl AsRef<[u8]> for ChargedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl BodyShare {
    /// Charges as many bytes as are missing to `bytes`.
    ///
    /// # Errors
    /// [`Reject::Overloaded`] if the budget is spent.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> Result<(), Reject> {
        self.grow((bytes as u64).saturating_sub(self.bytes))
    }

    /// Returns `bytes` charged to this share.
    pub(crate) fn attach(self, bytes: Bytes) -> Bytes {
        if bytes.is_empty() {
            bytes
        } else {
            Bytes::from_owner(ChargedBytes { bytes, _share: self })
        }
    }

    fn grow(&mut self, more: u64) -> Result<(), Reject> {
        let used = self.budget.used.fetch_add(more, Ordering::Relaxed);
        self.bytes += more;
        if used.saturating_add(more) > self.budget.limit {
            return Err(Reject::Overloaded("memory for bodies"));
        }
        Ok(())
    }
}

impl Drop for BodyShare {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A whole body, as it came: the bytes that are verified and the bytes that are forwarded.
#[derive(Debug)]
pub struct Payload {
    chunks: Vec<Bytes>,
    length: usize,
    sha256: OnceLock<[u8; 32]>,
    whole: OnceLock<Bytes>,
    share: Option<BodyShare>,
}

impl Payload {
    /// The pieces, in order; none of them is empty.
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is no body.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The body in one piece; free if it came in one.
    pub fn whole(&self) -> &[u8] {
        match self.chunks.as_slice() {
            [] => &[],
            [only] => only,
            many => self.whole.get_or_init(|| many.concat().into()),
        }
    }

    /// The same body once more, for somebody who may hold it longer. Its bytes are charged to the
    /// budget again; `None` if that is spent.
    pub fn shared(&self) -> Option<Payload> {
        let share = match &self.share {
            None => None,
            Some(own) => {
                let mut share = BodyShare { budget: Arc::clone(&own.budget), bytes: 0 };
                share.grow(own.bytes).ok()?;
                Some(share)
            }
        };
        Some(Payload {
            chunks: self.chunks.clone(),
            length: self.length,
            sha256: self.sha256.clone(),
            whole: OnceLock::new(),
            share,
        })
    }

    /// Returns an empty share of the budget that the body is charged to; `None` if it is not charged.
    pub(crate) fn empty_share(&self) -> Option<BodyShare> {
        let budget = Arc::clone(&self.share.as_ref()?.budget);
        Some(BodyShare { budget, bytes: 0 })
    }

    /// Releases the bytes of a body that is no longer needed.
    pub(crate) fn clear(&mut self) {
        (self.chunks, self.length, self.whole) = (Vec::new(), 0, OnceLock::new());
        if let Some(share) = &mut self.share {
            share.budget.used.fetch_sub(share.bytes, Ordering::Relaxed);
            share.bytes = 0;
        }
    }

    /// The body as text, if it is UTF-8 throughout.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(self.whole()).ok()
    }

    /// SHA-256 of the body; free if it was taken on the way in.
    pub fn sha256(&self) -> &[u8; 32] {
        self.sha256.get_or_init(|| {
            let mut digest = Sha256::new();
            self.chunks.iter().for_each(|chunk| digest.update(chunk));
            digest.finalize().into()
        })
    }
}

impl From<Bytes> for Payload {
    /// A body that is in memory already.
    fn from(bytes: Bytes) -> Self {
        Payload {
            length: bytes.len(),
            chunks: if bytes.is_empty() { Vec::new() } else { vec![bytes] },
            sha256: OnceLock::new(),
            whole: OnceLock::new(),
            share: None,
        }
    }
}

/// Reads a body to its end. With `digest`, SHA-256 is taken piece by piece as they arrive.
///
/// # Errors
/// [`Reject::BodyTooLarge`], [`Reject::BodyTimeout`], [`Reject::BodyAborted`] or, when the budget is
/// spent, [`Reject::Overloaded`].
pub async fn receive<B>(
    body: B,
    limits: Limits,
    budget: &Arc<Budget>,
    digest: bool,
) -> Result<Payload, Reject>
where
    B: Body<Data = Bytes>,
{
    let announced = body.size_hint().lower();
    if announced > limits.bytes {
        return Err(Reject::BodyTooLarge);
    }
    tokio::time::timeout(limits.time, collect(body, limits.bytes, budget, digest))
        .await
        .unwrap_or(Err(Reject::BodyTimeout))
}

async fn collect<B>(
    body: B,
    limit: u64,
    budget: &Arc<Budget>,
    digest: bool,
) -> Result<Payload, Reject>
where
    B: Body<Data = Bytes>,
{
    let mut body = pin!(body);
    let mut share = BodyShare { budget: Arc::clone(budget), bytes: 0 };
    let mut sha256 = digest.then(Sha256::new);
    let mut chunks: Vec<Bytes> = Vec::new();
    let mut small = BytesMut::new();
    let mut length = 0usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Reject::BodyAborted)?;
        let Ok(data) = frame.into_data() else { continue };
        if data.is_empty() {
            continue;
        }
        length += data.len();
        if length as u64 > limit {
            return Err(Reject::BodyTooLarge);
        }
        share.grow(data.len() as u64)?;
        if let Some(sha256) = &mut sha256 {
            sha256.update(&data);
        }
        let whole = length == data.len() && body.is_end_stream();
        if !whole && data.len() < SMALL {
            // Kept as it is, a piece would hold on to the whole buffer that it was read into.
            if small.len() + data.len() > PIECE {
                chunks.push(mem::take(&mut small).freeze());
            }
            small.extend_from_slice(&data);
        } else {
            if !small.is_empty() {
                chunks.push(mem::take(&mut small).freeze());
            }
            chunks.push(data);
        }
    }
    if !small.is_empty() {
        chunks.push(small.freeze());
    }
    Ok(Payload {
        chunks,
        length,
        sha256: sha256.map(|d| OnceLock::from(<[u8; 32]>::from(d.finalize()))).unwrap_or_default(),
        whole: OnceLock::new(),
        share: Some(share),
    })
}

#[cfg(test)]
mod tests;
