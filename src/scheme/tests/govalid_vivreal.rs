use super::*;

fn govalid(body: &str, signature: Option<&str>) -> Option<Reason> {
    let verifier = verifier("govalid", global("whsec-govalid-1234"));
    let own = format!("sha256={}", hmac_sha256("whsec-govalid-1234", body.as_bytes()));
    let signature = signature.unwrap_or(&own);
    let head = post(&[("X-GoValid-Signature", signature)]);
    reason(verifier.verify(&head, &payload(body.as_bytes()), UnixMillis(1_738_152_000_000)))
}

#[test]
fn govalid_has_a_window_of_two_hours_and_no_event_id() {
    let at = |time: &str| {
        format!("{{\"event\":\"qr.scanned\",\"timestamp\":\"{time}\",\"webhook_id\":\"wh-001\"}}")
    };
    assert_eq!(govalid(&at("2025-01-29T12:00:00Z"), None), None);
    assert_eq!(govalid(&at("2025-01-29T10:00:00Z"), None), None);
    assert_eq!(govalid(&at("2025-01-29T09:59:59Z"), None), Some(Reason::Stale));
    assert_eq!(govalid(&at("2025-01-29T12:05:00Z"), None), None);
    assert_eq!(govalid(&at("2025-01-29T12:05:01Z"), None), Some(Reason::Future));
    assert_eq!(govalid(&at("yesterday"), None), Some(Reason::MalformedTimestamp));
    assert_eq!(govalid("{\"webhook_id\":\"wh-001\"}", None), Some(Reason::MalformedTimestamp));
    assert_eq!(govalid("not json", None), Some(Reason::MalformedBody));
    let other = format!("sha256={}", "0".repeat(64));
    assert_eq!(govalid(&at("2025-01-29T12:00:00Z"), Some(&other)), Some(Reason::BadSignature));
    let bare = "0".repeat(64);
    assert_eq!(govalid(&at("2025-01-29T12:00:00Z"), Some(&bare)), Some(Reason::MalformedSignature));

    let body = at("2025-01-29T12:00:00Z");
    let verifier = verifier("govalid", global("whsec-govalid-1234"));
    let signature = format!("sha256={}", hmac_sha256("whsec-govalid-1234", body.as_bytes()));
    let head = post(&[("X-GoValid-Signature", &signature)]);
    let now = UnixMillis(1_738_152_000_000);
    let verified = verifier.verify(&head, &payload(body.as_bytes()), now).expect("authentic");
    let id = format!("sha256-{}", hex(&Sha256::digest(&body)));
    assert_eq!(verified.event_id().map(HeaderValue::as_bytes), Some(id.as_bytes()));
    assert_eq!(verified.identity(), None);
    assert!(verified.record().is_some());
}

#[test]
fn vivreal_takes_both_forms_of_the_signature_and_names_events_by_the_signed_id() {
    let verifier = verifier("vivreal", global("vivreal-secret-1234"));
    let judge = |body: &str, signature: &str| {
        let head = post(&[("x-vivreal-signature", signature), ("X-Vivreal-Delivery", "d")]);
        verifier.verify(&head, &payload(body.as_bytes()), UnixMillis(NOW))
    };
    let body = "{\"id\":\"evt_1\",\"event\":\"site.deployed\"}";
    let hex = hmac_sha256("vivreal-secret-1234", body.as_bytes());
    let bare = judge(body, &hex).expect("authentic");
    let prefixed = judge(body, &format!("sha256={}", hex.to_uppercase())).expect("authentic");
    assert_eq!(bare.event_id().map(HeaderValue::as_bytes), Some(&b"evt_1"[..]));
    assert_eq!(bare.record(), prefixed.record());
    assert_eq!(bare.age(), None);
    let sign = |body: &str| hmac_sha256("vivreal-secret-1234", body.as_bytes());
    let other = "{\"id\":\"evt_1\",\"event\":\"other\"}";
    assert_eq!(judge(other, &sign(other)).expect("authentic").record(), bare.record());
    let cases = [
        ("{\"event\":\"x\"}", Reason::MissingHeader),
        ("{\"id\":null}", Reason::MissingHeader),
        ("{\"id\":\"a b\"}", Reason::MalformedSignature),
        ("{\"id\":\"a\",\"\\u0069d\":\"b\"}", Reason::MalformedBody),
        ("", Reason::MalformedBody),
    ];
    for (body, expected) in cases {
        assert_eq!(reason(judge(body, &sign(body))), Some(expected), "{body}");
    }
    assert_eq!(reason(judge(body, "sha1=00")), Some(Reason::MalformedSignature));
    assert_eq!(reason(judge(body, &"0".repeat(64))), Some(Reason::BadSignature));
}
