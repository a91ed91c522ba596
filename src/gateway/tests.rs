//! A stored event reaches a handler that checks the sender's signature itself, after an outage.

use std::{
    env,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderValue, Method};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;

use super::*;
use crate::{
    config::parse,
    events::{
        EventFacts, EventState, InboundRequest,
        model::{EventEntry, EventFilter, StoredRequest},
    },
    route::Routes,
    scheme::UnixMillis,
};

/// The PHP sample of the sender's guide, unchanged. It rejects timestamps, in seconds, that are
/// more than a minute old.
const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/handlers/vivoldi.php");
const SECRET: &str = "canary-secret-of-the-guide";
const BODY: &[u8] = br#"{"couponCode":"ZJLF0399WQBEQZJM","userId":"u1"}"#;
const OUTAGE: Duration = Duration::from_secs(600);
const MINUTE: Duration = Duration::from_secs(60);
/// Timeout for every wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// The sample, served by PHP until it is dropped.
struct Handler(Child);

impl Handler {
    async fn start(address: SocketAddr) -> Self {
        let child = Command::new("php")
            .args(["-d", "variables_order=EGPCS", "-S", &address.to_string(), SAMPLE])
            .env("VIVOLDI_WEBHOOK_SECRET", SECRET)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let handler = Handler(child.expect("php starts"));
        until(async || TcpStream::connect(address).await.is_ok()).await;
        handler
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn until(ready: impl AsyncFn() -> bool) {
    let waiting = async {
        while !ready().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("in time");
}

/// Returns the sender's request at this time, in Unix milliseconds.
fn request(sent: u64) -> StoredRequest {
    let (id, seconds) = ("evt_after_an_outage", sent / 1000);
    let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(BODY));
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length");
    mac.update(format!("{seconds}.{id}.{digest}").as_bytes());
    let v1 = data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes());
    let headers = [
        ("Host", "hooks.example.com".to_owned()),
        ("Content-Type", "application/json".to_owned()),
        ("X-Vivoldi-Request-Id", "request-1".to_owned()),
        ("X-Vivoldi-Event-Id", id.to_owned()),
        ("X-Vivoldi-Webhook-Type", "GLOBAL".to_owned()),
        ("X-Vivoldi-Resource-Type", "COUPON".to_owned()),
        ("X-Vivoldi-Action-Type", "NONE".to_owned()),
        ("X-Vivoldi-Comp-Idx", "50742".to_owned()),
        ("X-Vivoldi-Timestamp", seconds.to_string()),
        ("X-Content-SHA256", digest),
        ("X-Vivoldi-Signature", format!("t={seconds},v1={v1},alg=hmac-sha256")),
    ];
    let line = |(name, value): (&str, String)| {
        (name.into(), HeaderValue::try_from(value).expect("a value"))
    };
    StoredRequest {
        method: Method::POST,
        target: "/webhooks/vivoldi".into(),
        is_http2: false,
        headers: headers.into_iter().map(line).collect(),
        body: Bytes::from_static(BODY),
        peer: [127, 0, 0, 1].into(),
        tls: true,
        client: None,
        request_id: HeaderValue::from_static("request"),
    }
}

async fn only(events: &Events) -> EventEntry {
    let page = events.store().list(&EventFilter::default(), None, 2).await.expect("a page");
    let [entry] = &page.entries[..] else { panic!("{:?}", page.entries) };
    entry.clone()
}

/// Stores an event whose handler is down for ten minutes. Returns its entry after the first attempt
/// that reaches it.
async fn after_an_outage(resign: bool) -> EventEntry {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let dir = tempfile::tempdir().expect("a directory");
    let toml = format!(
        "[server]\nhttp_listen = \"127.0.0.1:0\"\n[events]\npath = \"events\"\n\
         [[route]]\nname = \"vivoldi\"\npath = \"/webhooks/vivoldi\"\nscheme = \"vivoldi\"\n\
         upstream = \"http://{free}\"\nsecret = \"{SECRET}\"\ndelivery = \"async\"\n\
         resign = {resign}\n[route.retry]\nfirst = \"100ms\"\nmax = \"30s\"\n"
    );
    let parsed = parse("gateway.toml", &toml, dir.path() as &Path, &|_| None);
    let (config, _) = parsed.expect("a valid configuration");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let sent = u64::try_from((now - OUTAGE).as_millis()).expect("it fits");
    let metrics = Metrics::new().expect("metrics");
    let clock = Clock::manual(sent);
    let options = config.events.expect("an event store");
    let events = Events::open(options, &config.replay.store, clock.clone(), (&metrics, None))
        .expect("it opens");
    let routes = Routes::new(config.routes, &metrics);
    let route = routes.iter().next().expect("a route");
    events.serve(std::iter::once(Arc::clone(&route.delivery)));
    let request = InboundRequest::restored(request(sent));
    let at = UnixMillis(i64::try_from(sent).expect("it fits"));
    let verified = route.verifier.verify(&request.head, &request.payload, at).expect("authentic");
    let facts = EventFacts::new(&verified, sent, &route.delivery, &request);
    let deadline = Instant::now() + PATIENCE;
    let accepted = events.accept(&route.delivery, &facts, request, false, deadline).await;
    assert!(accepted.expect("it is stored"));

    let mut attempts = 0;
    let attempted = async |before: usize| {
        until(async || {
            let entry = only(&events).await;
            entry.log.len() > before && entry.state != EventState::Delivering
        })
        .await;
        only(&events).await.log.len()
    };
    for _ in 1..OUTAGE.as_secs() / MINUTE.as_secs() {
        attempts = attempted(attempts).await;
        clock.advance(MINUTE);
    }
    attempts = attempted(attempts).await;
    let _handler = Handler::start(free).await;
    // The backoff of the upstream, in real time, may be longer than the next simulated minutes.
    loop {
        clock.advance(MINUTE);
        attempts = attempted(attempts).await;
        let entry = only(&events).await;
        if entry.log.last().is_some_and(|attempt| attempt.error.as_deref() != Some("connect")) {
            return entry;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_sample_of_the_guide_accepts_an_event_after_ten_minutes() {
    if Command::new("php").arg("-v").output().is_err() {
        assert!(env::var_os("SEALGATE_REQUIRE_ALL").is_none(), "php is not installed");
        eprintln!("SKIPPED: php is not installed");
        return;
    }
    let entry = after_an_outage(true).await;
    assert_eq!(entry.state, EventState::Delivered, "{:?}", entry.log);
    let (last, earlier) = entry.log.split_last().expect("attempts");
    assert_eq!((last.status, last.resigned), (Some(200), true));
    assert!(earlier.len() >= 10, "{earlier:?}");
    assert!(earlier.iter().all(|attempt| attempt.error.as_deref() == Some("connect")));
    // The sample does check the age.
    let entry = after_an_outage(false).await;
    let last = entry.log.last().expect("attempts");
    assert_eq!((entry.state, last.status), (EventState::Pending, Some(401)), "{:?}", entry.log);
}
