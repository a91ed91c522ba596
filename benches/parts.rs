//! The cost of the other parts of a request, and how it grows with the number of events on record,
//! routes and group keys.
//!
//! The header pass and the search for the body's index are measured in place, as the time that more
//! of them adds to a verification.

use std::{
    hint::black_box,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, request::Parts};
use sealgate::internals::{
    body::Payload,
    config,
    metrics::Metrics,
    replay::{
        Claimed, Clock, LocalDecision, OnStoreFailure, Options, Replay, ShareId, StoreOptions,
        Terms,
    },
    response::SanitizedResponse,
    route::Routes,
    scheme::{Credentials, Draft, Scheme, UnixMillis, Verified, Verifier},
    secret::Secret,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NOW: UnixMillis = UnixMillis(1_758_184_391_752);
const TTL: Duration = Duration::from_secs(86_400);
/// Least cost of a request of 1 KiB, in nanoseconds: that of the bare proxy in `benches/peers`.
const REQUEST: f64 = 25_000.0;
/// Number of measurements in each setting; the settings alternate.
const ROUNDS: usize = 31;

fn secret() -> Vec<Secret> {
    vec![Secret::new(b"a-secret-of-thirty-two-bytes-....".to_vec())]
}

/// Returns a verifier with a global key and the keys of `groups` groups.
fn verifier(groups: i64) -> Verifier {
    let scheme = Scheme::builtin("vivoldi").expect("built in");
    let groups = (0..groups).map(|index| ("coupon".to_owned(), index, secret())).collect();
    let credentials = Credentials { global: secret(), groups, ..Credentials::default() };
    Verifier::new(scheme, "bench", credentials).expect("secrets are all it needs")
}

/// Returns a signed request, with the global key or the key of group 0.
fn signed(verifier: &Verifier, key: &str, body: &Bytes, more_headers: usize) -> Parts {
    let mut headers = HeaderMap::new();
    let kind = if key == "global" { "GLOBAL" } else { "GROUP" };
    headers.insert("x-vivoldi-webhook-type", HeaderValue::from_static(kind));
    headers.insert("x-vivoldi-resource-type", HeaderValue::from_static("COUPON"));
    let body = Payload::from(body.clone());
    let path = "/webhooks/vivoldi";
    let draft = Draft { method: Method::POST, path, headers: headers.clone(), body: &body };
    headers.extend(verifier.sign(Some(key), draft, NOW).expect("it can be signed"));
    headers.insert("host", HeaderValue::from_static("hooks.example.com"));
    for number in 0..more_headers {
        let name = format!("x-of-a-proxy-before-{number}");
        let name = HeaderName::try_from(name).expect("a name");
        headers.insert(name, HeaderValue::from_static("some value of some length"));
    }
    let mut request = Request::post(path).body(()).expect("a request");
    *request.headers_mut() = headers;
    request.into_parts().0
}

fn json(size: usize) -> Bytes {
    let mut body = br#"{"grpIdx":0,"linkIdx":8213,"note":""#.to_vec();
    body.resize(size - 2, b'x');
    body.extend_from_slice(b"\"}");
    body.into()
}

fn routes(count: usize) -> Routes {
    let mut text = "[server]\nhttp_listen = \"127.0.0.1:0\"\n".to_owned();
    for number in 0..count {
        text += &format!(
            "[[route]]\nname = \"route-{number}\"\npath = \"/webhooks/{number}\"\nscheme = \"vivoldi\"\n\
             upstream = \"http://127.0.0.1:9\"\nsecret = \"a-secret-of-thirty-two-bytes-....\"\n"
        );
    }
    match config::parse("bench.toml", &text, Path::new("."), &|_| None) {
        Ok((config, _)) => Routes::new(config.routes, &Metrics::new().expect("constants")),
        Err(report) => panic!("{report}"),
    }
}

fn replay() -> Replay {
    let on_store_failure = OnStoreFailure::Refuse;
    let options =
        Options { store: StoreOptions::Memory, max_entries: 10_000_000, on_store_failure };
    Replay::open(options, Clock::system(), &Metrics::new().expect("constants"))
        .expect("memory can be had")
}

/// Processes new events from the claim to the recorded success.
async fn events(replay: &Replay, requests: &[Verified]) {
    let answer = SanitizedResponse::empty(StatusCode::OK);
    let answer_by = tokio::time::Instant::now() + Duration::from_secs(30);
    for request in requests {
        match replay
            .claim(
                request,
                Terms { route: ShareId::of_route("bench"), ttl: TTL, forwards_repeats: false },
                answer_by,
            )
            .await
        {
            Ok(LocalDecision::Decided(Claimed::Won(claim))) => {
                drop(claim.done(&answer, true).await)
            }
            other => panic!("a new event is free: {other:?}"),
        }
    }
}

fn parts(criterion: &mut Criterion) {
    let few = verifier(1);
    let body = json(1024);
    let mut group = criterion.benchmark_group("header pass");
    for more in [0usize, 10, 50] {
        let head = signed(&few, "global", &body, more);
        let payload = Payload::from(body.clone());
        payload.sha256();
        group.bench_function(BenchmarkId::new("headers of no interest", more), |bencher| {
            bencher.iter(|| few.authenticate(black_box(&head), &payload, NOW).is_ok());
        });
        assert!(few.authenticate(&head, &payload, NOW).is_ok(), "the request is authentic");
    }
    group.finish();

    let mut group = criterion.benchmark_group("index reader");
    for size in [64usize, 1024, 65_536] {
        let body = json(size);
        let head = signed(&few, "coupon/0", &body, 0);
        let payload = Payload::from(body);
        payload.sha256();
        group.bench_function(BenchmarkId::new("body of bytes", size), |bencher| {
            bencher.iter(|| few.authenticate(black_box(&head), &payload, NOW).is_ok());
        });
        assert!(few.authenticate(&head, &payload, NOW).is_ok(), "the request is authentic");
    }
    group.finish();

    let mut group = criterion.benchmark_group("body hash");
    for size in [1024usize, 65_536] {
        let body = json(size);
        group.bench_function(BenchmarkId::new("bytes", size), |bencher| {
            bencher.iter(|| *Payload::from(black_box(&body).clone()).sha256());
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("route lookup");
    for count in [1usize, 1000] {
        let routes = routes(count);
        let uri: Uri = "/webhooks/0".parse().expect("a path");
        group.bench_function(BenchmarkId::new("routes", count), |bencher| {
            bencher.iter(|| routes.find(black_box(&uri), Some("hooks.example.com")).is_ok());
        });
        assert!(routes.find(&uri, None).is_ok(), "the path is found");
    }
    group.finish();
}

/// Returns the median time of one operation in each of two settings, in nanoseconds, measured in
/// turn. The closures perform the given number of operations and return the time that they took.
fn in_turns(
    count: usize,
    mut few: impl FnMut() -> Duration,
    mut many: impl FnMut() -> Duration,
) -> [f64; 2] {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        times[0].push(few().as_secs_f64() * 1e9 / count as f64);
        times[1].push(many().as_secs_f64() * 1e9 / count as f64);
    }
    times.map(|mut times| {
        times.sort_unstable_by(f64::total_cmp);
        times[times.len() / 2]
    })
}

fn timed(count: usize, mut operation: impl FnMut()) -> Duration {
    let start = Instant::now();
    (0..count).for_each(|_| operation());
    start.elapsed()
}

fn report(what: &str, [few, many]: [f64; 2]) {
    let share = (many - few) / REQUEST * 100.0;
    let verdict = if share <= 5.0 { "within" } else { "NOT within" };
    println!(
        "{what:<34} {few:>7.0} ns {many:>7.0} ns   {share:>5.2} % of a request, {verdict} 5 %"
    );
}

/// Checks that the cost of a request does not grow with the number of events, routes and keys.
fn invariance(_: &mut Criterion) {
    const COUNT: usize = 20_000;
    let (few, many) = (routes(1), routes(1000));
    let uri: Uri = "/webhooks/0".parse().expect("a path");
    let find = |routes: &Routes| {
        timed(COUNT, || assert!(routes.find(black_box(&uri), Some("hooks.example.com")).is_ok()))
    };
    report("routes, 1 and 1,000", in_turns(COUNT, || find(&few), || find(&many)));

    let (few, many) = (verifier(1), verifier(10_000));
    let body = json(1024);
    let head = signed(&few, "coupon/0", &body, 0);
    let payload = Payload::from(body);
    payload.sha256();
    let authenticate = |verifier: &Verifier| {
        timed(COUNT, || assert!(verifier.authenticate(black_box(&head), &payload, NOW).is_ok()))
    };
    report(
        "group keys, 1 and 10,000",
        in_turns(COUNT, || authenticate(&few), || authenticate(&many)),
    );

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
    let sender = verifier(1);
    let body = Bytes::from_static(b"{}");
    let new = |count: usize| -> Vec<Verified> {
        let one = || {
            let head = signed(&sender, "global", &body, 0);
            sender.verify(&head, &Payload::from(body.clone()), NOW).expect("authentic")
        };
        (0..count).map(|_| one()).collect()
    };
    let guards = runtime.block_on(async { [replay(), replay()] });
    for (guard, live) in guards.iter().zip([1_000, 1_000_000]) {
        for _ in 0..live / 1_000 {
            runtime.block_on(events(guard, &new(1_000)));
        }
    }
    // Each round adds the same number of events to both settings.
    const EVENTS: usize = 200;
    let take = |guard: &Replay| {
        let requests = new(EVENTS);
        let start = Instant::now();
        runtime.block_on(events(guard, &requests));
        start.elapsed()
    };
    let times = in_turns(EVENTS, || take(&guards[0]), || take(&guards[1]));
    report("live events, 1,000 and 1,000,000", times);
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(2));
    targets = parts, invariance
}
criterion_main!(benches);
