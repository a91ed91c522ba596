//! The bytes of entries and requests in a store.
//!
//! Numbers are LEB128, texts are preceded by their lengths, and the first byte is the version of
//! the format.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use bytes::Bytes;
use http::{HeaderValue, Method};

use super::model::{
    DeliveryAttempt, EventEntry, EventId, EventState, OrderKey, Refusal, StoredRequest,
};
use crate::scheme::{ContextPin, EventKey};

/// The version of the format.
const VERSION: u8 = 1;

const HAS_EVENT_ID: u64 = 1;
const HAS_NEXT_ATTEMPT: u64 = 1 << 1;
const HAS_RECORD: u64 = 1 << 2;
const HAS_ORDER: u64 = 1 << 3;
const POSSIBLE_DUPLICATE: u64 = 1 << 4;
const REDELIVERY: u64 = 1 << 5;
const HAS_REQUEST: u64 = 1 << 6;
const HAS_REFUSAL: u64 = 1 << 7;

const HAS_STATUS: u64 = 1;
const HAS_ERROR: u64 = 1 << 1;
const RESIGNED: u64 = 1 << 2;

const IS_HTTP2: u64 = 1;
const TLS: u64 = 1 << 1;
const HAS_CLIENT: u64 = 1 << 2;

const HAS_DIAGNOSIS: u64 = 1;

impl EventState {
    /// Returns the number of the state in the files.
    pub(super) const fn number(self) -> u8 {
        match self {
            EventState::Pending => 0,
            EventState::Delivering => 1,
            EventState::Delivered => 2,
            EventState::Dead => 3,
            EventState::Refused => 4,
            EventState::Failed => 5,
        }
    }

    fn of_number(number: u8) -> Option<Self> {
        EventState::ALL.into_iter().find(|state| state.number() == number)
    }
}

/// Returns the bytes of an entry.
pub fn encode_entry(entry: &EventEntry) -> Vec<u8> {
    let mut out = Vec::with_capacity(192 + entry.log.len() * 16);
    out.push(VERSION);
    out.push(entry.state.number());
    let mut flags = 0;
    let mut flag = |is_set: bool, flag: u64| flags |= if is_set { flag } else { 0 };
    flag(entry.event_id.is_some(), HAS_EVENT_ID);
    flag(entry.next_attempt.is_some(), HAS_NEXT_ATTEMPT);
    flag(entry.record.is_some(), HAS_RECORD);
    flag(entry.order.is_some(), HAS_ORDER);
    flag(entry.possible_duplicate, POSSIBLE_DUPLICATE);
    flag(entry.redelivery, REDELIVERY);
    flag(entry.has_request, HAS_REQUEST);
    flag(entry.refusal.is_some(), HAS_REFUSAL);
    number(&mut out, flags);
    out.extend(entry.id.0.to_be_bytes());
    out.extend(entry.pin.0);
    text(&mut out, entry.route.as_bytes());
    text(&mut out, entry.scheme.as_bytes());
    text(&mut out, entry.key.as_bytes());
    number(&mut out, entry.secret.into());
    number(&mut out, entry.received);
    number(&mut out, entry.attempts.into());
    number(&mut out, entry.expires);
    number(&mut out, entry.bytes);
    if let Some(id) = &entry.event_id {
        text(&mut out, id.as_bytes());
    }
    if let Some(next) = entry.next_attempt {
        number(&mut out, next);
    }
    if let Some(record) = &entry.record {
        out.extend(record.0);
    }
    if let Some(order) = &entry.order {
        out.extend(order.0);
    }
    number(&mut out, entry.log.len() as u64);
    for attempt in &entry.log {
        let mut flags = 0;
        flags |= if attempt.status.is_some() { HAS_STATUS } else { 0 };
        flags |= if attempt.error.is_some() { HAS_ERROR } else { 0 };
        flags |= if attempt.resigned { RESIGNED } else { 0 };
        number(&mut out, flags);
        number(&mut out, attempt.at);
        number(&mut out, attempt.duration_ms.into());
        if let Some(status) = attempt.status {
            number(&mut out, status.into());
        }
        if let Some(error) = &attempt.error {
            text(&mut out, error.as_bytes());
        }
    }
    if let Some(refusal) = &entry.refusal {
        number(&mut out, if refusal.diagnosis.is_some() { HAS_DIAGNOSIS } else { 0 });
        text(&mut out, refusal.reason.as_bytes());
        text(&mut out, refusal.network.as_bytes());
        if let Some(diagnosis) = &refusal.diagnosis {
            text(&mut out, diagnosis.as_bytes());
        }
    }
    out
}

/// Reads an entry; returns `None` if the bytes are none of a known version.
pub fn decode_entry(bytes: &[u8]) -> Option<EventEntry> {
    let mut input = Input(bytes);
    if input.byte()? != VERSION {
        return None;
    }
    let state = EventState::of_number(input.byte()?)?;
    let flags = input.number()?;
    let has = |flag| flags & flag != 0;
    let entry = EventEntry {
        state,
        id: EventId(u128::from_be_bytes(input.array()?)),
        pin: ContextPin(input.array()?),
        route: input.text()?,
        scheme: input.text()?,
        key: input.text()?,
        secret: input.small()?,
        received: input.number()?,
        attempts: input.small()?,
        expires: input.number()?,
        bytes: input.number()?,
        event_id: if has(HAS_EVENT_ID) { Some(input.text()?) } else { None },
        next_attempt: if has(HAS_NEXT_ATTEMPT) { Some(input.number()?) } else { None },
        record: if has(HAS_RECORD) { Some(EventKey(input.array()?)) } else { None },
        order: if has(HAS_ORDER) { Some(OrderKey(input.array()?)) } else { None },
        possible_duplicate: has(POSSIBLE_DUPLICATE),
        redelivery: has(REDELIVERY),
        has_request: has(HAS_REQUEST),
        log: {
            let length = input.number()?;
            (0..length).map(|_| input.attempt()).collect::<Option<_>>()?
        },
        refusal: if has(HAS_REFUSAL) { Some(input.refusal()?) } else { None },
    };
    input.is_empty().then_some(entry)
}

/// Returns the bytes of a request.
pub fn encode_request(request: &StoredRequest) -> Vec<u8> {
    let headers: usize =
        request.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    let mut out = Vec::with_capacity(128 + request.target.len() + headers + request.body.len());
    out.push(VERSION);
    let mut flags = 0;
    flags |= if request.is_http2 { IS_HTTP2 } else { 0 };
    flags |= if request.tls { TLS } else { 0 };
    flags |= if request.client.is_some() { HAS_CLIENT } else { 0 };
    number(&mut out, flags);
    address(&mut out, request.peer);
    if let Some((client, position)) = request.client {
        address(&mut out, client);
        number(&mut out, position.into());
    }
    text(&mut out, request.method.as_str().as_bytes());
    text(&mut out, request.target.as_bytes());
    text(&mut out, request.request_id.as_bytes());
    number(&mut out, request.headers.len() as u64);
    for (name, value) in &request.headers {
        text(&mut out, name.as_bytes());
        text(&mut out, value.as_bytes());
    }
    out.extend_from_slice(&request.body);
    out
}

/// Reads a request; returns `None` if the bytes are none of a known version.
pub fn decode_request(bytes: &Bytes) -> Option<StoredRequest> {
    let mut input = Input(bytes);
    if input.byte()? != VERSION {
        return None;
    }
    let flags = input.number()?;
    let has = |flag| flags & flag != 0;
    let request = StoredRequest {
        is_http2: has(IS_HTTP2),
        tls: has(TLS),
        peer: input.address()?,
        client: if has(HAS_CLIENT) { Some((input.address()?, input.small()?)) } else { None },
        method: Method::from_bytes(input.bytes()?).ok()?,
        target: input.text()?,
        request_id: HeaderValue::from_bytes(input.bytes()?).ok()?,
        headers: {
            let length = input.number()?;
            let mut header = || {
                let name = std::str::from_utf8(input.bytes()?).ok()?.into();
                Some((name, HeaderValue::from_bytes(input.bytes()?).ok()?))
            };
            (0..length).map(|_| header()).collect::<Option<_>>()?
        },
        body: bytes.slice_ref(input.0),
    };
    Some(request)
}

fn number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn text(out: &mut Vec<u8>, text: &[u8]) {
    number(out, text.len() as u64);
    out.extend_from_slice(text);
}

fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => text(out, &address.octets()),
        IpAddr::V6(address) => text(out, &address.octets()),
    }
}

/// The bytes that have not been read yet.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    /// Reads a number in the only form in which [`number`] writes it.
    fn number(&mut self) -> Option<u64> {
        let mut read = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
                return None;
            }
            read |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(read);
            }
        }
        None
    }

    fn small<T: TryFrom<u64>>(&mut self) -> Option<T> {
        self.number()?.try_into().ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.small()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<Arc<str>> {
        std::str::from_utf8(self.bytes()?).ok().map(Arc::from)
    }

    fn address(&mut self) -> Option<IpAddr> {
        let bytes = self.bytes()?;
        if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
            return Some(Ipv4Addr::from(octets).into());
        }
        Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
    }

    fn attempt(&mut self) -> Option<DeliveryAttempt> {
        let flags = self.number()?;
        Some(DeliveryAttempt {
            at: self.number()?,
            duration_ms: self.small()?,
            status: if flags & HAS_STATUS != 0 { Some(self.small()?) } else { None },
            error: if flags & HAS_ERROR != 0 { Some(self.text()?) } else { None },
            resigned: flags & RESIGNED != 0,
        })
    }

    fn refusal(&mut self) -> Option<Refusal> {
        let flags = self.number()?;
        Some(Refusal {
            reason: self.text()?,
            network: self.text()?,
            diagnosis: if flags & HAS_DIAGNOSIS != 0 { Some(self.text()?) } else { None },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> EventEntry {
        EventEntry {
            id: EventId(1 << 90 | 77),
            route: "orders".into(),
            scheme: "vivoldi".into(),
            event_id: Some("evt_1".into()),
            key: "main".into(),
            secret: 2,
            state: EventState::Pending,
            received: 1_764_500_000_000,
            attempts: 300,
            next_attempt: Some(u64::MAX),
            expires: 1_764_600_000_000,
            bytes: 1024,
            record: Some(EventKey([1; 16])),
            pin: ContextPin([3; 16]),
            order: Some(OrderKey([4; 16])),
            possible_duplicate: true,
            redelivery: false,
            has_request: true,
            log: vec![
                DeliveryAttempt {
                    at: 1,
                    status: Some(503),
                    error: None,
                    duration_ms: 0,
                    resigned: true,
                },
                DeliveryAttempt {
                    at: 2,
                    status: None,
                    error: Some("timeout".into()),
                    duration_ms: u32::MAX,
                    resigned: false,
                },
            ],
            refusal: None,
        }
    }

    #[test]
    fn an_entry_is_read_as_it_is_written() {
        let pending = entry();
        let refusal =
            Refusal { reason: "stale".into(), diagnosis: None, network: "192.0.2.0/24".into() };
        let diagnosed = Refusal { diagnosis: Some("an old timestamp".into()), ..refusal.clone() };
        let refused = EventEntry {
            state: EventState::Refused,
            event_id: None,
            next_attempt: None,
            record: None,
            order: None,
            log: Vec::new(),
            refusal: Some(refusal),
            ..entry()
        };
        let diagnosed = EventEntry { refusal: Some(diagnosed), ..refused.clone() };
        for entry in [pending, refused, diagnosed] {
            let bytes = encode_entry(&entry);
            assert_eq!(decode_entry(&bytes), Some(entry));
            for length in 0..bytes.len() {
                assert_eq!(decode_entry(&bytes[..length]), None);
            }
            assert_eq!(decode_entry(&[&bytes[..], &[0]].concat()), None);
        }
    }

    #[test]
    fn a_request_is_read_as_it_is_written() {
        let request = StoredRequest {
            method: Method::from_bytes(b"PURGE").unwrap(),
            target: "/a?b".into(),
            is_http2: true,
            headers: vec![
                ("X-One".into(), HeaderValue::from_static("1")),
                ("x-one".into(), HeaderValue::from_bytes(b"\xff").unwrap()),
            ],
            body: Bytes::from_static(b"\0body"),
            peer: "192.0.2.7".parse().unwrap(),
            tls: true,
            client: Some(("2001:db8::1".parse().unwrap(), 3)),
            request_id: HeaderValue::from_static("id"),
        };
        let plain = StoredRequest {
            client: None,
            headers: Vec::new(),
            body: Bytes::new(),
            is_http2: false,
            ..request.clone()
        };
        for request in [request, plain] {
            let bytes = Bytes::from(encode_request(&request));
            assert_eq!(decode_request(&bytes), Some(request));
        }
    }
}
