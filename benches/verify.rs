//! What verification costs, next to the bare SHA-256 and HMAC of the same bytes.

use std::{hint::black_box, time::Duration};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, Method, Request, request::Parts};
use sealgate::{
    body::Payload,
    scheme::{Credentials, Draft, Scheme, UnixMillis, Verifier},
    secret::Secret,
};
use sha2::{Digest, Sha256};

const NOW: UnixMillis = UnixMillis(1_758_184_391_752);
const KEY: &[u8] = b"a-secret-of-thirty-two-bytes-....";

fn verifier() -> Verifier {
    let scheme = Scheme::builtin("vivoldi").expect("built in");
    let global = vec![Secret::new(KEY.to_vec())];
    Verifier::new(scheme, "bench", Credentials { global, ..Credentials::default() })
        .expect("a secret is all it needs")
}

/// A signed request with a body of `size` bytes.
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

/// What nobody can do without: the digest of the body and the MAC of the signed text.
fn bare(primed: &Hmac<Sha256>, body: &[u8]) -> bool {
    let digest = Sha256::digest(body);
    let mut mac = primed.clone();
    mac.update(b"1758184391752.89365c75dae740ac8500dfc48c5014b5.");
    mac.update(data_encoding::HEXLOWER.encode(&digest).as_bytes());
    mac.verify_slice(black_box(&[0; 32])).is_ok()
}

fn verification(criterion: &mut Criterion) {
    let verifier = verifier();
    let primed = Hmac::<Sha256>::new_from_slice(KEY).expect("any length");
    let mut group = criterion.benchmark_group("verify");
    for size in [1024usize, 64 * 1024] {
        let (head, body) = signed(&verifier, size);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("bare", size), |bencher| {
            bencher.iter(|| bare(&primed, black_box(&body)));
        });
        group.bench_function(BenchmarkId::new("vivoldi", size), |bencher| {
            bencher.iter(|| {
                let payload = Payload::from(black_box(&body).clone());
                verifier.verify(black_box(&head), &payload, NOW).is_ok()
            });
        });
        let payload = Payload::from(body);
        assert!(verifier.verify(&head, &payload, NOW).is_ok(), "the bench judges what is accepted");
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3));
    targets = verification
}
criterion_main!(benches);
