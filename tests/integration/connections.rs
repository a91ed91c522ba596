//! How connections end, and what still arrives before they do.

use std::{future::poll_fn, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::kit::{Answer, Connection, Event, PATIENCE, Setup, Upstream, shake, until};

/// Connects an HTTP/2 client that sends the parts of a request one by one.
async fn http2(address: SocketAddr, certificate: &[u8]) -> h2::client::SendRequest<Bytes> {
    let stream = shake(address, certificate, b"h2").await;
    let (sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender.ready().await.expect("a connection")
}

fn head(event: &Event, path: &str) -> Request<()> {
    let (mut head, _) = event.http2_request().into_parts();
    head.uri = format!("https://localhost{path}").parse().expect("a URI");
    head.headers.insert("expect", "100-continue".parse().expect("a value"));
    Request::from_parts(head, ())
}

#[tokio::test]
async fn an_http2_client_that_expects_100_gets_it_before_it_sends_the_body() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    let mut sender = http2(gateway.addresses().https[0], &gateway.certificate()).await;
    let event = Event::default();
    let (mut response, mut body) =
        sender.send_request(head(&event, "/webhooks/vivoldi"), false).expect("sent");
    let informational = poll_fn(|context| response.poll_informational(context));
    let interim = timeout(PATIENCE, informational).await.expect("in time").expect("one");
    assert_eq!(interim.expect("a response").status(), StatusCode::CONTINUE);
    body.send_data(event.body.clone().into(), true).expect("sent");
    let response = timeout(PATIENCE, response).await.expect("in time").expect("a response");
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.headers().contains_key("date"));
    assert_eq!(upstream.only().body, event.body);
}

#[tokio::test]
async fn a_request_that_is_rejected_by_its_head_gets_no_100() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    let mut sender = http2(gateway.addresses().https[0], &gateway.certificate()).await;
    let event = Event::default();
    let (mut response, _body) = sender.send_request(head(&event, "/nowhere"), false).expect("sent");
    let informational = poll_fn(|context| response.poll_informational(context));
    let interim = timeout(PATIENCE, informational).await.expect("in time");
    assert!(interim.is_none(), "{interim:?}");
    let response = timeout(PATIENCE, response).await.expect("in time").expect("a response");
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_number_of_header_lines_is_limited_over_http2() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).section("[limits]\nheaders = 30").start();
    for (lines, status) in [(10, 200), (31, 431)] {
        let mut connection = gateway.connect_http2().await;
        let mut request = Event::default().http2_request();
        for number in 0..lines {
            let name = http::HeaderName::try_from(format!("x-more-{number}")).expect("a name");
            request.headers_mut().insert(name, http::HeaderValue::from_static("a"));
        }
        let response = connection.send(request).await.expect("a response");
        assert_eq!(response.status().as_u16(), status, "{lines} more");
    }
}

#[tokio::test]
async fn a_client_that_ends_its_side_after_the_request_gets_the_response() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).start();
    let unrouted = b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello".to_vec();
    for tls in [false, true] {
        for (request, status) in [(Event::default().request(), 200), (unrouted.clone(), 404)] {
            let mut connection =
                if tls { gateway.connect().await } else { gateway.connect_plain().await };
            connection.write(&request).await;
            connection.finish().await;
            let reply = connection.read().await.expect("a response");
            assert_eq!(reply.status, status, "TLS: {tls}");
            connection.closed().await;
        }
    }
    // The response may come long after the end of the client's side.
    upstream.answer([Answer::Held]);
    let event = Event::default();
    let mut connection = gateway.connect_plain().await;
    connection.write(&event.request()).await;
    connection.finish().await;
    upstream.seen(3).await;
    upstream.release();
    assert_eq!(connection.read().await.expect("a response").status, 200);
    // The client may have been gone: the same request again counts as a retry, not as a replay.
    assert_eq!(gateway.send(&event).await.status, 200);
    assert_eq!(upstream.requests().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_floods_after_its_rejection_is_cut() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).plain().start();
    let mut stream = TcpStream::connect(gateway.addresses().http[0]).await.expect("it listens");
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await.expect("it reads");
    let flood = vec![b'x'; 1 << 20];
    let flooding = async { while stream.write_all(&flood).await.is_ok() {} };
    timeout(Duration::from_secs(10), flooding).await.expect("it is cut in time");
}

/// Drains the gateway and returns how long that took.
async fn drained(gateway: &mut crate::kit::Gateway) -> Duration {
    let start = Instant::now();
    gateway.drain().await;
    start.elapsed()
}

#[tokio::test]
async fn clients_without_a_request_do_not_hold_up_a_drain() {
    let upstream = Upstream::start().await;
    let mut gateway = Setup::new(&upstream).server("drain = \"30s\"").start();
    let (http, https) = (gateway.addresses().http[0], gateway.addresses().https[0]);
    // One that never begins its handshake, one that never begins its head, one within a head.
    let _silent = TcpStream::connect(https).await.expect("it listens");
    let _mute = TcpStream::connect(http).await.expect("it listens");
    let mut partial = TcpStream::connect(http).await.expect("it listens");
    partial.write_all(b"POST / HTTP/1.1\r\nHo").await.expect("it reads");
    // HTTP/2 that acknowledges nothing.
    let mut idle = shake(https, &gateway.certificate(), b"h2").await;
    idle.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .expect("it reads");
    idle.flush().await.expect("it reads");
    idle.read_u8().await.expect("its settings");
    // HTTP/1 that has just had a response and never closes, plain and over TLS.
    let mut recent = [gateway.connect_plain().await, gateway.connect().await];
    for connection in &mut recent {
        assert_eq!(connection.exchange(&Event::default().request()).await.status, 200);
    }
    let took = drained(&mut gateway).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn the_admin_listener_responds_until_the_end_of_a_drain() {
    let upstream = Upstream::start().await;
    let mut gateway = Setup::new(&upstream).start();
    upstream.answer([Answer::Held]);
    let mut connection = gateway.connect_plain().await;
    connection.write(&Event::default().request()).await;
    upstream.seen(1).await;
    let (public, admin) = (gateway.addresses().https[0], gateway.addresses().admin[0]);
    let ((), reply) = tokio::join!(gateway.drain(), async {
        until("it drains", || async { TcpStream::connect(public).await.is_err() }).await;
        for (path, status) in [("/readyz", 503), ("/livez", 200), ("/metrics", 200)] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            let reply = Connection::plain(admin).await.exchange(request.as_bytes()).await;
            assert_eq!(reply.status, status, "{path}");
        }
        upstream.release();
        connection.read().await.expect("the response of what was in flight")
    });
    assert_eq!(reply.status, 200);
    until("it is closed", || async { TcpStream::connect(admin).await.is_err() }).await;
}

#[tokio::test]
async fn idle_connections_do_not_silence_the_admin_listener() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).plain().start();
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(gateway.addresses().admin[0]).await.expect("it listens"));
        if idle.len() % 50 == 0 {
            assert_eq!(gateway.admin("/livez").await.status, 200);
        }
    }
    let open = gateway.metric("sealgate_connections{listener=\"admin\"}").await;
    assert!((1.0..=64.0).contains(&open), "{open}");
    // What is idle is closed soon, even if nobody needs its place.
    let last = idle.last_mut().expect("some");
    let mut end = [0; 1];
    let read = timeout(PATIENCE, last.read(&mut end)).await.expect("an end in time");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}
