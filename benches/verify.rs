//! The cost of verification, compared with plain SHA-256 and HMAC of the same bytes, and with
//! hand-written checks for Vivoldi.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, Method, Request, request::Parts};
use sealgate::internals::{
    body::Payload,
    scheme::{Credentials, Draft, Scheme, UnixMillis, Verifier},
    secret::Secret,
};
use sha2::{Digest, Sha256};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NOW: UnixMillis = UnixMillis(1_758_184_391_752);
const KEY: &[u8] = b"a-secret-of-thirty-two-bytes-....";

fn verifier() -> Verifier {
    let scheme = Scheme::builtin("vivoldi").expect("built in");
    let global = vec![Secret::new(KEY.to_vec())];
    Verifier::new(scheme, "bench", Credentials { global, ..Credentials::default() })
        .expect("a secret is all it needs")
}

/// Returns a signed request with a body of `size` bytes.
fn signed(verifier: &Verifier, size: usize) -> (Parts, Bytes) {
    let body = Bytes::from(vec![b'x'; size]);
    let path = "/webhooks/vivoldi";
    let draft = Draft {
        method: Method::POST,
        path,
        headers: HeaderMap::new(),
        body: &Payload::from(body.clone()),
    };
    let headers = verifier.sign(Some("global"), draft, NOW).expect("it can be signed");
    let mut request = Request::post(path).header("host", "hooks.example.com");
    for (name, value) in [("content-type", "application/json"), ("user-agent", "vivoldi")] {
        request = request.header(name, value);
    }
    for (name, value) in &headers {
        request = request.header(name, value);
    }
    let (head, ()) = request.body(()).expect("a request").into_parts();
    (head, body)
}

/// Computes what every verifier needs: the digest of the body and the MAC of the signed text.
fn bare(body: &[u8]) -> bool {
    bare_prepared(&Hmac::<Sha256>::new_from_slice(black_box(KEY)).expect("any length"), body)
}

/// Same as [`bare`], with a prepared key.
fn bare_prepared(prepared: &Hmac<Sha256>, body: &[u8]) -> bool {
    let digest = Sha256::digest(body);
    let mut mac = prepared.clone();
    mac.update(b"1758184391752.89365c75dae740ac8500dfc48c5014b5.");
    mac.update(data_encoding::HEXLOWER.encode(&digest).as_bytes());
    mac.verify_slice(black_box(&[0; 32])).is_ok()
}

/// Vivoldi's headers that must not be present twice.
const ONCE: [&str; 9] = [
    "x-vivoldi-signature",
    "x-vivoldi-timestamp",
    "x-vivoldi-event-id",
    "x-vivoldi-request-id",
    "x-vivoldi-webhook-type",
    "x-vivoldi-resource-type",
    "x-vivoldi-action-type",
    "x-vivoldi-comp-idx",
    "x-content-sha256",
];

/// Hand-written checks of Vivoldi's scheme, for a route with a global key.
fn by_hand(prepared: &Hmac<Sha256>, head: &Parts, body: &[u8], now: i64) -> Option<Vec<u8>> {
    let mut found: [Option<&[u8]>; 9] = [None; 9];
    for (name, value) in &head.headers {
        let name = name.as_str();
        let same = |known: &&str| {
            let twin = |(a, b): (u8, u8)| a == b || (a == b'_' && b == b'-');
            known.len() == name.len() && name.bytes().zip(known.bytes()).all(twin)
        };
        if let Some(slot) = ONCE.iter().position(same)
            && (found[slot].replace(value.as_bytes()).is_some() || name != ONCE[slot])
        {
            return None;
        }
    }
    let [signature, timestamp, event, _, kind, _, _, _, content] = found;
    if kind.is_some_and(|kind| kind != b"GLOBAL") {
        return None;
    }
    let event = event.filter(|id| {
        let word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        (1..=128).contains(&id.len()) && id.iter().all(word)
    })?;
    let (mut t, mut macs) = (None, Vec::new());
    for item in signature?.split(|byte| *byte == b',') {
        let item = item.trim_ascii();
        let equals = item.iter().position(|byte| *byte == b'=')?;
        match (&item[..equals], &item[equals + 1..]) {
            (b"v1", mac) => macs.push(data_encoding::HEXLOWER_PERMISSIVE.decode(mac).ok()?),
            (b"t", text) if t.is_none() => t = Some(text),
            (b"t", _) => return None,
            (b"alg", name) if name != b"hmac-sha256" => return None,
            _ => {}
        }
    }
    let t = t.filter(|t| t.len() == 13 && t.iter().all(u8::is_ascii_digit))?;
    let millis: i64 = std::str::from_utf8(t).ok()?.parse().ok()?;
    let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(body));
    let mut proven = false;
    for mac in macs.iter().take(10) {
        let mut of = prepared.clone();
        of.update(t);
        of.update(b".");
        of.update(event);
        of.update(b".");
        of.update(digest.as_bytes());
        proven |= of.verify_slice(mac).is_ok();
    }
    let agrees = timestamp.is_none_or(|value| value == t)
        && content.is_none_or(|value| value.eq_ignore_ascii_case(digest.as_bytes()));
    (proven && agrees && now.abs_diff(millis) <= 300_000).then(|| event.to_vec())
}

fn verification(criterion: &mut Criterion) {
    let verifier = verifier();
    let prepared = Hmac::<Sha256>::new_from_slice(KEY).expect("any length");
    let mut group = criterion.benchmark_group("verify");
    for size in [1024usize, 64 * 1024] {
        let (head, body) = signed(&verifier, size);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("bare", size), |bencher| {
            bencher.iter(|| bare(black_box(&body)));
        });
        group.bench_function(BenchmarkId::new("bare-prepared", size), |bencher| {
            bencher.iter(|| bare_prepared(&prepared, black_box(&body)));
        });
        group.bench_function(BenchmarkId::new("by-hand", size), |bencher| {
            bencher
                .iter(|| by_hand(&prepared, black_box(&head), black_box(&body), NOW.0).is_some());
        });
        assert!(
            by_hand(&prepared, &head, &body, NOW.0).is_some(),
            "it accepts an authentic request"
        );
        group.bench_function(BenchmarkId::new("authenticate", size), |bencher| {
            let authenticate = |payload: &mut Payload| {
                verifier.authenticate(black_box(&head), payload, NOW).is_ok()
            };
            bencher.iter_batched_ref(
                || Payload::from(body.clone()),
                authenticate,
                BatchSize::SmallInput,
            );
        });
        group.bench_function(BenchmarkId::new("authenticate-and-name", size), |bencher| {
            let authenticate =
                |payload: &mut Payload| verifier.verify(black_box(&head), payload, NOW).is_ok();
            bencher.iter_batched_ref(
                || Payload::from(body.clone()),
                authenticate,
                BatchSize::SmallInput,
            );
        });
        let payload = Payload::from(body);
        assert!(verifier.verify(&head, &payload, NOW).is_ok(), "the request is authentic");
    }
    group.finish();
}

/// Returns the shortest time of each of the five functions, in nanoseconds. They are measured in
/// turn, many times: other load on the machine only adds to a time.
fn in_turns(
    body: &Bytes,
    rounds: usize,
    mut functions: [&mut dyn FnMut(&Payload) -> bool; 5],
) -> [f64; 5] {
    const COUNT: usize = 16;
    let mut shortest = [f64::INFINITY; 5];
    for _ in 0..rounds {
        for (function, shortest) in functions.iter_mut().zip(&mut shortest) {
            let payloads: Vec<_> = (0..COUNT).map(|_| Payload::from(body.clone())).collect();
            let start = Instant::now();
            payloads.iter().for_each(|payload| {
                black_box(function(black_box(payload)));
            });
            *shortest = shortest.min(start.elapsed().as_secs_f64() * 1e9 / COUNT as f64);
        }
    }
    shortest
}

/// Checks the two promised ratios, with times measured in turn.
fn ratios(_: &mut Criterion) {
    let verifier = verifier();
    let prepared = Hmac::<Sha256>::new_from_slice(KEY).expect("any length");
    for (size, rounds) in [(1024, 20_000), (64 * 1024, 1_000)] {
        let (head, body) = signed(&verifier, size);
        let [least, keyed, written, authenticated, named] = in_turns(
            &body,
            rounds,
            [
                &mut |payload| bare(payload.whole()),
                &mut |payload| bare_prepared(&prepared, payload.whole()),
                &mut |payload| by_hand(&prepared, &head, payload.whole(), NOW.0).is_some(),
                &mut |payload| verifier.authenticate(&head, payload, NOW).is_ok(),
                &mut |payload| verifier.verify(&head, payload, NOW).is_ok(),
            ],
        );
        println!(
            "{size:>6} bytes: bare {least:.0} ns, bare with a prepared key {keyed:.0} ns, by hand \
             {written:.0} ns, authenticate {authenticated:.0} ns, authenticate and name {named:.0} ns"
        );
        for (what, ratio, most) in
            [("bare", authenticated / least, 1.3), ("by hand", authenticated / written, 1.2)]
        {
            let verdict = if ratio <= most { "met" } else { "MISSED" };
            println!("    authenticate to {what}: {ratio:.2}, at most {most}: {verdict}");
        }
        println!("    authenticate to bare with a prepared key: {:.2}", authenticated / keyed);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3));
    targets = verification, ratios
}
criterion_main!(benches);
