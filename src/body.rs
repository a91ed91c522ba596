//! Request bodies: bounded reading, and the bytes that are verified and forwarded.
//!
//! One body is at most [`BodyLimits::bytes`] long and arrives within [`BodyLimits::time`]; its
//! memory is charged to a [`Reservation`]. Small pieces are copied together, so that a body sent
//! one byte at a time costs its length and not one buffer per byte.

use std::{
    mem,
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};

use crate::{
    capacity::{Reservation, RouteShare},
    reject::{Reject, Shed},
};

/// Shorter pieces are copied together.
const SMALL: usize = 2048;
/// Maximum length of pieces that were copied together.
const PIECE: usize = 4 * 1024;

/// Limits of one body.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Maximum length, in bytes.
    pub bytes: u64,
    /// Timeout from the first wait for the body to its last byte.
    pub time: Duration,
}

/// A complete body: the bytes that are verified are the bytes that are forwarded.
#[derive(Debug)]
pub struct Payload {
    chunks: Vec<Bytes>,
    length: usize,
    sha256: OnceLock<[u8; 32]>,
    whole: OnceLock<Bytes>,
    reservation: Option<Reservation>,
    /// Whether another handle on the bytes relies on their being charged to this one.
    is_kept: bool,
}

impl Payload {
    /// Returns the pieces, in order. None of them is empty.
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// Returns the length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns whether there is no body.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Returns the body in one piece; without a copy if it arrived in one.
    pub fn whole(&self) -> &[u8] {
        match self.chunks.as_slice() {
            [] => &[],
            [only] => only,
            many => self.whole.get_or_init(|| many.concat().into()),
        }
    }

    /// Returns a copy that can be kept for longer. Its bytes are charged again; `None` if there is
    /// no memory left.
    pub fn shared(&self) -> Option<Payload> {
        let reservation = match &self.reservation {
            None => None,
            Some(own) => Some(own.copy()?),
        };
        Some(Payload {
            chunks: self.chunks.clone(),
            length: self.length,
            sha256: self.sha256.clone(),
            whole: OnceLock::new(),
            reservation,
            is_kept: false,
        })
    }

    /// Returns a second handle on the body. Its bytes stay charged to this one until that is
    /// dropped, even after they were sent.
    pub(crate) fn keep(&mut self) -> Payload {
        self.is_kept = true;
        Payload {
            chunks: self.chunks.clone(),
            length: self.length,
            sha256: self.sha256.clone(),
            whole: OnceLock::new(),
            reservation: None,
            is_kept: false,
        }
    }

    /// Returns the body in one piece; without a copy if it arrived in one.
    pub(crate) fn bytes(&self) -> Bytes {
        match self.chunks.as_slice() {
            [] => Bytes::new(),
            [only] => only.clone(),
            many => many.concat().into(),
        }
    }

    /// Holds the memory of the body as one of a route; see [`Reservation::hold`].
    ///
    /// # Errors
    /// [`Reject::Overloaded`].
    pub fn hold(&mut self, route: &Arc<RouteShare>, authentic: bool) -> Result<(), Reject> {
        self.reservation.as_mut().map_or(Ok(()), |own| own.hold(route, authentic))
    }

    /// Returns empty memory for a body that responds to this one; `None` if this one is not
    /// charged.
    pub(crate) fn response_memory(&self) -> Option<Reservation> {
        self.reservation.as_ref()?.for_response()
    }

    /// Releases the bytes of a body that is no longer needed.
    pub(crate) fn clear(&mut self) {
        (self.chunks, self.length, self.whole) = (Vec::new(), 0, OnceLock::new());
        if let Some(reservation) = self.reservation.as_mut().filter(|_| !self.is_kept) {
            reservation.clear();
        }
    }

    /// Returns the body as text, if all of it is UTF-8.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(self.whole()).ok()
    }

    /// Returns the SHA-256 of the body, computed while it was received or now.
    pub fn sha256(&self) -> &[u8; 32] {
        self.sha256.get_or_init(|| {
            let mut digest = Sha256::new();
            self.chunks.iter().for_each(|chunk| digest.update(chunk));
            digest.finalize().into()
        })
    }
}

impl From<Bytes> for Payload {
    /// Returns a body that is in memory already and charged to nothing.
    fn from(bytes: Bytes) -> Self {
        Payload {
            length: bytes.len(),
            chunks: if bytes.is_empty() { Vec::new() } else { vec![bytes] },
            sha256: OnceLock::new(),
            whole: OnceLock::new(),
            reservation: None,
            is_kept: false,
        }
    }
}

/// Checks the length that `Content-Length` announces.
///
/// # Errors
/// [`Reject::BodyTooLarge`].
pub fn check_announced(body: &impl Body, limits: BodyLimits) -> Result<(), Reject> {
    if body.size_hint().lower() > limits.bytes { Err(Reject::BodyTooLarge) } else { Ok(()) }
}

/// Receives a body. With `digest`, SHA-256 is computed piece by piece as they arrive.
///
/// # Errors
/// [`Reject::BodyTooLarge`], [`Reject::BodyTimeout`], [`Reject::BodyAborted`] or, when there is no
/// memory left, [`Reject::Overloaded`].
pub async fn receive<B>(
    body: B,
    limits: BodyLimits,
    reservation: Reservation,
    digest: bool,
) -> Result<Payload, Reject>
where
    B: Body<Data = Bytes>,
{
    check_announced(&body, limits)?;
    tokio::time::timeout(limits.time, collect(body, limits.bytes, reservation, digest))
        .await
        .unwrap_or(Err(Reject::BodyTimeout))
}

async fn collect<B>(
    body: B,
    limit: u64,
    mut reservation: Reservation,
    digest: bool,
) -> Result<Payload, Reject>
where
    B: Body<Data = Bytes>,
{
    let mut body = pin!(body);
    let mut sha256 = digest.then(Sha256::new);
    let mut chunks: Vec<Bytes> = Vec::new();
    let mut small = BytesMut::new();
    let mut length = 0usize;
    loop {
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            () = reservation.evicted() => return Err(Reject::Overloaded(Shed::Memory)),
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| Reject::BodyAborted)?;
        let Ok(data) = frame.into_data() else { continue };
        if data.is_empty() {
            continue;
        }
        length += data.len();
        if length as u64 > limit {
            return Err(Reject::BodyTooLarge);
        }
        reservation.grow(data.len() as u64)?;
        if let Some(sha256) = &mut sha256 {
            sha256.update(&data);
        }
        let whole = length == data.len() && body.is_end_stream();
        if !whole && data.len() < SMALL {
            // A small piece would keep the whole buffer that it was read into.
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
        reservation: Some(reservation),
        is_kept: false,
    })
}

#[cfg(test)]
mod tests;
