//! A running gateway with a key server that fails, rotates keys and serves wrong ones. Tokens that
//! cannot be verified now get 503, invalid tokens get 403, and no token causes more fetches than
//! the limit allows.

use std::{process::Command, sync::Arc};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    kit::{
        Call, Gateway, Issuer, KeyServer, Process, Reply, Serves, Setup, Upstream, hmac_token,
        key_set, parse, sealgate, unsigned_token, until,
    },
    senders::pitchpoint::{call, claims, route},
};

/// At most so many fetches within a minute.
const FETCHES_A_MINUTE: usize = 5;

struct Stage {
    upstream: Upstream,
    server: KeyServer,
    gateway: Gateway,
}

impl Stage {
    async fn start(answers: impl IntoIterator<Item = Serves>, usual: Serves) -> Self {
        let server = KeyServer::start(usual).await;
        server.next(answers);
        let upstream = Upstream::start().await;
        let jwks = format!("jwks = \"{}\"", server.url());
        let gateway = Setup::new(&upstream).routes(&route(&upstream, &jwks)).start();
        Stage { upstream, server, gateway }
    }

    /// Sends a new event with this token.
    async fn send(&self, token: &str, id: &str) -> Reply {
        self.gateway.call(&call(token, id, "{}")).await
    }

    /// Waits until a token is accepted; until then it is 503, never 403.
    async fn accepted(&self, token: &str, id: &str) {
        let settled = || async {
            let reply = self.send(token, id).await;
            assert!(matches!(reply.status, 200 | 503), "{id}: {}", reply.head);
            reply.status == 200
        };
        until("the token is accepted", settled).await;
    }

    /// Waits until a token is refused as one of a key that is not in the set; until then it is 503.
    async fn unknown(&self, token: &str, id: &str) {
        let settled = || async {
            let reply = self.send(token, id).await;
            assert!(matches!(reply.status, 403 | 503), "{id}: {}", reply.head);
            reply.status == 403
        };
        until("the key is known to be unknown", settled).await;
    }
}

fn set(issuers: &[&Issuer]) -> Serves {
    Serves::Set(key_set(issuers))
}

fn raw(text: &str) -> Serves {
    Serves::Raw(text.to_owned())
}

#[tokio::test]
async fn fetches_and_failures_are_counted() {
    let key = Issuer::new("a-key");
    let missing = raw("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    let stage = Stage::start([missing], set(&[&key])).await;
    let name = stage.server.url();
    let fetches = async |result: &str| {
        let labels = format!("{{name=\"{name}\",result=\"{result}\"}}");
        stage.gateway.metric(&format!("sealgate_key_set_fetches_total{labels}")).await
    };
    until("a fetch succeeds", async || fetches("ok").await > 0.5).await;
    assert_eq!((fetches("failed").await, fetches("ok").await), (1.0, 1.0));
    let fetched = format!("sealgate_key_set_fetched_timestamp_seconds{{name=\"{name}\"}}");
    let age = crate::kit::now_ms() as f64 / 1000.0 - stage.gateway.metric(&fetched).await;
    assert!((-1.0..30.0).contains(&age), "{age}");
}

#[tokio::test]
async fn a_rotated_key_is_fetched_and_until_then_nothing_is_lost() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let stage = Stage::start([], set(&[&old])).await;
    stage.accepted(&old.token(&claims()), "before").await;
    stage.server.usually(set(&[&old, &new]));
    let first = stage.send(&new.token(&claims()), "rotated").await;
    assert_eq!(first.status, 503, "the set was fetched before the request came");
    assert!(first.header("retry-after").is_some(), "{}", first.head);
    assert_eq!(first.header("sealgate-answer"), Some("unavailable"));
    stage.accepted(&new.token(&claims()), "rotated").await;
    assert_eq!(stage.server.requests().len(), 2);
    // The key that is withdrawn is refused once a set without it was fetched.
    stage.server.usually(set(&[&new]));
    let third = Issuer::new("third");
    stage.unknown(&third.token(&claims()), "third").await;
    assert_eq!(stage.server.requests().len(), 3);
    assert_eq!(stage.send(&old.token(&claims()), "withdrawn").await.status, 503);
    stage.unknown(&old.token(&claims()), "withdrawn").await;
    assert_eq!(stage.upstream.requests().len(), 2);
}

#[tokio::test]
async fn servers_that_fail_or_lie_lose_no_event_and_change_no_key() {
    let (good, evil) = (Issuer::new("k"), Issuer::new("k"));
    let elsewhere = KeyServer::start(set(&[&evil])).await;
    let redirect =
        format!("HTTP/1.1 302 Found\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", elsewhere.url());
    let too_large = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(256 * 1024));
    let token = good.token(&claims());
    let lies = [
        ("500", raw("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")),
        ("a redirect", Serves::Raw(redirect)),
        ("too large", Serves::Set(too_large)),
        ("without an end", raw("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"keys\":[")),
        ("not HTTP", raw("nonsense\r\n\r\n")),
        ("not JSON", Serves::Set("<html>".to_owned())),
        ("no keys", Serves::Set("{\"keys\":[]}".to_owned())),
    ];
    assert!(!lies.is_empty());
    let good = Arc::new(good);
    let forged = evil.token(&claims());
    let mut running = JoinSet::new();
    for (name, lie) in lies {
        let (good, token, forged) = (Arc::clone(&good), token.clone(), forged.clone());
        running.spawn(async move {
            let stage = Stage::start([], lie).await;
            stage.server.asked(1).await;
            for (id, token) in [("during", &token), ("forged", &forged)] {
                let reply = stage.send(token, id).await;
                assert_eq!(reply.status, 503, "{name}: {}", reply.head);
            }
            stage.server.usually(set(&[&good]));
            stage.accepted(&token, "during").await;
            assert_eq!(stage.upstream.requests().len(), 1, "{name}");
            let (reply, reason) = stage.gateway.refused(&call(&forged, "forged", "{}")).await;
            assert_eq!((reply.status, reason.as_str()), (403, "bad_signature"), "{name}");
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.expect("every lie is survived");
    }
    assert!(elsewhere.requests().is_empty(), "a redirect is not followed");
}

#[tokio::test]
async fn the_old_set_serves_while_fetches_fail() {
    let (good, new) = (Issuer::new("good"), Issuer::new("new"));
    let stage = Stage::start([], set(&[&good])).await;
    stage.accepted(&good.token(&claims()), "before").await;
    stage.server.usually(raw("HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n"));
    let token = new.token(&claims());
    for attempt in 2..4 {
        let reply = stage.send(&token, "new").await;
        assert_eq!(reply.status, 503, "nobody can say that the key is bad: {}", reply.head);
        stage.server.asked(attempt).await;
        let id = format!("during-{attempt}");
        assert_eq!(stage.send(&good.token(&claims()), &id).await.status, 200);
    }
    stage.server.usually(Serves::Set("{\"keys\":[]}".to_owned()));
    stage.server.asked(4).await;
    assert_eq!(stage.send(&good.token(&claims()), "after").await.status, 200);
}

#[tokio::test]
async fn captured_tokens_are_judged_with_the_published_keys() {
    let issuer = Issuer::new("k");
    let server = KeyServer::start(set(&[&issuer])).await;
    let upstream = Upstream::start().await;
    let jwks = format!("jwks = \"{}\"", server.url());
    let setup = Setup::new(&upstream).routes(&route(&upstream, &jwks));
    let dir = setup.dir.path().to_owned();
    std::fs::write(dir.join("gateway.toml"), setup.toml()).expect("written");
    let captured = call(&issuer.token(&claims()), "captured", "{}").bytes();
    std::fs::write(dir.join("request"), captured).expect("written");
    let judge = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sealgate"));
        command.args(["verify", "--route", "pitchpoint", "--json", "request"]).current_dir(&dir);
        tokio::task::spawn_blocking(move || command.output().expect("the binary runs"))
    };
    let judged = judge().await.expect("joined");
    let said = String::from_utf8_lossy(&judged.stdout);
    assert!(judged.status.success() && said.contains("\"accept\""), "{said}");
    server.usually(raw("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"));
    let judged = judge().await.expect("joined");
    let said = String::from_utf8_lossy(&judged.stderr);
    assert_eq!(judged.status.code(), Some(1), "{said}");
    assert!(said.contains("the key set cannot be fetched: the response is 500"), "{said}");
}

#[tokio::test]
async fn a_reload_keeps_the_keys_while_their_server_is_away() {
    let good = Issuer::new("good");
    let stage = Stage::start([], set(&[&good])).await;
    stage.accepted(&good.token(&claims()), "before").await;
    stage.server.usually(raw("HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n"));
    let jwks = format!("jwks = \"{}\"", stage.server.url());
    let setup = Setup::new(&stage.upstream).routes(&route(&stage.upstream, &jwks));
    let config = parse(&setup.toml(), stage.gateway.dir.path());
    stage.gateway.running().reload(config).await.expect("reloaded");
    assert!(stage.server.requests().len() > 1, "the reload asks for the keys");
    assert_eq!(stage.send(&good.token(&claims()), "after").await.status, 200);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_and_asked_again() {
    let good = Issuer::new("k");
    let stage = Stage::start([Serves::Silence], set(&[&good])).await;
    stage.server.asked(1).await;
    let token = good.token(&claims());
    assert_eq!(stage.send(&token, "e").await.status, 503, "the gateway does not wait for the keys");
    stage.accepted(&token, "e").await;
    assert_eq!(stage.server.most_at_once(), 1, "one fetch at a time");
}

#[tokio::test]
async fn whatever_keys_tokens_name_fetches_are_few_and_single() {
    let (good, stranger) = (Issuer::new("good"), Issuer::new("stranger"));
    let stage = Stage::start([], set(&[&good])).await;
    stage.accepted(&good.token(&claims()), "before").await;
    // An unknown key is asked for once, and then known to be unknown.
    let token = stranger.token(&claims());
    assert_eq!(stage.send(&token, "x").await.status, 503);
    stage.unknown(&token, "x").await;
    for _ in 0..10 {
        let (reply, reason) = stage.gateway.refused(&call(&token, "x", "{}")).await;
        assert_eq!((reply.status, reason.as_str()), (403, "unknown_kid"));
    }
    assert_eq!(stage.server.requests().len(), 2, "it is remembered");
    // Thousands of names later, the server was asked five times and one at a time.
    let name = |number: usize| {
        let header = json!({"alg": "RS256", "kid": format!("k{number}")});
        unsigned_token(&header, &claims()) + "AAAA"
    };
    let mut connection = stage.gateway.connect_plain().await;
    let mut flood = async |numbers: std::ops::Range<usize>| {
        for number in numbers {
            let call = call(&name(number), "flood", "{}");
            let reply = connection.exchange(&call.bytes()).await;
            assert!(matches!(reply.status, 403 | 503), "{}", reply.head);
        }
    };
    flood(0..500).await;
    stage.server.asked(FETCHES_A_MINUTE).await;
    flood(500..1000).await;
    assert_eq!(stage.server.requests().len(), FETCHES_A_MINUTE);
    assert_eq!(stage.server.most_at_once(), 1);
    assert_eq!(stage.send(&good.token(&claims()), "after").await.status, 200);
    assert_eq!(stage.upstream.requests().len(), 2);
}

#[tokio::test]
async fn routes_with_the_same_key_set_share_its_fetches() {
    let (good, stranger) = (Issuer::new("good"), Issuer::new("stranger"));
    let server = KeyServer::start(set(&[&good])).await;
    let upstream = Upstream::start().await;
    let one = route(&upstream, &format!("jwks = \"{}\"", server.url()));
    let other = one.replace("\"pitchpoint\"\npath = \"", "\"other\"\npath = \"/other");
    assert_ne!(one, other);
    let gateway = Setup::new(&upstream).routes(&(one + &other)).start();
    let paths = ["", "/other"];
    let call_at = |at: &str, token: &str, id: &str| {
        let call = call(token, id, "{}");
        Call { target: format!("{at}{}", call.target), ..call }
    };
    for at in paths {
        let accepted = || async {
            gateway.call(&call_at(at, &good.token(&claims()), &format!("e{at}"))).await.status
                == 200
        };
        until("the token is accepted", accepted).await;
    }
    assert_eq!(server.requests().len(), 1, "one set for both");
    // What is learnt by one is known to the other.
    let token = stranger.token(&claims());
    let settled = || async { gateway.call(&call_at("", &token, "x")).await.status == 403 };
    until("the key is known to be unknown", settled).await;
    let (reply, reason) = gateway.refused(&call_at("/other", &token, "x")).await;
    assert_eq!((reply.status, reason.as_str()), (403, "unknown_kid"));
    assert_eq!(server.requests().len(), 2);
    // Unknown keys on both routes cause no more fetches than on one.
    for number in 0..40 {
        let header = json!({"alg": "RS256", "kid": format!("k{number}")});
        let token = unsigned_token(&header, &claims()) + "AAAA";
        for at in paths {
            let reply = gateway.call(&call_at(at, &token, "flood")).await;
            assert!(matches!(reply.status, 403 | 503), "{}", reply.head);
        }
    }
    server.asked(FETCHES_A_MINUTE).await;
    for at in paths {
        let token = unsigned_token(&json!({"alg": "RS256", "kid": "late"}), &claims()) + "AAAA";
        assert_eq!(gateway.call(&call_at(at, &token, "late")).await.status, 503);
    }
    assert_eq!(server.requests().len(), FETCHES_A_MINUTE);
    assert_eq!(server.most_at_once(), 1);
}

#[tokio::test]
async fn nothing_in_a_token_chooses_its_key() {
    let (good, evil) = (Issuer::new("k"), Issuer::new("evil"));
    let elsewhere = KeyServer::start(set(&[&evil])).await;
    let stage = Stage::start([], set(&[&good])).await;
    stage.accepted(&good.token(&claims()), "before").await;
    let der = good.public_der();
    let with = |mut header: Value, more: Value| {
        let more = more.as_object().expect("an object").clone();
        header.as_object_mut().expect("an object").extend(more);
        header
    };
    let known = json!({"alg": "RS256", "kid": "k"});
    let addresses = json!({"jku": elsewhere.url(), "x5u": elsewhere.url()});
    let chain = json!({"x5c": [data_encoding::BASE64.encode(&evil.public_der())]});
    let cases: Vec<(&str, Call, &str)> = [
        ("none", unsigned_token(&json!({"alg": "none", "kid": "k"}), &claims()), "bad_alg"),
        ("HS256", hmac_token(&json!({"alg": "HS256", "kid": "k"}), &claims(), &der), "bad_alg"),
        (
            "an address",
            evil.token_with(&with(known.clone(), addresses), &claims()),
            "bad_signature",
        ),
        (
            "a key",
            evil.token_with(&with(known.clone(), json!({"jwk": evil.jwk()})), &claims()),
            "bad_signature",
        ),
        ("a chain", evil.token_with(&with(known, chain), &claims()), "bad_signature"),
        ("no kid", evil.token_with(&json!({"alg": "RS256"}), &claims()), "bad_signature"),
    ]
    .map(|(name, token, reason)| (name, call(&token, "forged", "{}"), reason))
    .into();
    for (name, call, expected) in cases {
        let (reply, reason) = stage.gateway.refused(&call).await;
        assert_eq!((reply.status, reason.as_str()), (403, expected), "{name}");
    }
    assert!(elsewhere.requests().is_empty(), "no address in a token is asked");
    assert_eq!(stage.server.requests().len(), 1, "no token caused a fetch");
    assert_eq!(stage.upstream.requests().len(), 1);
    // A set with one key needs no name for it.
    let nameless = good.token_with(&json!({"alg": "RS256"}), &claims());
    assert_eq!(stage.send(&nameless, "nameless").await.status, 200);
}

#[tokio::test]
async fn a_key_set_that_can_verify_nothing_is_rejected_at_start() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).routes(&route(&upstream, "jwks = \"file:keys.json\""));
    let dir = setup.dir.path();
    std::fs::write(dir.join("gateway.toml"), setup.toml()).expect("written");
    let short = data_encoding::BASE64URL_NOPAD.encode(&[0xff; 128]);
    let short = json!({"kty": "RSA", "kid": "short", "n": short, "e": "AQAB"});
    let other = json!({
        "kty": "EC", "crv": "P-256", "kid": "other",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    });
    for (key, cause) in [
        (short, "short: it has 1024 bits, not 2048 to 8192"),
        (other, "the key set has no key for RSA PKCS#1 SHA-256, which `pitchpoint` uses"),
    ] {
        std::fs::write(dir.join("keys.json"), json!({"keys": [key]}).to_string()).expect("written");
        let output = sealgate(&["check"], dir);
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(cause), "{said}");
    }
}

#[tokio::test]
async fn a_flood_of_unknown_keys_is_no_error_of_the_gateway() {
    let good = Issuer::new("good");
    let server = KeyServer::start(set(&[&good])).await;
    let upstream = Upstream::start().await;
    let jwks = format!("jwks = \"{}\"", server.url());
    let setup = Setup::new(&upstream).routes(&route(&upstream, &jwks)).plain();
    let process = Process::start(setup.dir.path(), &setup.toml()).await;
    let mut connection = process.connect().await;
    let accepted = call(&good.token(&claims()), "before", "{}");
    while connection.exchange(&accepted.bytes()).await.status != 200 {}
    let errors = |log: &str| log.lines().filter(|line| line.contains("\"ERROR\"")).count();
    let before = errors(&process.log());
    let mut statuses = Vec::new();
    for number in 0..600 {
        let header = json!({"alg": "RS256", "kid": format!("k{number}")});
        let token = unsigned_token(&header, &claims()) + "AAAA";
        statuses.push(connection.exchange(&call(&token, "flood", "{}").bytes()).await.status);
    }
    let rejected = statuses.iter().filter(|status| **status == 403).count();
    assert!(rejected >= 300, "the first 256 may wait for a newer set: {rejected}");
    assert_eq!(errors(&process.log()), before, "nothing is wrong with the gateway");
    let after = call(&good.token(&claims()), "after", "{}");
    assert_eq!(connection.exchange(&after.bytes()).await.status, 200);
}
