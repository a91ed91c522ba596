//! The work of a verification: whatever the body is, it is linear in the body. The input describes
//! a body as a repeated part with a start and an end. The verification of 64 KiB may take at most
//! [`MOST`] times as long as that of 16 KiB, and may allocate at most [`ALLOCATED`] bytes for each
//! byte of the body. Ratios within one scheme do not depend on the fuzzer's instrumentation.

#![no_main]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::LazyLock,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, request::Parts};
use libfuzzer_sys::fuzz_target;
use sealgate::internals::{
    body::Payload,
    scheme::{Credentials, Draft, Scheme, UnixMillis, Verifier},
    secret::Secret,
};

const NOW: UnixMillis = UnixMillis(1_758_184_391_752);
const PATH: &str = "/in?a=b";
const LENGTH: usize = 64 << 10;
/// Linear work takes 4 times as long, and work that grows with the square of the body 16 times.
const MOST: u32 = 10;
/// Shorter times are not compared, because other work on the machine distorts them.
const SHORTEST: Duration = Duration::from_micros(100);
const ALLOCATED: usize = 64;

thread_local! {
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

/// Counts what each thread allocates.
struct Counting;

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = BYTES.try_with(|bytes| bytes.set(bytes.get() + layout.size()));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn verifier(id: &str) -> Option<Verifier> {
    let scheme = Scheme::builtin(id)?;
    let secret = match scheme.proof() {
        "user and password" => format!("user:{}", "c0ffee".repeat(8)),
        _ => "c0ffee".repeat(8),
    };
    let credentials = Credentials {
        global: vec![Secret::new(secret.into_bytes())],
        public_url: Some("https://hooks.example.com/in?a=b".to_owned()),
        ..Credentials::default()
    };
    Verifier::new(scheme, "fuzz", credentials).ok()
}

/// The head of a signed request, whose signature is that of another body.
fn head(verifier: &Verifier) -> Parts {
    let body = Payload::from(Bytes::from_static(b"{}"));
    let draft = Draft { method: Method::POST, path: PATH, headers: HeaderMap::new(), body: &body };
    let headers = verifier.sign(None, draft, NOW).unwrap_or_default();
    let mut request = Request::post(PATH).body(()).expect("a request");
    *request.headers_mut() = headers;
    for name in verifier.headers() {
        let value = HeaderValue::from_static("1758184391");
        request.headers_mut().entry(name.clone()).or_insert(value);
    }
    request.into_parts().0
}

static TARGETS: LazyLock<Vec<(Verifier, Parts)>> = LazyLock::new(|| {
    let verifiers = Scheme::builtin_ids().filter_map(verifier);
    verifiers.map(|verifier| (head(&verifier), verifier)).map(|(h, v)| (v, h)).collect()
});

fn time(verifier: &Verifier, head: &Parts, body: &Bytes) -> Duration {
    let payload = Payload::from(body.clone());
    let start = Instant::now();
    let _ = verifier.authenticate(head, &payload, NOW);
    start.elapsed()
}

// The first byte chooses the scheme; the rest is start, repeated part and end, separated by `\0`.
fuzz_target!(|input: &[u8]| {
    let Some((choice, input)) = input.split_first() else { return };
    let (verifier, head) = &TARGETS[usize::from(*choice) % TARGETS.len()];
    let mut parts = input.splitn(3, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (start, unit, end) = (part(), part(), part());
    let body = |length: usize| {
        let count = length.saturating_sub(start.len() + end.len()) / unit.len().max(1);
        Bytes::from([start, &unit.repeat(count), end].concat())
    };
    let (quarter, body) = (body(LENGTH / 4), body(LENGTH));
    let quarter = (0..5).map(|_| time(verifier, head, &quarter)).min().expect("five times");
    let most = quarter.max(SHORTEST) * MOST;

    let before = BYTES.get();
    let mut shortest = time(verifier, head, &body);
    let allocated = BYTES.get() - before;
    assert!(allocated <= ALLOCATED * LENGTH, "{} allocated {allocated}", verifier.scheme().id());
    // Something else may have run in the meantime.
    for _ in 0..20 {
        if shortest <= most {
            return;
        }
        shortest = shortest.min(time(verifier, head, &body));
    }
    panic!("{} took {shortest:?}, at most {most:?}", verifier.scheme().id());
});
