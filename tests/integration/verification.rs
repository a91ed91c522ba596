//! The verification matrix: authentic requests are forwarded byte for byte, and every mutation is
//! rejected with the same response and its exact reason.

use crate::kit::{Event, Gateway, SECRET, Setup, Upstream};

const COUPON: &str = "the-secret-of-coupon-group-574";
const STAMP: &str = "the-secret-of-stamp-card-147";
const LINK: &str = "the-secret-of-link-group-574";
const OLD: &str = "the-secret-before-the-rotation";

async fn gateway(upstream: &Upstream) -> Gateway {
    Setup::new(upstream)
        .route(&format!(
            "[route.secrets.coupon]\n574 = \"{COUPON}\"\n0 = \"{COUPON}-zero\"\n\
             [route.secrets.stamp]\n147 = [\"{STAMP}\", \"{OLD}\"]\n\
             [route.secrets.link]\n574 = \"{LINK}\"\n"
        ))
        .start()
}

/// Request: its description, how it is built, and the key or the reason that the gateway must
/// report.
type Case = (&'static str, fn() -> Event, &'static str);

fn event(change: impl FnOnce(&mut Event)) -> Event {
    let mut event = Event::default();
    change(&mut event);
    event
}

fn group(resource: &str, secret: &str, body: &str) -> Event {
    Event::group(resource, secret, body.as_bytes())
}

/// Returns authentic requests, each with the name of the key that verifies it.
const ACCEPTED: &[Case] = &[
    ("the guide's example", Event::default, "global"),
    ("seconds", || event(|e| e.timestamp.truncate(10)), "global"),
    (
        "spaces in the signature",
        || event(|e| e.signature = Some("t={t}, v1={v1}, alg=hmac-sha256".into())),
        "global",
    ),
    (
        "any order",
        || event(|e| e.signature = Some("alg=hmac-sha256,v1={v1},t={t}".into())),
        "global",
    ),
    ("no alg", || event(|e| e.signature = Some("t={t},v1={v1}".into())), "global"),
    (
        "upper-case hex",
        || event(|e| e.signature = Some(format!("t={{t}},v1={}", e.v1().to_uppercase()))),
        "global",
    ),
    (
        "ten candidates, the last one right",
        || {
            let wrong = format!("v1={},", "0".repeat(64)).repeat(9);
            event(|e| e.signature = Some(format!("t={{t}},{wrong}v1={{v1}}")))
        },
        "global",
    ),
    (
        "no Webhook-Type",
        || event(|e| e.context.retain(|(n, _)| n != "X-Vivoldi-Webhook-Type")),
        "global",
    ),
    (
        "no duplicate headers of the signed values",
        || event(|e| e.without = vec!["X-Vivoldi-Timestamp", "X-Content-SHA256"]),
        "global",
    ),
    ("a body that is no JSON", || Event::new(b"\xff\xfe not json \x00"), "global"),
    ("an empty body", || Event::new(b""), "global"),
    ("the guide's own invalid JSON", || Event::new(b"{\"a\": \"$10\"\n \"disc\": 10.0}"), "global"),
    ("a large body", || Event::new(&vec![b'x'; 900_000]), "global"),
    (
        "a coupon group",
        || group("COUPON", COUPON, r#"{"a":[1,{"grpIdx":9}],"grpIdx":574}"#),
        "coupon/574",
    ),
    (
        "index 0",
        || group("COUPON", "the-secret-of-coupon-group-574-zero", r#"{"grpIdx":0}"#),
        "coupon/0",
    ),
    ("an escaped member name", || group("COUPON", COUPON, r#"{"grp\u0049dx":574}"#), "coupon/574"),
    ("a stamp card", || group("STAMP", STAMP, r#"{"cardIdx": 147, "grpIdx": "x"}"#), "stamp/147"),
    ("the old secret of a stamp card", || group("STAMP", OLD, r#"{"cardIdx":147}"#), "stamp/147"),
    ("a link group by its enum name", || group("URL", LINK, r#"{"grpIdx":574}"#), "link/574"),
    ("a link group by the samples' name", || group("LINK", LINK, r#"{"grpIdx":574}"#), "link/574"),
];

/// Returns mutations of authentic requests, each with the reason for its rejection.
const REFUSED: &[Case] = &[
    ("no signature", || event(|e| e.without = vec!["X-Vivoldi-Signature"]), "missing_header"),
    ("no event id", || event(|e| e.without = vec!["X-Vivoldi-Event-Id"]), "missing_header"),
    (
        "GROUP without a resource type",
        || {
            let mut e = group("COUPON", COUPON, r#"{"grpIdx":574}"#);
            e.context.retain(|(name, _)| name != "X-Vivoldi-Resource-Type");
            e
        },
        "missing_header",
    ),
    (
        "two signatures",
        || {
            event(|e| {
                e.extra = vec![format!("X-Vivoldi-Signature: t={},v1={}", e.timestamp, e.v1())]
            })
        },
        "duplicate_header",
    ),
    (
        "two event ids",
        || event(|e| e.extra = vec![format!("X-Vivoldi-Event-Id: {}", e.id)]),
        "duplicate_header",
    ),
    (
        "an underscore twin",
        || event(|e| e.extra = vec!["X_Vivoldi_Signature: t=1".into()]),
        "duplicate_header",
    ),
    (
        "a half underscore twin",
        || event(|e| e.extra = vec!["X-Vivoldi_Comp-Idx: 1".into()]),
        "duplicate_header",
    ),
    (
        "two webhook types",
        || event(|e| e.extra = vec!["X-Vivoldi-Webhook-Type: GROUP".into()]),
        "duplicate_header",
    ),
    ("an empty signature", || event(|e| e.signature = Some(String::new())), "malformed_signature"),
    ("no v1", || event(|e| e.signature = Some("t={t}".into())), "malformed_signature"),
    (
        "t twice",
        || event(|e| e.signature = Some("t={t},t={t},v1={v1}".into())),
        "malformed_signature",
    ),
    (
        "eleven candidates",
        || event(|e| e.signature = Some(format!("t={{t}}{}", ",v1={v1}".repeat(11)))),
        "malformed_signature",
    ),
    (
        "hex and more",
        || event(|e| e.signature = Some("t={t},v1={v1}zz".into())),
        "malformed_signature",
    ),
    (
        "short hex",
        || event(|e| e.signature = Some(format!("t={{t}},v1={}", &e.v1()[..62]))),
        "malformed_signature",
    ),
    (
        "no hex",
        || event(|e| e.signature = Some(format!("t={{t}},v1={}", "g".repeat(64)))),
        "malformed_signature",
    ),
    ("an event id with a dot", || event(|e| e.id = "a.b".into()), "malformed_signature"),
    ("an empty event id", || event(|e| e.id = String::new()), "malformed_signature"),
    ("a long event id", || event(|e| e.id = "x".repeat(10_000)), "malformed_signature"),
    ("no t", || event(|e| e.signature = Some("v1={v1}".into())), "malformed_signature"),
    ("t is NaN", || event(|e| e.timestamp = "NaN".into()), "malformed_timestamp"),
    ("t is negative", || event(|e| e.timestamp = "-1758184391".into()), "malformed_timestamp"),
    ("t is signed", || event(|e| e.timestamp.insert(0, '+')), "malformed_timestamp"),
    (
        "t is a float",
        || {
            event(|e| {
                e.timestamp.truncate(10);
                e.timestamp.push_str(".5");
            })
        },
        "malformed_timestamp",
    ),
    (
        "t is beyond u64",
        || event(|e| e.timestamp = "99999999999999999999".into()),
        "malformed_timestamp",
    ),
    (
        "t has a leading zero",
        || {
            event(|e| {
                e.timestamp.truncate(10);
                e.timestamp.insert(0, '0');
            })
        },
        "malformed_timestamp",
    ),
    ("t in microseconds", || event(|e| e.timestamp.push_str("000")), "malformed_timestamp"),
    ("another alg", || event(|e| e.signature = Some("t={t},v1={v1},alg=none".into())), "bad_alg"),
    (
        "alg of another case",
        || event(|e| e.signature = Some("t={t},v1={v1},alg=HMAC-SHA512".into())),
        "bad_alg",
    ),
    (
        "an index twice",
        || group("COUPON", COUPON, r#"{"grpIdx":574,"grpIdx":574}"#),
        "malformed_body",
    ),
    (
        "an index twice by escape",
        || group("COUPON", COUPON, r#"{"grpIdx":574,"grp\u0049dx":1}"#),
        "malformed_body",
    ),
    ("an index as text", || group("COUPON", COUPON, r#"{"grpIdx":"574"}"#), "malformed_body"),
    ("an index as float", || group("COUPON", COUPON, r#"{"grpIdx":574.0}"#), "malformed_body"),
    (
        "an index with exponent",
        || group("COUPON", COUPON, r#"{"grpIdx":5.74e2}"#),
        "malformed_body",
    ),
    ("an index as true", || group("COUPON", COUPON, r#"{"grpIdx":true}"#), "malformed_body"),
    ("an index as null", || group("COUPON", COUPON, r#"{"grpIdx":null}"#), "malformed_body"),
    ("no index", || group("COUPON", COUPON, r#"{"a":{"grpIdx":574}}"#), "malformed_body"),
    ("trailing bytes", || group("COUPON", COUPON, r#"{"grpIdx":574} x"#), "malformed_body"),
    ("a byte order mark", || group("COUPON", COUPON, "\u{feff}{\"grpIdx\":574}"), "malformed_body"),
    (
        "invalid UTF-8",
        || Event::group("COUPON", COUPON, b"{\"grpIdx\":574,\"a\":\"\xff\"}"),
        "malformed_body",
    ),
    (
        "65 levels",
        || {
            group(
                "COUPON",
                COUPON,
                &format!("{{\"grpIdx\":574,\"a\":{}{}}}", "[".repeat(65), "]".repeat(65)),
            )
        },
        "malformed_body",
    ),
    ("an array", || group("COUPON", COUPON, "[574]"), "malformed_body"),
    ("an unknown index", || group("COUPON", COUPON, r#"{"grpIdx":575}"#), "unknown_key"),
    ("an index that wraps", || group("COUPON", COUPON, r#"{"grpIdx":4294967870}"#), "unknown_key"),
    (
        "a stamp card under a coupon's index",
        || group("STAMP", COUPON, r#"{"cardIdx":574}"#),
        "unknown_key",
    ),
    (
        "an unknown webhook type",
        || {
            event(|e| {
                e.set("X-Vivoldi-Webhook-Type", "global");
            })
        },
        "unknown_key",
    ),
    ("an unknown resource type", || group("POINT", COUPON, r#"{"grpIdx":574}"#), "unknown_key"),
    (
        "another secret",
        || event(|e| e.secret = "another-secret-altogether".into()),
        "bad_signature",
    ),
    ("a group's secret for GLOBAL", || event(|e| e.secret = COUPON.into()), "bad_signature"),
    (
        "the global secret for a group",
        || group("COUPON", SECRET, r#"{"grpIdx":574}"#),
        "bad_signature",
    ),
    ("the coupon secret for a link", || group("URL", COUPON, r#"{"grpIdx":574}"#), "bad_signature"),
    ("another body", || event(|e| e.tampered = Some(b"{}".to_vec())), "bad_signature"),
    (
        "a bit of the signature",
        || {
            event(|e| {
                let v1 = e.v1();
                let last = if v1.ends_with('0') { "1" } else { "0" };
                e.signature = Some(format!("t={{t}},v1={}{last}", &v1[..63]));
            })
        },
        "bad_signature",
    ),
    (
        "another event id",
        || {
            event(|e| {
                e.signature = Some(format!("t={{t}},v1={}", e.v1()));
                e.id.push('x');
            })
        },
        "bad_signature",
    ),
    (
        "another Timestamp",
        || {
            event(|e| {
                e.without = vec!["X-Vivoldi-Timestamp"];
                e.extra = vec!["X-Vivoldi-Timestamp: 1758184391752".into()];
            })
        },
        "inconsistent",
    ),
    (
        "another Content-SHA256",
        || {
            event(|e| {
                e.without = vec!["X-Content-SHA256"];
                e.extra = vec![format!("X-Content-SHA256: {}", "0".repeat(64))];
            })
        },
        "inconsistent",
    ),
    (
        "six minutes old",
        || event(|e| e.timestamp = (crate::kit::now_ms() - 360_000).to_string()),
        "stale",
    ),
    (
        "six minutes ahead",
        || event(|e| e.timestamp = (crate::kit::now_ms() + 360_000).to_string()),
        "future",
    ),
];

#[tokio::test]
async fn authentic_events_reach_the_upstream_unchanged() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream).await;
    assert!(!ACCEPTED.is_empty());
    for (number, (name, make, key)) in ACCEPTED.iter().enumerate() {
        let event = make();
        let reply = gateway.send(&event).await;
        assert_eq!(reply.status, 200, "{name}: {}", reply.head);
        assert_eq!(reply.body, b"ok", "{name}");
        let requests = upstream.requests();
        assert_eq!(requests.len(), number + 1, "{name}");
        let seen = &requests[number];
        assert_eq!(seen.body, event.body, "{name}");
        assert_eq!(seen.request_line(), "POST /webhooks/vivoldi HTTP/1.1", "{name}");
        for line in event.header_lines() {
            assert!(
                seen.head.contains(&format!("\r\n{line}\r\n")),
                "{name}: {line}\n{}",
                seen.head
            );
        }
        assert_eq!(seen.header("sealgate-verified"), Some("vivoldi"), "{name}");
        assert_eq!(seen.header("sealgate-key"), Some(*key), "{name}");
        assert_eq!(seen.header("sealgate-event-id"), Some(event.id.as_str()), "{name}");
        assert_eq!(
            seen.header("sealgate-request-id"),
            reply.header("sealgate-request-id"),
            "{name}"
        );
    }
}

#[tokio::test]
async fn rejects_every_mutation_with_its_reason_and_the_same_response() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream).await;
    let mut answers = std::collections::BTreeSet::new();
    assert!(!REFUSED.is_empty());
    for (name, make, reason) in REFUSED {
        let before = gateway.rejections(reason).await;
        let reply = gateway.send(&make()).await;
        assert_eq!(reply.status, 401, "{name}: {}", reply.head);
        let after = gateway.rejections(reason).await;
        assert_eq!(after, before + 1.0, "{name} must be {reason}");
        let id = reply.header("sealgate-request-id").expect("an id").to_owned();
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{name}");
        assert_eq!(reply.header("sealgate-answer"), Some("rejected"), "{name}");
        answers.insert(reply.text().replace(&id, "ID"));
    }
    assert_eq!(answers.len(), 1, "one answer for every refusal: {answers:?}");
    assert!(upstream.requests().is_empty(), "nothing was forwarded");
}

#[tokio::test]
async fn a_shop_with_stamps_only_needs_no_global_secret() {
    let upstream = Upstream::start().await;
    let routes = format!(
        "[[route]]\nname = \"vivoldi\"\npath = \"/webhooks/vivoldi\"\nscheme = \"vivoldi\"\n\
         upstream = \"http://{}\"\n[route.secrets.stamp]\n147 = \"{STAMP}\"\n",
        upstream.address()
    );
    let gateway = Setup::new(&upstream).routes(&routes).start();
    let stamp = group("STAMP", STAMP, r#"{"cardIdx":147}"#);
    assert_eq!(gateway.send(&stamp).await.status, 200);
    assert_eq!(gateway.send(&Event::default()).await.status, 401);
    assert_eq!(gateway.rejections("unknown_key").await, 1.0);
}

#[tokio::test]
async fn reports_the_first_reason_in_order() {
    let upstream = Upstream::start().await;
    let gateway = gateway(&upstream).await;
    let mut event = event(|e| {
        e.signature = Some("t=x,v1=zz,alg=none".into());
        e.extra = vec!["X_Vivoldi_Signature: 1".into()];
        e.without = vec!["X-Vivoldi-Event-Id"];
    });
    for reason in [
        "missing_header",
        "duplicate_header",
        "malformed_signature",
        "malformed_timestamp",
        "bad_alg",
    ] {
        assert_eq!(gateway.send(&event).await.status, 401);
        assert_eq!(gateway.rejections(reason).await, 1.0, "{reason}");
        match reason {
            "missing_header" => event.without.clear(),
            "duplicate_header" => event.extra.clear(),
            "malformed_signature" => {
                event.signature = Some(format!("t=x,v1={},alg=none", "0".repeat(64)));
            }
            _ => event.signature = Some(format!("t={{t}},v1={},alg=none", "0".repeat(64))),
        }
    }
}

#[tokio::test]
async fn required_headers_are_required() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream)
        .route("[route.require_headers]\nX-Vivoldi-Comp-Idx = [\"50742\", \"50743\"]")
        .start();
    assert_eq!(gateway.send(&Event::default()).await.status, 200);
    let other = event(|e| {
        e.set("X-Vivoldi-Comp-Idx", "1");
    });
    assert_eq!(gateway.send(&other).await.status, 401);
    let absent = event(|e| e.context.retain(|(name, _)| name != "X-Vivoldi-Comp-Idx"));
    assert_eq!(gateway.send(&absent).await.status, 401);
    assert_eq!(gateway.rejections("required_header").await, 2.0);
}
