//! The parser of upstream responses: no bytes make it panic, the result does not depend on how they
//! are split into reads, and a parsed response respects the bounds and contains no hop-by-hop
//! header.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use sealgate::upstream::{Bounds, ResponseHead, Whole};

const BOUNDS: Bounds = Bounds { head_bytes: 512, body_bytes: 256 };
const NEVER: [&str; 4] = ["connection", "transfer-encoding", "content-length", "sealgate-answer"];

type Seen = Option<(u16, Vec<(String, Vec<u8>)>, Vec<u8>, bool, bool, Vec<u8>)>;

fuzz_target!(|input: &[u8]| {
    let Some((how, bytes)) = input.split_first() else { return };
    let (to_head, from_headers, size) = (how & 1 == 1, how & 2 == 2, usize::from(how >> 2) + 1);
    let start: &[u8] = if from_headers { b"HTTP/1.1 200 OK\r\n" } else { b"" };
    let bytes = [start, bytes].concat();
    let whole = read([bytes.as_slice()].into_iter(), to_head);
    assert_eq!(whole, read(bytes.chunks(1), to_head), "byte by byte");
    assert_eq!(whole, read(bytes.chunks(size), to_head), "in pieces");
});

fn read<'p>(mut pieces: impl Iterator<Item = &'p [u8]>, to_head: bool) -> Seen {
    let mut reading = ResponseHead::new(BOUNDS, to_head);
    let mut buffer = BytesMut::new();
    let whole = loop {
        match pieces.next() {
            Some(piece) => buffer.extend_from_slice(piece),
            None => break reading.end(&mut buffer).ok()?,
        }
        if let Some(whole) = reading.read_on(&mut buffer).ok()? {
            break whole;
        }
    };
    let Whole { answer, left_out, persistent } = whole;
    assert!(!answer.status.is_informational());
    assert!(answer.body.len() as u64 <= BOUNDS.body_bytes);
    assert!(!left_out || (answer.body.is_empty() && !persistent));
    assert!(!to_head || answer.body.is_empty());
    for name in NEVER {
        assert!(!answer.headers.contains_key(name));
    }
    pieces.for_each(|piece| buffer.extend_from_slice(piece));
    let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (name.to_string(), value.as_bytes().to_vec())
    };
    let headers = answer.headers.iter().map(header).collect();
    let (status, body) = (answer.status.as_u16(), answer.body.to_vec());
    Some((status, headers, body, left_out, persistent, buffer.to_vec()))
}
