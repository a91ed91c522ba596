//! The reader of an upstream's response: no bytes panic, the result does not depend on how they are
//! cut into reads, and a response keeps the limits and has no hop-by-hop header.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use sealgate::internals::upstream::{ReceivedResponse, ResponseLimits, ResponseReader};

const LIMITS: ResponseLimits = ResponseLimits { head_bytes: 512, body_bytes: 256 };
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
    let mut reader = ResponseReader::new(LIMITS, to_head);
    let mut buffer = BytesMut::new();
    let whole = loop {
        match pieces.next() {
            Some(piece) => buffer.extend_from_slice(piece),
            None => break reader.finish(&mut buffer).ok()?,
        }
        if let Some(whole) = reader.advance(&mut buffer).ok()? {
            break whole;
        }
    };
    let ReceivedResponse { response, omission, persistent, faults } = whole;
    let is_body_omitted = omission.is_some();
    assert!(faults.is_empty() || !persistent);
    assert!(!response.status.is_informational());
    assert!(response.body.len() as u64 <= LIMITS.body_bytes);
    assert!(!is_body_omitted || (response.body.is_empty() && !persistent));
    assert!(!to_head || response.body.is_empty());
    for name in NEVER {
        assert!(!response.headers.contains_key(name));
    }
    pieces.for_each(|piece| buffer.extend_from_slice(piece));
    let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (name.to_string(), value.as_bytes().to_vec())
    };
    let headers = response.headers.iter().map(header).collect();
    let (status, body) = (response.status.as_u16(), response.body.to_vec());
    Some((status, headers, body, is_body_omitted, persistent, buffer.to_vec()))
}
