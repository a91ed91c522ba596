//! Limits, request and response headers, routes and methods, connections.

use std::time::{Duration, Instant};

use data_encoding::BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use crate::kit::{Answer, Call, Event, SECRET, Setup, Upstream, until};

#[tokio::test]
async fn replaces_headers_that_only_the_gateway_may_set() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    let event = Event::default().with(&[
        "Sealgate-Verified: forged",
        "Sealgate-Key: forged",
        "sealgate_event_id: forged",
        "X-Forwarded-For: 6.6.6.6",
        "X_Forwarded_For: 6.6.6.6",
        "X-Forwarded-Port: 6",
        "Forwarded: for=6.6.6.6",
        "X-Real-IP: 6.6.6.6",
        "Proxy: http://6.6.6.6",
        "Keep-Alive: timeout=6",
        "TE: trailers",
        "Connection: keep-alive, X-Hop",
        "X-Hop: 6.6.6.6",
        "X-Kept: as it came",
        "Cookie: a=1",
        "Cookie: b=2",
    ]);
    assert_eq!(gateway.send(&event).await.status, 200);
    let seen = upstream.only();
    assert!(!seen.head.contains("6.6.6.6") && !seen.head.contains("forged"), "{}", seen.head);
    for gone in ["keep-alive", "te", "connection", "x-forwarded-port", "proxy"] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-host"), Some("localhost"));
    assert_eq!(seen.header("host"), Some("localhost"));
    assert_eq!(seen.header("x-kept"), Some("as it came"));
    assert!(seen.head.contains("\r\nCookie: a=1\r\nCookie: b=2\r\n"), "{}", seen.head);
}

#[tokio::test]
async fn joins_the_cookie_headers_of_http2() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    let mut connection = gateway.connect_http2().await;
    let event = Event::default().with(&["cookie: a=1", "x-other: y", "cookie: b=2", "cookie: c=3"]);
    let response = connection.send(event.http2_request()).await.expect("a response");
    assert_eq!(response.status(), 200);
    assert_eq!(upstream.only().header("cookie"), Some("a=1; b=2; c=3"));
}

#[tokio::test]
async fn http2_targets_have_the_grammar_of_http1() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    let mut connection = gateway.connect_http2().await;
    for (target, status) in [
        ("/webhooks/vivoldi?a=|{}^`\\%", 200),
        ("/webhooks/vivoldi?\u{e9}", 400),
        ("/webhooks/vivoldi\u{e9}", 400),
        ("/webhooks/{vivoldi}", 400),
        ("/webhooks/vivoldi|", 400),
        ("/webhooks/vivoldi\"", 400),
    ] {
        let event = Event { path: target.to_owned(), ..Event::default() };
        let response = connection.send(event.http2_request()).await.expect("a response");
        assert_eq!(response.status(), status, "{target}");
        assert_eq!(response.headers()["sealgate-request-id"].len(), 32, "{target}");
    }
    assert_eq!(upstream.only().request_line(), "POST /webhooks/vivoldi?a=|{}^`\\% HTTP/1.1");
}

/// Senders that sign their URL sign its query as it is written.
#[tokio::test]
async fn verifies_the_raw_characters_of_a_signed_query() {
    let upstream = Upstream::start().await;
    let url = "https://hooks.example.com/twilio";
    let route = format!(
        "[[route]]\nname = \"twilio\"\npath = \"/twilio\"\nscheme = \"twilio\"\n\
         secret = \"{SECRET}\"\npublic_url = \"{url}\"\nupstream = \"http://{}\"\n",
        upstream.address()
    );
    let gateway = Setup::new(&upstream).routes(&route).start();
    let query = "?CallSid=CA12&Digits=\"1|<2>\"{}^`\\";
    let mut mac = Hmac::<Sha1>::new_from_slice(SECRET.as_bytes()).expect("any length");
    mac.update(format!("{url}{query}").as_bytes());
    let signature = BASE64.encode(&mac.finalize().into_bytes());
    let call = Call::new("GET", &format!("/twilio{query}"), "");
    assert_eq!(gateway.call(&call.with("X-Twilio-Signature", &signature)).await.status, 200);
    assert_eq!(upstream.only().request_line(), format!("GET /twilio{query} HTTP/1.1"));
}

#[tokio::test]
async fn the_default_port_equals_no_port_in_http2() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    let mut connection = gateway.connect_http2().await;
    for (authority, host, status) in [
        ("localhost:443", "localhost", 200),
        ("localhost", "localhost:443", 200),
        ("localhost:443", "LOCALHOST:443", 200),
        ("localhost:8443", "localhost", 400),
        ("localhost:443", "other.example", 400),
        ("localhost:443", "localhost:80", 400),
    ] {
        let mut request = Event::default().http2_request();
        let target = format!("https://{authority}/webhooks/vivoldi");
        *request.uri_mut() = target.parse().expect("a URI");
        request.headers_mut().insert("host", host.parse().expect("a value"));
        let response = connection.send(request).await.expect("a response");
        assert_eq!(response.status(), status, "{authority} {host}");
    }
    assert_eq!(upstream.requests().len(), 3);
}

#[tokio::test]
async fn keeps_the_headers_of_a_trusted_proxy() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).server("trusted_proxies = [\"127.0.0.0/8\"]").start();
    let event = Event::default().with(&[
        "X-Forwarded-For: 203.0.113.7",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: hooks.example.com",
    ]);
    let mut connection = gateway.connect_plain().await;
    assert_eq!(connection.exchange(&event.request()).await.status, 200);
    let seen = upstream.only();
    assert_eq!(seen.header("x-forwarded-for"), Some("203.0.113.7, 127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-host"), Some("hooks.example.com"));
}

#[tokio::test]
async fn selects_routes_by_path_and_host() {
    let upstream = Upstream::start().await;
    let route = |name: &str, lines: &str, upstream_path: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\nscheme = \"vivoldi\"\nsecret = \"{SECRET}\"\n\
             upstream = \"http://{}{upstream_path}\"\n{lines}\n",
            upstream.address()
        )
    };
    let routes = [
        route("exact", "path = \"/hook\"", ""),
        route("moved", "path = \"/moved\"", "/app/in"),
        route("below", "path = \"/hooks/*\"", ""),
        route("deeper", "path = \"/hooks/deep/*\"", "/deep"),
        route("hosted", "path = \"/hook\"\nhost = \"other.example\"", "/other"),
    ]
    .concat();
    let gateway = Setup::new(&upstream).routes(&routes).start();
    for (path, host, status, target) in [
        ("/hook", "localhost", 200, "/hook"),
        ("/hook?a=%20b&c", "localhost", 200, "/hook?a=%20b&c"),
        ("/hook", "OTHER.example:8443", 200, "/other"),
        ("/hook", "other.example.", 200, "/other"),
        ("/moved?x=1", "localhost", 200, "/app/in?x=1"),
        ("/hooks/a/b", "localhost", 200, "/hooks/a/b"),
        ("/hooks/deep/a?b", "localhost", 200, "/deep/a?b"),
        ("/hook/", "localhost", 404, ""),
        ("/Hook", "localhost", 404, ""),
        ("/%68ook", "localhost", 404, ""),
        ("/", "localhost", 404, ""),
        ("/hooks/../hook", "localhost", 400, ""),
        ("/hooks//a", "localhost", 400, ""),
        ("/hooks/a%2Fb", "localhost", 400, ""),
        ("/hooks/a;b", "localhost", 400, ""),
    ] {
        let event = Event { path: path.to_owned(), ..Event::default() };
        let request = String::from_utf8(event.request()).expect("text");
        let request = request.replace("Host: localhost", &format!("Host: {host}"));
        let before = upstream.requests().len();
        let reply = gateway.connect().await.exchange(request.as_bytes()).await;
        assert_eq!(reply.status, status, "{path} {host}");
        assert!(reply.header("sealgate-request-id").is_some(), "{path}");
        let requests = upstream.requests();
        if status == 200 {
            assert_eq!(requests[before].request_line(), format!("POST {target} HTTP/1.1"));
        } else {
            assert_eq!(requests.len(), before, "{path}");
        }
    }
}

#[tokio::test]
async fn other_methods_get_405_with_the_allowed_ones() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let request = format!("{method} /webhooks/vivoldi HTTP/1.1\r\nHost: a\r\n\r\n");
        let reply = gateway.connect_plain().await.exchange(request.as_bytes()).await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")), "{method}");
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn rejects_long_bodies_before_reading_them() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).section("[limits]\nbody = \"1KiB\"").start();
    assert_eq!(gateway.send(&Event::new(&[b'x'; 1024])).await.status, 200);
    assert_eq!(gateway.send(&Event::new(&[b'x'; 1025])).await.status, 413);

    let mut announced = gateway.connect_plain().await;
    let head = "POST /webhooks/vivoldi HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n";
    assert_eq!(announced.exchange(head.as_bytes()).await.status, 413);

    let mut chunked = gateway.connect_plain().await;
    let lines = Event::default().header_lines().join("\r\n");
    let head = format!(
        "POST /webhooks/vivoldi HTTP/1.1\r\nHost: a\r\n{lines}\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    );
    chunked.write(head.as_bytes()).await;
    chunked.write(format!("400\r\n{}\r\n1\r\nx\r\n", "x".repeat(1024)).as_bytes()).await;
    assert_eq!(chunked.read().await.expect("an answer").status, 413);

    let encoded = Event::default().with(&["Content-Encoding: gzip"]);
    assert_eq!(gateway.send(&encoded).await.status, 415);
    let encoded = Event::default().with(&["Content-Encoding: identity"]);
    assert_eq!(gateway.send(&encoded).await.status, 200);
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn forwards_a_chunked_body_with_its_length() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    let event = Event::new(b"hello, chunked world");
    let mut request = format!("POST {} HTTP/1.1\r\nHost: localhost\r\n", event.path);
    for line in event.header_lines() {
        request.push_str(&line);
        request.push_str("\r\n");
    }
    request.push_str(
        "Transfer-Encoding: chunked\r\n\r\n7\r\nhello, \r\nd\r\nchunked world\r\n0\r\n\r\n",
    );
    let mut connection = gateway.connect_plain().await;
    assert_eq!(connection.exchange(request.as_bytes()).await.status, 200);
    let seen = upstream.only();
    assert_eq!(seen.body, event.body);
    assert_eq!(seen.header("content-length"), Some("20"));
}

#[tokio::test]
async fn sends_100_only_if_it_reads_the_body() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    let mut event = Event::default().with(&["Expect: 100-continue"]);
    let request = event.request();
    let head = request.len() - event.body.len();
    let mut connection = gateway.connect_plain().await;
    assert_eq!(connection.exchange(&request[..head]).await.status, 100);
    assert_eq!(connection.exchange(&request[head..]).await.status, 200);
    assert_eq!(upstream.only().header("expect"), None);

    event.path = "/nowhere".to_owned();
    let request = event.request();
    let head = request.len() - event.body.len();
    let mut connection = gateway.connect_plain().await;
    assert_eq!(connection.exchange(&request[..head]).await.status, 404);
}

#[tokio::test]
async fn closes_slow_connections_and_keeps_idle_ones() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream)
        .section("[limits]\nhead = \"300ms\"\nrequest_body = \"300ms\"\nidle = \"20s\"")
        .start();
    let event = Event::default();
    let request = event.request();

    let mut slow_body = gateway.connect().await;
    slow_body.write(&request[..request.len() - 5]).await;
    let reply = slow_body.read().await.expect("an answer");
    assert_eq!(reply.status, 408);
    slow_body.closed().await;

    let mut connection = gateway.connect().await;
    assert_eq!(connection.exchange(&request).await.status, 200);
    let idle = Instant::now();
    until("the head's deadline is over", || async { idle.elapsed() > Duration::from_millis(700) })
        .await;
    assert_eq!(connection.exchange(&event.retried().request()).await.status, 200);
    connection.write(&request[..40]).await;
    connection.closed().await;
    assert!(idle.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn rejects_long_heads() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    let long = Event::default().with(&[&format!("X-Long: {}", "x".repeat(40_000))]);
    assert_eq!(gateway.send(&long).await.status, 431);
    let mut many = Event::default();
    many.extra.extend((0..120).map(|n| format!("X-{n}: 1")));
    assert_eq!(gateway.send(&many).await.status, 431);
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn serves_pipelined_requests_and_reuses_connections() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    let events = [(); 5].map(|()| Event::default());
    let requests: Vec<u8> = events.iter().flat_map(Event::request).collect();
    let mut connection = gateway.connect().await;
    connection.write(&requests).await;
    for _ in &events {
        assert_eq!(connection.read().await.expect("an answer").status, 200);
    }
    let ids: Vec<_> = upstream
        .requests()
        .iter()
        .map(|request| request.header("x-vivoldi-event-id").expect("an id").to_owned())
        .collect();
    assert_eq!(ids, events.map(|event| event.id));
    assert_eq!(upstream.connections(), 1, "the upstream's connection is reused");
}

/// A connection releases its buffers one second after its last response, which no client may
/// notice.
#[tokio::test]
async fn serves_a_parked_connection_as_before() {
    let upstream = Upstream::start().await;
    let mut gateway = Setup::new(&upstream).start();
    let mut connections = Vec::new();
    for _ in 0..4 {
        let mut connection = gateway.connect().await;
        assert_eq!(connection.exchange(&Event::default().request()).await.status, 200);
        connections.push(connection);
    }
    let [mut whole, mut split, mut many, mut idle] =
        <[_; 4]>::try_from(connections).ok().expect("four");
    for _ in 0..2 {
        let idle = Instant::now();
        until("the connections are parked", || async {
            idle.elapsed() > Duration::from_millis(1300)
        })
        .await;
        assert_eq!(whole.exchange(&Event::default().request()).await.status, 200);
        for piece in Event::default().request().chunks(700) {
            split.write(piece).await;
        }
        assert_eq!(split.read().await.expect("an answer").status, 200);
        many.write(&[Event::default().request(), Event::default().request()].concat()).await;
        for _ in 0..2 {
            assert_eq!(many.read().await.expect("an answer").status, 200);
        }
    }
    assert_eq!(upstream.requests().len(), 4 + 8);
    assert_eq!(many.exchange(b"GET / HTTP/1.1\nHost: a\n\n").await.status, 400);
    gateway.drain().await;
    idle.closed().await;
}

#[tokio::test]
async fn an_unfinished_body_is_evicted_when_memory_runs_out() {
    let upstream = Upstream::start().await;
    let gateway =
        Setup::new(&upstream).section("[limits]\nmemory = \"64KiB\"\nbody = \"1MiB\"").start();
    let event = || Event::new(&[b'x'; 50_000]);
    let request = event().request();
    let mut slow = gateway.connect_plain().await;
    slow.write(&request[..request.len() - 1]).await;
    until("the unfinished body is evicted", || async {
        assert_eq!(gateway.send(&event()).await.status, 200);
        gateway.metric("sealgate_shed_total{cause=\"memory\"}").await > 0.0
    })
    .await;
    let reply = slow.read().await.expect("a response");
    assert_eq!((reply.status, reply.header("retry-after").is_some()), (503, true));
    assert_eq!(gateway.send(&event()).await.status, 200, "all was given back");
}

#[tokio::test]
async fn limits_the_response_of_the_upstream() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).section("[limits]\nupstream_body = \"1KiB\"").start();
    let long = |status: &str| {
        let body = "x".repeat(2000);
        Answer::Raw(format!("HTTP/1.1 {status}\r\nContent-Length: 2000\r\n\r\n{body}").into_bytes())
    };
    upstream.answer([long("200 OK"), long("500 Error")]);
    let reply = gateway.send(&Event::default()).await;
    assert_eq!((reply.status, reply.body.len()), (200, 0), "a 2xx is a 2xx");
    let reply = gateway.send(&Event::default()).await;
    assert_eq!((reply.status, reply.body.len()), (500, 0));

    let long_head = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    upstream.answer([Answer::Raw(long_head.into_bytes())]);
    assert_eq!(gateway.send(&Event::default()).await.status, 502);
}
