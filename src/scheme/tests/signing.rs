//! `sign` imitates every built-in sender that has a symmetric key, and the verifier accepts it.

use std::sync::Arc;

use super::*;
use crate::scheme::compiled::{Agreement, ProofKind, template::ValueSource};

/// A secret that is one in every key form: hexadecimal and base64, or user and password.
fn secret_for(scheme: &Scheme) -> Secret {
    match scheme.kind {
        ProofKind::Basic => secret("user:password-of-the-tests"),
        _ => secret("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
    }
}

/// The issuer, if the scheme requires that one is configured.
fn jwt_for(scheme: &Scheme) -> JwtCredentials {
    let configured = scheme.token.iter().flat_map(|rules| &rules.configured);
    let issuer = configured.filter(|name| ***name == *"issuer").map(|_| "key-1".to_owned());
    JwtCredentials { issuer: issuer.collect(), ..JwtCredentials::default() }
}

/// What Adyen signs of an item, member by member.
const ADYEN: &str = r#""notificationItems":[{"NotificationRequestItem":{
    "pspReference":"7914073381342284","originalReference":"","merchantAccountCode":"TestMerchant",
    "merchantReference":"TestPayment-1407325143704","amount":{"value":1130,"currency":"EUR"},
    "eventCode":"AUTHORISATION","success":"true"}}],"#;

/// Headers that the caller of `sign` gives.
const GIVEN: [(&str, &str, &str); 3] = [
    ("http-message-signatures-hmac", "host", "hooks.example.com"),
    ("hygraph", "gcms-signature", "env=master"),
    ("sinch-conversation", "x-sinch-webhook-signature-nonce", "01FJA8B4A7BM43YGWSG9GBV067"),
];

/// A body as the senders' own would be, as far as their schemes read bodies.
fn body_for(id: &str) -> String {
    if ["mailgun-form", "mandrill", "twilio"].contains(&id) {
        return "From=%2B15005550006&Body=hello".to_owned();
    }
    let timestamp = match id {
        "govalid" => r#""timestamp":"2025-09-18T08:33:11.752Z","#.to_owned(),
        "adyen" => ADYEN.to_owned(),
        "microsoft-graph" => r#""value":[{"id":"1"},{"id":"2"}],"#.to_owned(),
        "pusher" => format!(r#""time_ms":{NOW},"#),
        "linear" => format!(r#""webhookTimestamp":{NOW},"#),
        _ => String::new(),
    };
    format!(
        r#"{{{timestamp}"id":"evt_1","event_id":"evt_1","eventId":"evt_1","notificationId":"evt_1",
           "event":{{"id":"evt_1"}},"action":{{"id":"evt_1"}},"RecordType":"Bounce","MessageID":"m1"}}"#
    )
}

#[test]
fn every_sender_with_a_symmetric_key_is_imitated() {
    let mut imitated = 0;
    for scheme in Scheme::builtins().filter(|scheme| !scheme.takes_public_key()) {
        let id = scheme.id();
        let credentials = Credentials {
            global: vec![secret_for(scheme)],
            public_url: scheme.needs_url.then(|| "https://hooks.example.com/x".to_owned()),
            jwt: jwt_for(scheme),
            ..Credentials::default()
        };
        let verifier = Verifier::new(Arc::clone(scheme), "r", credentials);
        let verifier = verifier.unwrap_or_else(|problems| panic!("{id}: {problems:?}"));
        let body = payload(body_for(id).as_bytes());
        let (mut headers, now) = (HeaderMap::new(), UnixMillis(NOW));
        for (sender, name, value) in GIVEN {
            if id == sender {
                headers.insert(name, value.parse().expect("a header value"));
            }
        }
        let mut head = post(&[]);
        let body = if verifier.signs_in_body() {
            let signed = verifier.sign_body(None, "/x", body.whole(), now);
            let signed = signed.unwrap_or_else(|problem| panic!("{id}: {problem}"));
            verifier.add_sender_headers(&mut head.headers, &signed);
            payload(&signed)
        } else {
            let draft = Draft { method: Method::POST, path: "/webhooks/x", headers, body: &body };
            let signed = verifier.sign(None, draft, now);
            head.headers = signed.unwrap_or_else(|problem| panic!("{id}: {problem}"));
            body
        };
        let refused = reason(verifier.verify(&head, &body, now));
        assert_eq!(refused, None, "{id}: {:?}", head.headers);
        imitated += 1;
    }
    assert!(imitated > 62, "{imitated}");
}

#[test]
fn what_is_signed_again_verifies_and_differs_only_in_time_and_signature() {
    let mut resigned = 0;
    for scheme in Scheme::builtins() {
        let id = scheme.id();
        let credentials = |secrets: &[Secret]| Credentials {
            global: secrets.to_vec(),
            public_url: scheme.needs_url.then(|| "https://hooks.example.com/x".to_owned()),
            jwt: jwt_for(scheme),
            ..Credentials::default()
        };
        if scheme.takes_public_key() || scheme.takes_tokens() {
            continue;
        }
        let other = match scheme.kind {
            ProofKind::Basic => secret("user:another-password"),
            _ => secret("ff23456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
        };
        let new = |secrets: &[Secret]| {
            let verifier = Verifier::new(Arc::clone(scheme), "r", credentials(secrets));
            verifier.unwrap_or_else(|problems| panic!("{id}: {problems:?}"))
        };
        let (signer, verifier) =
            (new(&[secret_for(scheme)]), new(&[other.clone(), secret_for(scheme)]));
        let is_mac = matches!(scheme.kind, ProofKind::Hmac(_) | ProofKind::Digest(_));
        if !verifier.can_resign() {
            let of_time = scheme.timestamp.as_ref().map(|timestamp| &timestamp.from);
            let in_head =
                |source| matches!(source, &ValueSource::Header(_) | &ValueSource::Item(_));
            assert!(!is_mac || verifier.signs_in_body() || !of_time.is_some_and(in_head), "{id}");
            continue;
        }
        let (body, now) = (payload(body_for(id).as_bytes()), UnixMillis(NOW));
        let mut headers = HeaderMap::new();
        for (_, name, value) in GIVEN.into_iter().filter(|(sender, ..)| *sender == id) {
            headers.insert(name, value.parse().expect("a header value"));
        }
        let mut head = post(&[]);
        let draft = Draft { method: Method::POST, path: "/webhooks/x", headers, body: &body };
        head.headers = signer.sign(None, draft, now).expect("a signature");
        let verified = verifier.verify(&head, &body, now).expect("authentic");
        assert_eq!(verified.secret(), 2, "{id}");

        let window = i64::try_from(scheme.window().expect("a window").as_millis()).expect("short");
        let later = UnixMillis(NOW + 10 * window + 5000);
        let stale = verifier.verify(&head, &body, later).map(|verified| verified.is_stale());
        assert_eq!(stale, Ok(true), "{id}");
        let (key, position) = (verified.key(), verified.secret());
        let changed = verifier.resign(key, position, &head, &body, later);
        let changed = changed.unwrap_or_else(|problem| panic!("{id}: {problem}"));
        assert!(!changed.is_empty(), "{id}");
        let time = scheme.timestamp.as_ref().map(|timestamp| timestamp.from.clone());
        for (name, value) in changed {
            let is_signature = scheme.signature_headers().any(|known| *known == name);
            let slot = scheme.headers().iter().position(|known| *known == name);
            let is_time = time == slot.map(ValueSource::Header);
            let agrees = |agreement: &Agreement| {
                Some(agreement.value.clone()) == slot.map(ValueSource::Header)
            };
            let is_derived = scheme.agree.iter().any(agrees) || name == "signature-input";
            assert!(is_signature || is_time || is_derived, "{id}: {name}");
            let replaced = head.headers.insert(name.clone(), value);
            assert!(replaced.is_some(), "{id}: {name} is new");
        }
        let again = verifier
            .verify(&head, &body, later)
            .unwrap_or_else(|reject| panic!("{id}: {reject:?} {:?}", head.headers));
        assert_eq!((again.is_stale(), again.secret()), (false, 2), "{id}");
        assert_eq!(again.record(), verified.record(), "{id}");
        assert_eq!(again.pin(), verified.pin(), "{id}");
        // With a key that is no longer configured, nothing is signed.
        assert!(verifier.resign("coupon/1", 1, &head, &body, later).is_err(), "{id}");
        assert!(signer.resign(key, 2, &head, &body, later).is_err(), "{id}");
        resigned += 1;
    }
    assert!(resigned > 15, "{resigned}");
}

#[test]
fn the_parts_of_a_signed_message_are_shown_without_the_body() {
    let headers = [
        ("x-vivoldi-event-id", "evt_1"),
        ("x-vivoldi-signature", "t=1758184391752,v1=00,alg=hmac-sha256"),
        ("stripe-signature", "t=1758184391,v1=00"),
    ];
    let shown = |id: &str| {
        let verifier = verifier(id, global("a-secret-of-the-tests-01"));
        verifier.signed_parts(&post(&headers), &payload(b"{\"id\":\"evt_2\"}"))
    };
    let part = |source: &str, value: Option<&str>| SignedPart {
        source: source.to_owned(),
        value: value.map(str::to_owned),
    };
    let digest = hex(&Sha256::digest(b"{\"id\":\"evt_2\"}"));
    let expected = [
        part("timestamp", Some("1758184391752")),
        part("", Some(".")),
        part("header:x-vivoldi-event-id", Some("evt_1")),
        part("", Some(".")),
        part("body|sha256", Some(&digest)),
    ];
    assert_eq!(shown("vivoldi"), expected);
    let expected = [part("timestamp", Some("1758184391")), part("", Some(".")), part("body", None)];
    assert_eq!(shown("stripe"), expected);
    assert_eq!(shown("gitlab"), [], "nothing is signed");
}
