//! Connections to upstreams: several that fail and recover, TLS, sockets.

mod connections;
mod dialing;
mod limits;
mod responses;

use std::time::{Duration, Instant};

use crate::kit::{Answer, Authority, Event, Front, Hello, Process, Setup, Upstream, parse, until};

/// Two upstreams behind listeners that can be closed.
async fn pair() -> (Upstream, Front, Upstream, Front) {
    let any = "127.0.0.1:0".parse().expect("an address");
    let (one, two) = (Upstream::start().await, Upstream::start().await);
    let (front_one, front_two) = (Front::tcp(any, &one).await, Front::tcp(any, &two).await);
    (one, front_one, two, front_two)
}

#[tokio::test]
async fn several_upstreams_take_turns() {
    let (one, front_one, two, front_two) = pair().await;
    let list = format!("[\"http://{}\", \"http://{}\"]", front_one.address(), front_two.address());
    let gateway = Setup::new(&one).upstream(&list).start();
    for _ in 0..6 {
        assert_eq!(gateway.send(&Event::default()).await.status, 200);
    }
    assert_eq!((one.requests().len(), two.requests().len()), (3, 3));
}

#[tokio::test]
async fn a_failed_upstream_is_passed_over_until_it_has_recovered() {
    let (one, front_one, two, front_two) = pair().await;
    let address = front_two.address();
    let list = format!("[\"http://{}\", \"http://{address}\"]", front_one.address());
    let gateway = Setup::new(&one).upstream(&list).start();
    front_two.die().await;
    for _ in 0..6 {
        let started = Instant::now();
        assert_eq!(gateway.send(&Event::default()).await.status, 200);
        assert!(started.elapsed() < Duration::from_secs(4), "no request waits for the failed one");
    }
    assert_eq!((one.requests().len(), two.requests().len()), (6, 0));
    let _front_two = Front::tcp(address, &two).await;
    until("the second takes its turn again", || async {
        assert_eq!(gateway.send(&Event::default()).await.status, 200);
        two.requests().len() >= 3
    })
    .await;
    let all = [one.requests(), two.requests()].concat();
    assert!(all.iter().all(|seen| seen.header("sealgate-possible-duplicate").is_none()));
}

#[tokio::test]
async fn a_failure_with_idle_connections_loses_nothing() {
    let (one, front_one, two, front_two) = pair().await;
    let list = format!("[\"http://{}\", \"http://{}\"]", front_one.address(), front_two.address());
    let gateway =
        Setup::new(&one).upstream(&list).section("[limits]\nupstream_idle = \"20s\"").start();
    for _ in 0..4 {
        assert_eq!(gateway.send(&Event::default()).await.status, 200);
    }
    front_two.die().await;
    two.deserted().await;
    let mut answers = Vec::new();
    for _ in 0..4 {
        let event = Event::default();
        let first = gateway.send(&event).await.status;
        // A connection that closes just now may have taken the request with it.
        let last = if first == 502 { gateway.send(&event.retried()).await.status } else { first };
        answers.push(last);
    }
    assert_eq!(answers, [200; 4]);
}

#[tokio::test]
async fn a_request_with_an_unknown_outcome_is_not_sent_to_another_upstream() {
    let (one, two) = (Upstream::start().await, Upstream::start().await);
    let list = format!("[\"http://{}\", \"http://{}\"]", one.address(), two.address());
    let gateway = Setup::new(&one).upstream(&list).start();
    one.answer([Answer::Reset]);
    two.answer([Answer::Reset]);
    let event = Event::default();
    assert_eq!(gateway.send(&event).await.status, 502);
    assert_eq!(one.requests().len() + two.requests().len(), 1, "it is for the sender to retry");
    assert_eq!(gateway.send(&event.retried()).await.status, 502);
    let all = [one.requests(), two.requests()];
    assert_eq!(all.each_ref().map(Vec::len), [1, 1]);
    let marks = all.each_ref().map(|seen| seen[0].header("sealgate-possible-duplicate"));
    assert!(matches!(marks, [None, Some("1")] | [Some("1"), None]), "{marks:?}");
}

#[tokio::test]
async fn an_upstream_that_closes_new_connections_is_backed_off_from() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let accepted = tokio::spawn(async move {
        let mut count = 0;
        while tokio::time::timeout(Duration::from_secs(2), listener.accept()).await.is_ok() {
            count += 1;
        }
        count
    });
    let any = Upstream::start().await;
    let gateway = Setup::new(&any)
        .upstream(&format!("\"http://{address}\""))
        .route("answer_within = \"1500ms\"")
        .start();
    assert_eq!(gateway.send(&Event::default()).await.status, 502);
    let count = accepted.await.expect("it ends");
    assert!((1..=20).contains(&count), "{count} connections for one event");
}

/// Sets one upstream at `https://localhost`, with further keys of the route.
fn secured(setup: Setup, front: &Front, lines: &str) -> Setup {
    let port = front.address().port();
    setup.upstream(&format!("\"https://localhost:{port}\"")).route(lines)
}

#[tokio::test]
async fn tls_uses_the_upstreams_name_and_never_resumes_sessions() {
    let upstream = Upstream::start().await;
    let authority = Authority::new();
    let front = Front::tls(authority.server("localhost", None), &upstream).await;
    let setup = Setup::new(&upstream).section("[limits]\nupstream_idle = \"1ms\"");
    authority.write(&setup.dir.path().join("ca.pem"));
    let gateway = secured(setup, &front, "upstream_ca = \"ca.pem\"").start();
    for _ in 0..3 {
        assert_eq!(gateway.send(&Event::default()).await.status, 200);
        upstream.deserted().await;
    }
    assert_eq!(upstream.requests()[0].header("host"), Some("localhost"));
    let expected = Hello {
        name: Some("localhost".into()),
        protocol: Some(b"http/1.1".to_vec()),
        full: true,
        certified: false,
    };
    assert_eq!(front.hellos(), [expected.clone(), expected.clone(), expected]);
}

#[tokio::test]
async fn an_upstream_at_an_address_is_verified_by_its_server_name() {
    let upstream = Upstream::start().await;
    let authority = Authority::new();
    let front = Front::tls(authority.server("app.internal", None), &upstream).await;
    let setup = Setup::new(&upstream);
    authority.write(&setup.dir.path().join("ca.pem"));
    let gateway = setup
        .upstream(&format!("\"https://{}/in\"", front.address()))
        .route("upstream_ca = \"ca.pem\"\nupstream_server_name = \"app.internal\"")
        .route("upstream_host = \"shop.example\"")
        .start();
    assert_eq!(gateway.send(&Event::default()).await.status, 200);
    let seen = upstream.only();
    assert_eq!(seen.header("host"), Some("shop.example"), "Host is set independently");
    assert_eq!(seen.request_line(), "POST /in HTTP/1.1");
    assert_eq!(front.hellos()[0].name.as_deref(), Some("app.internal"));
}

#[tokio::test]
async fn a_client_certificate_is_presented_on_request() {
    let upstream = Upstream::start().await;
    let authority = Authority::new();
    let front = Front::tls(authority.strict_server("localhost"), &upstream).await;
    let setup = Setup::new(&upstream);
    authority.write(&setup.dir.path().join("ca.pem"));
    authority.write_pair(setup.dir.path(), "gateway");
    let lines =
        "upstream_ca = \"ca.pem\"\nupstream_cert = \"gateway.pem\"\nupstream_key = \"gateway.key\"";
    let gateway = secured(setup, &front, lines).start();
    assert_eq!(gateway.send(&Event::default()).await.status, 200);
    assert!(front.hellos()[0].certified);
    let file = gateway.dir.path().join("gateway.pem");
    let expiry = "sealgate_tls_certificate_expiry_timestamp_seconds";
    let expiry = format!("{expiry}{{name=\"{}\"}}", file.display());
    assert!(gateway.metric(&expiry).await > 0.0, "its expiry is in the metrics");
}

/// Sends to an upstream whose certificate is rejected, or which rejects ours: the response is 502,
/// nothing reaches the upstream, and the log says what to do.
async fn fails(config: rustls::ServerConfig, trusted: &Authority, advice: &str) {
    let upstream = Upstream::start().await;
    let front = Front::tls(config, &upstream).await;
    let setup = Setup::new(&upstream).route("answer_within = \"1s\"").plain();
    trusted.write(&setup.dir.path().join("ca.pem"));
    let setup = secured(setup, &front, "upstream_ca = \"ca.pem\"");
    let gateway = Process::start(setup.dir.path(), &setup.toml()).await;
    let reply = gateway.connect().await.exchange(&Event::default().request()).await;
    assert_eq!(reply.status, 502, "{advice}");
    assert!(upstream.requests().is_empty(), "{advice}");
    let (log, message) = (gateway.log(), "\"message\":\"cannot connect to the upstream\"");
    let line = log.lines().find(|line| line.contains(message));
    let line = line.unwrap_or_else(|| panic!("no such line:\n{log}"));
    assert!(line.contains(advice) && line.contains("\"WARN\""), "{advice}: {line}");
    assert_eq!(log.matches(message).count(), 1, "logged once:\n{log}");
}

#[tokio::test]
async fn an_unknown_authority_is_logged_with_advice() {
    let unknown = Authority::new().server("localhost", None);
    fails(unknown, &Authority::new(), "upstream_ca").await;
}

#[tokio::test]
async fn a_certificate_for_another_name_is_logged_with_advice() {
    let authority = Authority::new();
    fails(authority.server("app.internal", None), &authority, "upstream_server_name").await;
}

#[tokio::test]
async fn an_expired_certificate_is_logged_with_advice() {
    let authority = Authority::new();
    let ended = authority.server("localhost", Some(2020));
    fails(ended, &authority, "renew the certificate of the upstream").await;
}

#[tokio::test]
async fn a_missing_client_certificate_is_logged_with_advice() {
    let authority = Authority::new();
    fails(authority.strict_server("localhost"), &authority, "upstream_cert").await;
}

#[tokio::test]
async fn a_reload_replaces_authorities() {
    let upstream = Upstream::start().await;
    let (old, new) = (Authority::new(), Authority::new());
    let front = Front::tls(new.server("localhost", None), &upstream).await;
    let setup = Setup::new(&upstream).route("answer_within = \"1s\"");
    let file = setup.dir.path().join("ca.pem");
    old.write(&file);
    let setup = secured(setup, &front, "upstream_ca = \"ca.pem\"");
    let toml = setup.toml();
    let gateway = setup.start();
    assert_eq!(gateway.send(&Event::default()).await.status, 502);
    new.write(&file);
    gateway.running().reload(parse(&toml, gateway.dir.path())).await.expect("taken");
    assert_eq!(gateway.send(&Event::default()).await.status, 200);
}

#[tokio::test]
async fn an_upstream_at_a_socket_receives_the_senders_host() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream);
    let socket = setup.dir.path().join("app.sock");
    let front = Front::unix(&socket, &upstream);
    let gateway = setup.upstream(&format!("\"unix:{}\"", socket.display())).start();
    assert_eq!(gateway.send(&Event::default()).await.status, 200);
    let seen = upstream.only();
    assert_eq!(seen.request_line(), "POST /webhooks/vivoldi HTTP/1.1");
    assert_eq!(seen.header("host"), Some("localhost"));
    drop(front);

    let path = gateway.dir.path().join("other.sock");
    let _front = Front::unix(&path, &upstream);
    let gateway = Setup::new(&upstream)
        .upstream(&format!("\"unix:{}:/in/hook.php\"", path.display()))
        .route("upstream_host = \"shop.example\"")
        .start();
    let event = Event { path: "/webhooks/vivoldi?a=b".into(), ..Event::default() };
    assert_eq!(gateway.send(&event).await.status, 200);
    let seen = &upstream.requests()[1];
    assert_eq!(seen.request_line(), "POST /in/hook.php?a=b HTTP/1.1");
    assert_eq!(seen.header("host"), Some("shop.example"));
}
