//! Request IDs: 32 hex digits that name one request in the log, in the response and in the request
//! to the upstream.

use std::sync::{
    LazyLock,
    atomic::{AtomicU64, Ordering},
};

use data_encoding::HEXLOWER;
use http::HeaderValue;

/// Returns the next ID: 16 hex digits of this process, 16 of the request.
pub(super) fn next() -> HeaderValue {
    static PROCESS: LazyLock<[u8; 8]> = LazyLock::new(|| {
        getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id())).to_be_bytes()
    });
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let mut digits = [0; 32];
    let (of_process, of_request) = digits.split_at_mut(16);
    HEXLOWER.encode_mut(&*PROCESS, of_process);
    HEXLOWER.encode_mut(&number, of_request);
    HeaderValue::from_bytes(&digits).expect("hex digits are a header value")
}
