//! Vivoldi against a second implementation in this test.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const SECRET: &str = "global-secret-0001";
const BODY: &str = "{\"grpIdx\":3570,\"cardIdx\":147,\"name\":\"x\"}";
const ID: &str = "89365c75dae740ac8500dfc48c5014b5";

fn credentials() -> Credentials {
    Credentials {
        global: vec![secret("older-global-secret"), secret(SECRET)],
        groups: vec![
            ("coupon".into(), 3570, vec![secret("coupon-3570")]),
            ("coupon".into(), 0, vec![secret("coupon-0")]),
            ("link".into(), 3570, vec![secret("link-3570")]),
            ("stamp".into(), 147, vec![secret("stamp-147"), secret("stamp-147-old")]),
        ],
        ..Credentials::default()
    }
}

fn sign(key: &str, t: &str, id: &str, body: &[u8]) -> String {
    hmac_sha256(key, format!("{t}.{id}.{}", hex(&Sha256::digest(body))).as_bytes())
}

fn header(key: &str, t: &str, body: &str) -> String {
    format!("t={t},v1={},alg=hmac-sha256", sign(key, t, ID, body.as_bytes()))
}

fn judge_with(
    verifier: &Verifier,
    signature: &str,
    more: &[(&str, &str)],
    body: &[u8],
) -> Result<Verified, Reject> {
    let mut headers = vec![("X-Vivoldi-Event-Id", ID), ("X-Vivoldi-Signature", signature)];
    headers.extend_from_slice(more);
    verifier.verify(&post(&headers), &payload(body), UnixMillis(NOW))
}

fn judge(signature: &str, more: &[(&str, &str)], body: &str) -> Option<Reason> {
    reason(judge_with(&verifier("vivoldi", credentials()), signature, more, body.as_bytes()))
}

fn now() -> String {
    NOW.to_string()
}

#[test]
fn seconds_and_milliseconds_are_taken_and_the_window_is_five_minutes() {
    let cases = [
        (NOW, None),
        (NOW - 300_000, None),
        (NOW - 300_001, Some(Reason::Stale)),
        (NOW + 300_000, None),
        (NOW + 300_001, Some(Reason::Future)),
    ];
    for (t, expected) in cases {
        assert_eq!(judge(&header(SECRET, &t.to_string(), BODY), &[], BODY), expected, "{t}");
    }
    let seconds = (NOW / 1000).to_string();
    assert_eq!(judge(&header(SECRET, &seconds, BODY), &[], BODY), None);
    let old = (NOW / 1000 - 300).to_string();
    assert_eq!(judge(&header(SECRET, &old, BODY), &[], BODY), Some(Reason::Stale));
    for t in [
        "",
        "abc",
        "NaN",
        "-175818439",
        "+175818439",
        "17581843910",
        "1758184391.7",
        "0x17581843",
        "99999999999999999999",
        "1758184391e0",
        "017581843917520",
    ] {
        let expected = Some(Reason::MalformedTimestamp);
        assert_eq!(judge(&header(SECRET, t, BODY), &[], BODY), expected, "{t}");
    }
    // The clock of the sender counts as it is written: thirteen digits are milliseconds.
    assert_eq!(judge(&header(SECRET, "0000000000001", BODY), &[], BODY), Some(Reason::Stale));
}

#[test]
fn the_signature_header() {
    let t = now();
    let v1 = sign(SECRET, &t, ID, BODY.as_bytes());
    let zeros = "0".repeat(64);
    let many = |n: usize| format!("t={t},{}v1={v1}", format!("v1={zeros},").repeat(n));
    let cases: Vec<(String, Option<Reason>)> = vec![
        (format!("t={t},v1={v1}"), None),
        (format!("v1={v1},t={t}"), None),
        (format!("alg=hmac-sha256 , v1={v1} , t={t}"), None),
        (format!("t={t},v1={}", v1.to_uppercase()), None),
        (format!("t={t},v1={v1},v2=future"), None),
        (format!("t={t},v1={zeros},v1={v1}"), None),
        (many(9), None),
        (many(10), Some(Reason::MalformedSignature)),
        (format!("t={t},v1={zeros}"), Some(Reason::BadSignature)),
        (format!("t={t}"), Some(Reason::MalformedSignature)),
        (format!("v1={v1}"), Some(Reason::MalformedSignature)),
        (String::new(), Some(Reason::MalformedSignature)),
        (format!("t={t},t={t},v1={v1}"), Some(Reason::MalformedSignature)),
        (format!("t={t},v1={v1}zz"), Some(Reason::MalformedSignature)),
        (format!("t={t},v1={}", &v1[..63]), Some(Reason::MalformedSignature)),
        (format!("t={t},v1={v1},alg=none"), Some(Reason::BadAlg)),
        (format!("t={t},v1={v1},alg=hmac-sha1"), Some(Reason::BadAlg)),
        (format!("t={t},v1={v1},alg="), Some(Reason::BadAlg)),
        (format!("t=x,v1={v1},alg=none"), Some(Reason::MalformedTimestamp)),
        ("t=x,v1=zz,alg=none".to_owned(), Some(Reason::MalformedSignature)),
    ];
    for (signature, expected) in cases {
        assert_eq!(judge(&signature, &[], BODY), expected, "{signature}");
    }
}

#[test]
fn headers_missing_twice_and_as_twins() {
    let signature = header(SECRET, &now(), BODY);
    let verifier = verifier("vivoldi", credentials());
    let judge = |headers: &[(&str, &str)]| {
        reason(verifier.verify(&post(headers), &payload(BODY.as_bytes()), UnixMillis(NOW)))
    };
    let id = ("X-Vivoldi-Event-Id", ID);
    let sig = ("X-Vivoldi-Signature", signature.as_str());
    assert_eq!(judge(&[id, sig]), None);
    assert_eq!(judge(&[id]), Some(Reason::MissingHeader));
    assert_eq!(judge(&[sig]), Some(Reason::MissingHeader));
    assert_eq!(judge(&[sig, sig]), Some(Reason::MissingHeader));
    assert_eq!(judge(&[id, sig, sig]), Some(Reason::DuplicateHeader));
    assert_eq!(judge(&[id, id, sig]), Some(Reason::DuplicateHeader));
    assert_eq!(judge(&[id, sig, ("X_Vivoldi_Signature", "x")]), Some(Reason::DuplicateHeader));
    assert_eq!(judge(&[id, sig, ("X-Vivoldi_Comp-Idx", "1")]), Some(Reason::DuplicateHeader));
    assert_eq!(judge(&[id, sig, ("X_Other", "1"), ("X_Other", "1")]), None);
    let pinned = ("X-Vivoldi-Action-Type", "ADD");
    assert_eq!(judge(&[id, sig, pinned, pinned]), Some(Reason::DuplicateHeader));
    let group = ("X-Vivoldi-Webhook-Type", "GROUP");
    assert_eq!(judge(&[id, sig, group]), Some(Reason::MissingHeader));
}

#[test]
fn the_event_id_has_a_grammar() {
    let verifier = verifier("vivoldi", credentials());
    let judge = |id: &str| {
        let t = now();
        let signature = format!("t={t},v1={}", sign(SECRET, &t, id, BODY.as_bytes()));
        let head = post(&[("X-Vivoldi-Event-Id", id), ("X-Vivoldi-Signature", &signature)]);
        reason(verifier.verify(&head, &payload(BODY.as_bytes()), UnixMillis(NOW)))
    };
    for id in ["a", "A-z_9", &"x".repeat(128)] {
        assert_eq!(judge(id), None, "{id}");
    }
    for id in ["", "a.b", "a b", "a/b", "ä", &"x".repeat(129), &"x".repeat(10_000)] {
        assert_eq!(judge(id), Some(Reason::MalformedSignature), "{id}");
    }
}

#[test]
fn what_is_signed_twice_must_agree() {
    let signature = header(SECRET, &now(), BODY);
    let digest = hex(&Sha256::digest(BODY));
    let t = now();
    assert_eq!(judge(&signature, &[("X-Vivoldi-Timestamp", &t)], BODY), None);
    assert_eq!(judge(&signature, &[("X-Content-SHA256", &digest)], BODY), None);
    assert_eq!(judge(&signature, &[("X-Content-SHA256", &digest.to_uppercase())], BODY), None);
    let wrong = [
        ("X-Vivoldi-Timestamp", "1758184391753"),
        ("X-Vivoldi-Timestamp", "1758184391"),
        ("X-Vivoldi-Timestamp", ""),
        ("X-Vivoldi-Timestamp", "17581843917520"),
        ("X-Content-SHA256", ""),
        ("X-Content-SHA256", "zz"),
        ("X-Content-SHA256", &digest[..63]),
    ];
    for (name, value) in wrong {
        let reason = judge(&signature, &[(name, value)], BODY);
        assert_eq!(reason, Some(Reason::Inconsistent), "{name}: {value}");
    }
    let stale = header(SECRET, "1700000000", BODY);
    let both = judge(&stale, &[("X-Content-SHA256", "zz")], BODY);
    assert_eq!(both, Some(Reason::Inconsistent));
}

#[test]
fn keys_are_chosen_by_the_headers_and_never_fall_back() {
    let kind = |kind: &'static str, of: &'static str| {
        [("X-Vivoldi-Webhook-Type", kind), ("X-Vivoldi-Resource-Type", of)]
    };
    let t = now();
    let cases = [
        ("GROUP", "COUPON", "coupon-3570", None),
        ("GROUP", "URL", "link-3570", None),
        ("GROUP", "LINK", "link-3570", None),
        ("GROUP", "STAMP", "stamp-147", None),
        ("GROUP", "STAMP", "stamp-147-old", None),
        ("GLOBAL", "COUPON", SECRET, None),
        ("GLOBAL", "COUPON", "older-global-secret", None),
        ("GROUP", "COUPON", SECRET, Some(Reason::BadSignature)),
        ("GROUP", "COUPON", "link-3570", Some(Reason::BadSignature)),
        ("GROUP", "URL", "coupon-3570", Some(Reason::BadSignature)),
        ("GLOBAL", "COUPON", "coupon-3570", Some(Reason::BadSignature)),
        ("GROUP", "OTHER", SECRET, Some(Reason::UnknownKey)),
        ("GROUP", "coupon", "coupon-3570", Some(Reason::UnknownKey)),
        ("global", "COUPON", SECRET, Some(Reason::UnknownKey)),
        ("", "COUPON", SECRET, Some(Reason::UnknownKey)),
    ];
    for (webhook, resource, key, expected) in cases {
        let found = judge(&header(key, &t, BODY), &kind(webhook, resource), BODY);
        assert_eq!(found, expected, "{webhook} {resource} {key}");
    }
    let bodies = [
        ("{\"grpIdx\":0}", "coupon-0", None),
        ("{\"grpIdx\":1}", "coupon-0", Some(Reason::UnknownKey)),
        ("{\"grpIdx\":4294967296}", "coupon-0", Some(Reason::UnknownKey)),
        ("{\"grpIdx\":-3570}", "coupon-0", Some(Reason::UnknownKey)),
        ("{\"grpIdx\":-0}", "coupon-0", Some(Reason::MalformedBody)),
        ("{\"grpIdx\":\"0\"}", "coupon-0", Some(Reason::MalformedBody)),
        ("{\"grpIdx\":null}", "coupon-0", Some(Reason::MalformedBody)),
        ("{\"cardIdx\":0}", "coupon-0", Some(Reason::MalformedBody)),
        ("{\"grpIdx\":0,\"grpIdx\":0}", "coupon-0", Some(Reason::MalformedBody)),
        ("x=1", "coupon-0", Some(Reason::MalformedBody)),
        ("", "coupon-0", Some(Reason::MalformedBody)),
    ];
    for (body, key, expected) in bodies {
        let found = judge(&header(key, &t, body), &kind("GROUP", "COUPON"), body);
        assert_eq!(found, expected, "{body}");
    }
    // A global body is not read at all.
    for body in ["x=1", "", "{\"grpIdx\":1,\"grpIdx\":2}"] {
        assert_eq!(judge(&header(SECRET, &t, body), &[], body), None, "{body}");
    }
}

#[test]
fn keys_that_are_not_configured_are_unknown() {
    let t = now();
    let groups = |groups| Credentials { groups, ..Credentials::default() };
    let stamps = groups(vec![("stamp".into(), 147, vec![secret("stamp-147")])]);
    let verifier = verifier("vivoldi", stamps);
    let judge = |key: &str, kind: &str, resource: &str| {
        let more = [("X-Vivoldi-Webhook-Type", kind), ("X-Vivoldi-Resource-Type", resource)];
        reason(judge_with(&verifier, &header(key, &t, BODY), &more, BODY.as_bytes()))
    };
    assert_eq!(judge("stamp-147", "GROUP", "STAMP"), None);
    assert_eq!(judge("stamp-147", "GLOBAL", "STAMP"), Some(Reason::UnknownKey));
    assert_eq!(judge("stamp-147", "GROUP", "COUPON"), Some(Reason::UnknownKey));
}

#[test]
fn credentials_that_do_not_fit_are_named() {
    let scheme = Scheme::builtin("vivoldi").expect("built in");
    let problems = |credentials| {
        Verifier::new(scheme.clone(), "r", credentials).err().unwrap_or_default().join("\n")
    };
    assert!(problems(Credentials::default()).contains("needs a secret"));
    let groups = vec![("cupon".to_owned(), 1, vec![secret("x")])];
    let message = problems(Credentials { groups, ..global("x") });
    assert!(message.contains("no group `cupon`; it has coupon, link, stamp"), "{message}");
    let public_keys = vec![secret("x")];
    assert!(problems(Credentials { public_keys, ..global("x") }).contains("no public key"));
    let spaces = [("coupon", "/grpIdx"), ("link", "/grpIdx"), ("stamp", "/cardIdx")];
    let spaces = spaces.map(|(name, index)| (name.to_owned(), index.to_owned()));
    assert_eq!(scheme.spaces(), spaces);
}

#[test]
fn required_headers_and_staleness() {
    let name = HeaderName::from_static("x-vivoldi-comp-idx");
    let other = HeaderName::from_static("x-mine");
    let require_headers =
        vec![(name, vec!["50742".to_owned()]), (other, vec!["1".into(), "2".into()])];
    let verifier = verifier("vivoldi", Credentials { require_headers, ..credentials() });
    let judge = |t: &str, more: &[(&str, &str)]| {
        judge_with(&verifier, &header(SECRET, t, BODY), more, BODY.as_bytes())
    };
    let good = [("X-Vivoldi-Comp-Idx", "50742"), ("X-Mine", "2")];
    assert_eq!(reason(judge(&now(), &good)), None);
    assert_eq!(reason(judge(&now(), &good[..1])), Some(Reason::RequiredHeader));
    let bad = [("X-Vivoldi-Comp-Idx", "1"), ("X-Mine", "2")];
    assert_eq!(reason(judge(&now(), &bad)), Some(Reason::RequiredHeader));
    assert!(judge("1700000000", &good).expect("authentic").is_stale());
    assert_eq!(judge("1700000000", &bad).err(), Some(Reason::Stale.into()));
    let twice = [good[0], good[1], good[1]];
    assert_eq!(reason(judge(&now(), &twice)), Some(Reason::DuplicateHeader));
    assert!(verifier.headers().iter().any(|name| name == "x-mine"));
}

#[test]
fn tolerance_replaces_the_window_to_both_sides() {
    let tolerance = Some(Duration::from_secs(60));
    let verifier = verifier("vivoldi", Credentials { tolerance, ..credentials() });
    let judge = |t: i64| {
        let signature = header(SECRET, &t.to_string(), BODY);
        reason(judge_with(&verifier, &signature, &[], BODY.as_bytes()))
    };
    assert_eq!(judge(NOW - 60_000), None);
    assert_eq!(judge(NOW - 60_001), Some(Reason::Stale));
    assert_eq!(judge(NOW + 60_001), Some(Reason::Future));
    for (t, left) in [(NOW, 60_000), (NOW + 60_000, 120_000), (NOW - 60_000, 0), (NOW - 90_000, 0)]
    {
        let signature = header(SECRET, &t.to_string(), BODY);
        let verified = judge_with(&verifier, &signature, &[], BODY.as_bytes()).unwrap();
        assert_eq!(verified.fresh_for(), Some(Duration::from_millis(left)), "{t}");
    }
}

#[test]
fn records_identities_and_pins() {
    let mine = verifier("vivoldi", credentials());
    let t = now();
    let signature = header(SECRET, &t, BODY);
    let judge = |verifier: &Verifier, signature: &str, more: &[(&str, &str)]| {
        judge_with(verifier, signature, more, BODY.as_bytes()).expect("authentic")
    };
    let first = judge(&mine, &signature, &[("X-Vivoldi-Request-Id", "1")]);
    assert_eq!(first.event_id().map(HeaderValue::as_bytes), Some(ID.as_bytes()));
    assert_eq!((&**first.key(), &**first.scheme()), ("global", "vivoldi"));
    assert_eq!(first.age(), Some(0));
    let same = judge(&mine, &signature, &[("X-Vivoldi-Request-Id", "1")]);
    assert_eq!(
        (first.record(), first.identity(), first.pin()),
        (same.record(), same.identity(), same.pin())
    );
    let retry = judge(&mine, &signature, &[("X-Vivoldi-Request-Id", "2")]);
    assert_eq!((first.record(), first.pin()), (retry.record(), retry.pin()));
    assert_ne!(first.identity(), retry.identity());
    let later = header(SECRET, &(NOW - 5).to_string(), BODY);
    let anew = judge(&mine, &later, &[("X-Vivoldi-Request-Id", "1")]);
    assert_eq!(first.record(), anew.record());
    assert_ne!(first.identity(), anew.identity());
    for name in ["X-Vivoldi-Webhook-Type", "X-Vivoldi-Action-Type", "X-Vivoldi-Comp-Idx"] {
        let value = if name.ends_with("Webhook-Type") { "GLOBAL" } else { "" };
        let changed = judge(&mine, &signature, &[(name, value)]);
        assert_eq!(first.record(), changed.record());
        assert_ne!(first.pin(), changed.pin(), "{name}");
    }
    let scheme = Scheme::builtin("vivoldi").expect("built in");
    let other = Verifier::new(scheme, "other", credentials()).expect("credentials");
    assert_ne!(first.record(), judge(&other, &signature, &[]).record());
    let coupon = [("X-Vivoldi-Webhook-Type", "GROUP"), ("X-Vivoldi-Resource-Type", "COUPON")];
    let group = judge(&mine, &header("coupon-3570", &t, BODY), &coupon);
    assert_eq!(&**group.key(), "coupon/3570");
    assert_ne!(first.record(), group.record());
}

#[test]
fn what_is_signed_here_verifies_here() {
    let verifier = verifier("vivoldi", credentials());
    let body = payload(BODY.as_bytes());
    let draft = |headers: HeaderMap| Draft {
        method: Method::POST,
        path: "/webhooks/x",
        headers,
        body: &body,
    };
    for key in ["global", "coupon/3570", "link/3570", "stamp/147"] {
        let headers =
            verifier.sign(Some(key), draft(HeaderMap::new()), UnixMillis(NOW)).expect("signed");
        for name in [
            "x-vivoldi-request-id",
            "x-vivoldi-event-id",
            "x-vivoldi-timestamp",
            "x-content-sha256",
        ] {
            assert!(headers.contains_key(name), "{name}");
        }
        let mut head = post(&[]);
        head.headers = headers;
        let verified = verifier.verify(&head, &body, UnixMillis(NOW)).expect("authentic");
        assert_eq!(&**verified.key(), key);
        assert!(!verified.is_stale());
    }
    let mut given = HeaderMap::new();
    given.insert("x-vivoldi-event-id", HeaderValue::from_static("mine"));
    given.insert("x-vivoldi-webhook-type", HeaderValue::from_static("GROUP"));
    given.insert("x-vivoldi-resource-type", HeaderValue::from_static("STAMP"));
    let headers = verifier.sign(None, draft(given), UnixMillis(NOW)).expect("signed");
    assert_eq!(headers["x-vivoldi-event-id"], "mine");
    let mut head = post(&[]);
    head.headers = headers;
    let verified = verifier.verify(&head, &body, UnixMillis(NOW)).expect("authentic");
    assert_eq!(&**verified.key(), "stamp/147");
    let none = verifier.sign(Some("coupon/9"), draft(HeaderMap::new()), UnixMillis(NOW));
    assert!(none.is_err_and(|message| message.contains("the route has global, coupon/0")));
}

proptest! {
    #[test]
    fn a_changed_request_is_not_authentic(
        body in prop::collection::vec(any::<u8>(), 1..200),
        at in any::<prop::sample::Index>(),
        bit in 0..8u32,
    ) {
        let verifier = verifier("vivoldi", credentials());
        let t = now();
        let signature = format!("t={t},v1={}", sign(SECRET, &t, ID, &body));
        prop_assert_eq!(reason(judge_with(&verifier, &signature, &[], &body)), None);
        let mut changed = body.clone();
        changed[at.index(body.len())] ^= 1 << bit;
        let found = reason(judge_with(&verifier, &signature, &[], &changed));
        prop_assert_eq!(found, Some(Reason::BadSignature));
    }

    #[test]
    fn no_request_makes_it_panic(
        signature in prop::collection::vec(any::<u8>(), 0..120),
        id in "[ -~]{0,140}",
        kind in prop::option::of(prop::sample::select(vec!["GLOBAL", "GROUP", "x"])),
        body in prop::collection::vec(any::<u8>(), 0..80),
        now in any::<i64>(),
    ) {
        let verifier = verifier("vivoldi", credentials());
        let mut head = post(&[]);
        if let Ok(value) = HeaderValue::from_bytes(&signature) {
            head.headers.insert("x-vivoldi-signature", value);
        }
        head.headers.insert("x-vivoldi-event-id", HeaderValue::from_str(&id).expect("visible"));
        if let Some(kind) = kind {
            head.headers.insert("x-vivoldi-webhook-type", HeaderValue::from_static(kind));
            head.headers.insert("x-vivoldi-resource-type", HeaderValue::from_static("COUPON"));
        }
        prop_assert!(verifier.verify(&head, &payload(&body), UnixMillis(now)).is_err());
    }
}
