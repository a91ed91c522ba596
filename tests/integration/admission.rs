//! Admission: allowlists and rate limits, by the client address that trusted proxies report.

use crate::kit::{Event, Gateway, Reply, Setup, Upstream};

const TRUSTED: &str = "trusted_proxies = [\"127.0.0.0/8\"]";

/// Sends an event like a trusted proxy with this chain of clients.
async fn from(gateway: &Gateway, chain: &str) -> Reply {
    let event = Event::default().with(&[&format!("X-Forwarded-For: {chain}")]);
    gateway.connect_plain().await.exchange(&event.request()).await
}

#[tokio::test]
async fn admits_only_clients_on_the_allowlist() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream)
        .plain()
        .server(TRUSTED)
        .route("allow = [\"192.0.2.0/24\", \"2001:db8::/32\"]")
        .start();
    for (chain, status) in [
        ("192.0.2.7", 200),
        ("2001:db8::7", 200),
        ("::ffff:192.0.2.8", 200),
        ("198.51.100.1", 403),
        ("2001:db9::7", 403),
        // Entries to the left of the first untrusted address may be forged.
        ("192.0.2.7, 198.51.100.1", 403),
        ("198.51.100.1, 192.0.2.7", 200),
        ("192.0.2.7, 127.0.0.9", 200),
        ("unknown", 403),
    ] {
        let reply = from(&gateway, chain).await;
        assert_eq!(reply.status, status, "{chain}");
        if status == 403 {
            assert_eq!(reply.header("sealgate-answer"), Some("rejected"));
            assert_eq!(reply.header("content-type"), Some("application/problem+json"));
            assert!(!reply.text().contains("allow"), "{}", reply.text());
        }
    }
    assert_eq!(gateway.rejections("not_allowed").await, 4.0);
    assert_eq!(upstream.requests().len(), 5);
}

#[tokio::test]
async fn ignores_forwarded_addresses_without_trusted_proxies() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).plain().route("allow = \"192.0.2.7\"").start();
    assert_eq!(from(&gateway, "192.0.2.7").await.status, 403);
    let gateway = Setup::new(&upstream).plain().route("allow = \"127.0.0.1\"").start();
    assert_eq!(from(&gateway, "192.0.2.7").await.status, 200);
    assert_eq!(upstream.only().header("x-forwarded-for"), Some("127.0.0.1"));
}

#[tokio::test]
async fn rejects_other_clients_before_the_body() {
    let upstream = Upstream::start().await;
    for (line, status) in [
        ("allow = \"192.0.2.7\"", 403),
        ("rate_limit = { requests = 1, per = \"1h\" }", 429),
        ("rate_limit_per_address = { requests = 1, per = \"1h\" }", 429),
    ] {
        let gateway = Setup::new(&upstream).plain().route(line).start();
        if status == 429 {
            assert_eq!(from(&gateway, "").await.status, 200);
        }
        let event = Event::default().with(&["Expect: 100-continue"]);
        let request = event.request();
        let head = &request[..request.len() - event.body.len()];
        let reply = gateway.connect_plain().await.exchange(head).await;
        assert_eq!(reply.status, status, "{line}");
    }
}

#[tokio::test]
async fn limits_each_address_and_the_route() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream)
        .plain()
        .server(TRUSTED)
        .route("rate_limit = { requests = 4, per = \"1h\" }")
        .route("rate_limit_per_address = { requests = 2, per = \"1h\" }")
        .start();
    let mut statuses = Vec::new();
    for client in ["192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"] {
        statuses.push(from(&gateway, client).await.status);
    }
    assert_eq!(statuses, [200, 200, 429, 429, 200], "what an address wastes is its own");
    // A customer has a /64; the next one is somebody else's.
    let reply = from(&gateway, "2001:db8::1").await;
    assert_eq!(reply.status, 200);
    let over = from(&gateway, "2001:db8::2").await;
    assert_eq!(over.status, 429, "the route is at its limit");
    let seconds: u64 = over.header("retry-after").expect("told").parse().expect("a number");
    assert!((1..=900).contains(&seconds), "{seconds}");
    assert_eq!(gateway.rejections("rate_limited").await, 3.0);
    assert_eq!(gateway.outcomes("rejected").await, 3.0);
    assert_eq!(upstream.requests().len(), 4);
}

#[tokio::test]
async fn limits_ipv6_addresses_by_network() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream)
        .plain()
        .server(TRUSTED)
        .route("rate_limit_per_address = { requests = 1, per = \"1h\" }")
        .start();
    let mut statuses = Vec::new();
    for client in ["2001:db8:1:1::1", "2001:db8:1:1:ffff::2", "2001:db8:1:2::1"] {
        statuses.push(from(&gateway, client).await.status);
    }
    assert_eq!(statuses, [200, 429, 200]);
}

#[tokio::test]
async fn admits_again_after_the_announced_time() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream)
        .plain()
        .route("rate_limit = { requests = 1, per = \"900ms\" }")
        .start();
    assert_eq!(from(&gateway, "").await.status, 200);
    let over = from(&gateway, "").await;
    assert_eq!((over.status, over.header("retry-after")), (429, Some("1")));
    crate::kit::until("the limit lets in again", || async {
        from(&gateway, "").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn observing_routes_count_clients_that_would_not_be_admitted() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream)
        .plain()
        .server(TRUSTED)
        .route("mode = \"observe\"\nallow = \"192.0.2.7\"")
        .route("rate_limit = { requests = 1, per = \"1h\" }")
        .start();
    for (client, mark) in [
        ("198.51.100.1", Some("not_allowed")),
        ("192.0.2.7", None),
        ("192.0.2.7", Some("rate_limited")),
    ] {
        assert_eq!(from(&gateway, client).await.status, 200);
        let seen = upstream.requests().pop().expect("forwarded");
        assert_eq!(
            (seen.header("sealgate-observed"), seen.header("sealgate-verified")),
            (mark, None)
        );
    }
    assert_eq!(gateway.rejections("not_allowed").await, 1.0);
}

#[tokio::test]
async fn reports_https_behind_a_tls_load_balancer() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).plain().server(TRUSTED).start();
    let chain = "X-Forwarded-For: 192.0.2.7";
    for (lines, proto, host) in [
        (&[chain, "X-Forwarded-Proto: https"][..], "https", "localhost"),
        (&[chain, "X-Forwarded-Proto: HTTPS"], "https", "localhost"),
        (&[chain, "X-Forwarded-Proto: http"], "http", "localhost"),
        (&[chain, "X-Forwarded-Proto: javascript:"], "http", "localhost"),
        (&[chain, "X-Forwarded-Proto: http, https"], "https", "localhost"),
        (&[chain], "http", "localhost"),
        (
            &["X-Forwarded-For: 192.0.2.7, 127.0.0.9", "X-Forwarded-Proto: https, http"],
            "https",
            "localhost",
        ),
        (&[chain, "X-Forwarded-Host: hooks.example:8443"], "http", "hooks.example:8443"),
        (&[chain, "X-Forwarded-Host: evil.example, hooks.example"], "http", "hooks.example"),
        (&[chain, "X-Forwarded-Host: a/../b"], "http", "localhost"),
    ] {
        let event = Event::default().with(lines);
        let reply = gateway.connect_plain().await.exchange(&event.request()).await;
        assert_eq!(reply.status, 200);
        let seen = upstream.requests().pop().expect("forwarded");
        let told = (seen.header("x-forwarded-proto"), seen.header("x-forwarded-host"));
        assert_eq!(told, (Some(proto), Some(host)), "{lines:?}");
        let chain = lines[0].split_once(": ").expect("a header").1;
        assert_eq!(seen.header("x-forwarded-for"), Some(format!("{chain}, 127.0.0.1").as_str()));
        assert_eq!(seen.header("host"), Some("localhost"));
    }
}
