//! Entries and requests of the event store. For all bytes: reading does not panic, and what is read
//! is written and read again as the same value.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use sealgate::internals::events::{decode_entry, decode_request, encode_entry, encode_request};

fuzz_target!(|bytes: &[u8]| {
    if let Some(entry) = decode_entry(bytes) {
        assert_eq!(decode_entry(&encode_entry(&entry)), Some(entry));
    }
    if let Some(request) = decode_request(&Bytes::copy_from_slice(bytes)) {
        assert_eq!(decode_request(&encode_request(&request).into()), Some(request));
    }
});
