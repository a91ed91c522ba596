//! Handshakes through a running gateway: each exchange as the sender's documents describe it. The
//! gateway answers by itself, `Allow` lists what it takes, and nothing reaches the upstream.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use data_encoding::{BASE64, HEXLOWER};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::kit::{Answer, Call, Gateway, Setup, Upstream, hmac_sha256, now_ms};

const SECRET: &str = "a-secret-of-the-handshakes-0001";
/// Senders that answer challenges with MACs share their secret with no other.
const X_SECRET: &str = "a-secret-of-the-handshakes-0002";
const ZOOM_SECRET: &str = "a-secret-of-the-handshakes-0003";
const LINKEDIN_SECRET: &str = "a-secret-of-the-handshakes-0004";

/// The senders with handshakes, the methods that their routes take, and lines for their routes.
const SENDERS: &[(&str, &str, &str)] = &[
    ("meta", "GET, POST", "verify_token = \"the-token-typed-in-at-meta\""),
    ("slack", "GET, POST", ""),
    ("zoom", "POST", ""),
    ("dropbox", "GET, POST", ""),
    ("x", "GET, POST", ""),
    ("twitch", "POST", ""),
    ("microsoft-graph", "POST", ""),
    ("okta", "GET, POST", ""),
    ("trello", "HEAD, POST", "public_url = \"https://hooks.example.com/trello\""),
    ("intercom", "HEAD, POST", ""),
    ("xero", "POST", ""),
    ("discord", "POST", ""),
    ("linkedin", "GET, POST", ""),
    ("monday", "POST", ""),
    ("nylas", "GET, POST", ""),
    ("woocommerce", "POST", ""),
];

/// A gateway with a route for each of them at `/ID`.
fn start(upstream: &Upstream, discord: &Ed25519KeyPair) -> Gateway {
    let public_key = HEXLOWER.encode(discord.public_key().as_ref());
    let route = |(id, _, lines): &(&str, &str, &str)| {
        let key = match *id {
            "discord" => format!("public_key = \"{public_key}\""),
            "x" => format!("secret = \"{X_SECRET}\""),
            "zoom" => format!("secret = \"{ZOOM_SECRET}\""),
            "linkedin" => format!("secret = \"{LINKEDIN_SECRET}\""),
            _ => format!("secret = \"{SECRET}\""),
        };
        format!(
            "[[route]]\nname = \"{id}\"\npath = \"/{id}\"\nscheme = \"{id}\"\n\
             upstream = \"http://{}\"\n{key}\n{lines}\n",
            upstream.address()
        )
    };
    Setup::new(upstream).routes(&SENDERS.iter().map(route).collect::<String>()).start()
}

fn discord_key() -> Ed25519KeyPair {
    Ed25519KeyPair::generate().expect("a key")
}

fn hmac_base64(secret: &str, message: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
    mac.update(message.as_bytes());
    BASE64.encode(&mac.finalize().into_bytes())
}

fn discord(key: &Ed25519KeyPair, body: &str) -> Call {
    let timestamp = (now_ms() / 1000).to_string();
    let signature = key.sign(format!("{timestamp}{body}").as_bytes());
    Call::post("/discord", body)
        .with("X-Signature-Timestamp", &timestamp)
        .with("X-Signature-Ed25519", &HEXLOWER.encode(signature.as_ref()))
}

fn twitch(secret: &str, kind: &str, body: &str) -> Call {
    let at = OffsetDateTime::now_utc().format(&Rfc3339).expect("a time");
    let id = format!("{kind}-1");
    let mac = hmac_sha256(secret, format!("{id}{at}{body}").as_bytes());
    Call::post("/twitch", body)
        .with("Twitch-Eventsub-Message-Id", &id)
        .with("Twitch-Eventsub-Message-Retry", "0")
        .with("Twitch-Eventsub-Message-Type", kind)
        .with("Twitch-Eventsub-Message-Timestamp", &at)
        .with("Twitch-Eventsub-Message-Signature", &format!("sha256={mac}"))
}

fn woocommerce(form: &str) -> Call {
    Call::post("/woocommerce", form).with("Content-Type", "application/x-www-form-urlencoded")
}

fn xero(body: &str) -> Call {
    Call::post("/xero", body).with("x-xero-signature", &hmac_base64(SECRET, body))
}

const CHALLENGE_OF_TWITCH: &str = "{\"challenge\":\"pogchamp-kappa-360noscope-vohiyo\",\
     \"subscription\":{\"id\":\"f1c2a387\",\"status\":\"webhook_callback_verification_pending\"}}";
const VERIFICATION: &str = "webhook_callback_verification";
const INTENT_TO_RECEIVE: &str = "{\"events\":[],\"lastEventSequence\":0,\"firstEventSequence\":0,\
     \"entropy\":\"S0m3r4Nd0mt3xt\"}";

fn zoom(token: &str) -> Call {
    let body = format!(
        "{{\"payload\":{{\"plainToken\":\"{token}\"}},\"event_ts\":1654503849680,\
         \"event\":\"endpoint.url_validation\"}}"
    );
    Call::post("/zoom", &body)
}

const META: &str = "/meta?hub.mode=subscribe&hub.challenge=1158201444\
     &hub.verify_token=the-token-typed-in-at-meta";

#[tokio::test]
async fn each_sender_is_answered_as_its_documents_say() {
    let upstream = Upstream::start().await;
    let key = discord_key();
    let gateway = start(&upstream, &key);
    let (text, json) = ("text/plain; charset=utf-8", "application/json");
    let slack = "{\"token\":\"Jhj5dZrVaK7ZwHHjRyZWjbDl\",\"challenge\":\"3eZbrw1aBm2rZgRNFdxV\",\
                 \"type\":\"url_verification\"}";
    let zoomed = format!(
        "{{\"plainToken\":\"qgg8vlvZRS6UYooatFL8Aw\",\"encryptedToken\":\"{}\"}}",
        hmac_sha256(ZOOM_SECRET, b"qgg8vlvZRS6UYooatFL8Aw")
    );
    let crc = "NzA1MGYyYzUtY2E3NC00YmQ2LWFlZmYtMTRhYTRhNzJiYTAy";
    let crc_answer = format!("{{\"response_token\":\"sha256={}\"}}", hmac_base64(X_SECRET, crc));
    let graph = "/microsoft-graph?validationToken=Validation%3A+Testing+client%20for%20the%3Cb%3E";
    let linkedin = hmac_sha256(LINKEDIN_SECRET, b"890e4665");
    let okta = "Me_rShK8JHsTnbyYrWXCEoMGbM_zsZ6k0hLPZ_Pg";
    let ping = "{\"id\":\"1\",\"token\":\"t\",\"type\":1,\"version\":1}";
    let cases: Vec<(&str, Call, &str, String)> = vec![
        ("meta", Call::new("GET", META, ""), text, "1158201444".into()),
        ("slack", Call::post("/slack", slack), text, "3eZbrw1aBm2rZgRNFdxV".into()),
        ("zoom", zoom("qgg8vlvZRS6UYooatFL8Aw"), json, zoomed),
        ("dropbox", Call::new("GET", "/dropbox?challenge=abc123", ""), text, "abc123".into()),
        ("x", Call::new("GET", &format!("/x?crc_token={crc}&nonce=1"), ""), json, crc_answer),
        (
            "twitch",
            twitch(SECRET, VERIFICATION, CHALLENGE_OF_TWITCH),
            text,
            "pogchamp-kappa-360noscope-vohiyo".into(),
        ),
        (
            "microsoft-graph",
            Call::post(graph, "").with("Content-Type", "text/plain; charset=utf-8"),
            text,
            "Validation: Testing client for the<b>".into(),
        ),
        (
            "okta",
            Call::new("GET", "/okta", "").with("X-Okta-Verification-Challenge", okta),
            json,
            format!("{{\"verification\":\"{okta}\"}}"),
        ),
        ("trello", Call::new("HEAD", "/trello", ""), "", String::new()),
        ("intercom", Call::new("HEAD", "/intercom", ""), "", String::new()),
        ("xero", xero(INTENT_TO_RECEIVE), "", String::new()),
        ("discord", discord(&key, ping), json, "{\"type\":1}".into()),
        (
            "linkedin",
            Call::new("GET", "/linkedin?challengeCode=890e4665", ""),
            json,
            format!("{{\"challengeCode\":\"890e4665\",\"challengeResponse\":\"{linkedin}\"}}"),
        ),
        (
            "monday",
            Call::post("/monday", "{\"challenge\":\"3eZbrw\"}"),
            json,
            "{\"challenge\":\"3eZbrw\"}".into(),
        ),
        ("nylas", Call::new("GET", "/nylas?challenge=bc609b38", ""), text, "bc609b38".into()),
        ("woocommerce", woocommerce("webhook_id=7"), "", String::new()),
    ];
    assert_eq!(cases.len(), SENDERS.len());
    for ((id, allowed, _), (of, call, content_type, body)) in SENDERS.iter().zip(cases) {
        assert_eq!(*id, of);
        let reply = gateway.call(&call).await;
        assert_eq!((reply.status, reply.text()), (200, body), "{id}: {}", reply.head);
        assert_eq!(reply.header("content-type").unwrap_or(""), content_type, "{id}");
        assert_eq!(reply.header("sealgate-answer"), Some("handshake"), "{id}");
        if !content_type.is_empty() {
            assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{id}");
        }
        let labels = format!("sealgate_requests_total{{outcome=\"handshake\",route=\"{id}\"}}");
        assert_eq!(gateway.metric(&labels).await, 1.0, "{id}");
        let put = gateway.call(&Call::new("PUT", &format!("/{id}"), "")).await;
        assert_eq!((put.status, put.header("allow")), (405, Some(*allowed)), "{id}");
    }
    assert!(upstream.requests().is_empty(), "nothing is forwarded");
}

#[tokio::test]
async fn what_is_no_handshake_or_no_authentic_one_is_refused() {
    let upstream = Upstream::start().await;
    let key = discord_key();
    let gateway = start(&upstream, &key);
    let get = |target: &str| Call::new("GET", target, "");
    let bad_ping = discord(&key, "{\"type\":1}").tampered("{\"type\":1 }");
    let okta = |value: &str| get("/okta").with("X-Okta-Verification-Challenge", value);
    let long = "a".repeat(1025);
    let cases: Vec<(&str, Call, &str)> = vec![
        ("Meta's token", get(&META.replace("typed", "tried")), "bad_signature"),
        ("no token", get(META.split("&hub.verify").next().expect("a part")), "bad_signature"),
        ("not a subscription", get(&META.replace("subscribe", "other")), "missing_header"),
        ("a plain GET", get("/meta"), "missing_header"),
        ("two challenges", get("/dropbox?challenge=a&challenge=b"), "missing_header"),
        (
            "a line end",
            get("/dropbox?challenge=a%0d%0aX: b".replace(' ', "").as_str()),
            "malformed_signature",
        ),
        ("too long", get(&format!("/dropbox?challenge={long}")), "malformed_signature"),
        (
            "a forged challenge",
            twitch("not-the-secret", VERIFICATION, CHALLENGE_OF_TWITCH),
            "bad_signature",
        ),
        ("no signature", Call::post("/twitch", CHALLENGE_OF_TWITCH), "missing_header"),
        ("a bad PING", bad_ping, "bad_signature"),
        ("an unsigned PING", Call::post("/discord", "{\"type\":1}"), "missing_header"),
        (
            "two challenges in headers",
            okta("a").with("X-Okta-Verification-Challenge", "b"),
            "duplicate_header",
        ),
        ("an event as Zoom's token", zoom("v0:1654503849:{}"), "malformed_signature"),
        ("a body as X's token", get("/x?crc_token=%7B%7D"), "malformed_signature"),
        ("nothing as X's token", get("/x?crc_token="), "malformed_signature"),
    ];
    for (name, call, expected) in cases {
        let (reply, reason) = gateway.refused(&call).await;
        assert_eq!((reply.status, reason.as_str()), (401, expected), "{name}: {}", reply.head);
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{name}");
    }
    // An answered challenge is no event: X signs the bare body, and the gateway gave a MAC of a
    // word.
    let stolen = Call::post("/x", "word")
        .with("x-twitter-webhooks-signature", &format!("sha256={}", hmac_base64(X_SECRET, "word")));
    let (reply, reason) = gateway.refused(&stolen).await;
    assert_eq!((reply.status, reason.as_str()), (401, "malformed_body"));
    assert!(upstream.requests().is_empty(), "nothing is forwarded");
}

#[tokio::test]
async fn events_beside_handshakes_are_forwarded() {
    let upstream = Upstream::start().await;
    let key = discord_key();
    let gateway = start(&upstream, &key);
    let command = "{\"id\":\"2\",\"token\":\"t\",\"type\":2,\"version\":1}";
    let webhook_event =
        "{\"version\":1,\"type\":1,\"event\":{\"type\":\"APPLICATION_AUTHORIZED\"}}";
    let cases = [
        discord(&key, command),
        discord(&key, webhook_event),
        twitch(SECRET, "notification", "{\"challenge\":\"x\",\"event\":{}}"),
        Call::post("/dropbox", "{}").with("X-Dropbox-Signature", &hmac_sha256(SECRET, b"{}")),
        xero(
            "{\"events\":[{\"resourceId\":\"r\"}],\"firstEventSequence\":1,\"lastEventSequence\":1}",
        ),
    ];
    let count = cases.len();
    for call in cases {
        let reply = gateway.call(&call).await;
        assert_eq!(reply.status, 200, "{}: {}", call.target, reply.head);
    }
    assert_eq!(upstream.requests().len(), count);
}

#[tokio::test]
async fn xero_gets_answers_without_bodies_and_cookies() {
    let upstream = Upstream::start().await;
    let gateway = start(&upstream, &discord_key());
    let answer = "HTTP/1.1 201 Created\r\nContent-Type: text/html\r\nSet-Cookie: a=b\r\n\
                  X-Kept: yes\r\nContent-Length: 4\r\n\r\ndone";
    upstream.answer([Answer::Raw(answer.as_bytes().to_vec()), Answer::Status(500)]);
    let event = |n: u32| xero(&format!("{{\"events\":[{{}}],\"firstEventSequence\":{n}}}"));
    let forged = event(3).tampered("{\"events\":[]}");
    let wrong_intent =
        xero(INTENT_TO_RECEIVE).set("x-xero-signature", &hmac_base64(SECRET, "other"));
    let cases =
        [(event(1), 200), (event(2), 500), (event(1), 200), (forged, 401), (wrong_intent, 401)];
    for (call, status) in cases {
        let reply = gateway.call(&call).await;
        assert_eq!((reply.status, reply.text().as_str()), (status, ""), "{}", reply.head);
        for name in ["content-type", "set-cookie"] {
            assert_eq!(reply.header(name), None, "{}", reply.head);
        }
    }
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn responds_to_the_unsigned_certificate_check_of_slack() {
    let upstream = Upstream::start().await;
    let gateway = start(&upstream, &discord_key());
    let form = |body: &str| {
        Call::post("/slack", body).with("Content-Type", "application/x-www-form-urlencoded")
    };
    let get = |query: &str| Call::new("GET", &format!("/slack?{query}"), "");
    for call in [form("ssl_check=1"), form("ssl_check=1&token=t"), get("ssl_check=1")] {
        let reply = gateway.call(&call).await;
        assert_eq!((reply.status, reply.text().as_str()), (200, ""), "{}", call.target);
    }
    for fields in ["ssl_check=0", "ssl_check=1&ssl_check=1", "ssl_check=1&command=%2Fdo", "a=1"] {
        for call in [form(fields), get(fields)] {
            let (reply, reason) = gateway.refused(&call).await;
            assert_eq!((reply.status, reason.as_str()), (401, "missing_header"), "{fields}");
        }
    }
    assert!(upstream.requests().is_empty(), "nothing is forwarded");
}

#[tokio::test]
async fn what_is_no_challenge_of_its_sender_is_an_event() {
    let upstream = Upstream::start().await;
    let gateway = start(&upstream, &discord_key());
    for call in [
        woocommerce("webhook_id=7&order=1"),
        woocommerce("order=1"),
        Call::post("/monday", "{\"challenge\":\"c\",\"event\":{\"type\":\"create_item\"}}"),
    ] {
        let (reply, reason) = gateway.refused(&call).await;
        assert_eq!((reply.status, reason.as_str()), (401, "missing_header"), "{}", call.target);
    }
    let signed = woocommerce("webhook_id=7").with("X-WC-Webhook-Signature", "AA==");
    assert_eq!(gateway.refused(&signed).await.1, "bad_signature");
    assert!(upstream.requests().is_empty(), "nothing is forwarded");
}
