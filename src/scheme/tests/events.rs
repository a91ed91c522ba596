//! What identifies an event: no unsigned value does unless its scheme says so.

use super::{
    vectors::{Vector, accepted, request},
    *,
};
use crate::scheme::compiled::{
    event::{IdGrammar, Identification},
    template::ValueSource,
};

fn record(verifier: &Verifier, sent: &Parts, body: &[u8], vector: &Vector) -> Option<EventKey> {
    let now = UnixMillis(vector.now * 1000);
    verifier.verify(sent, &payload(body), now).ok().and_then(|verified| verified.record())
}

#[test]
fn an_unsigned_header_never_identifies_an_event_that_is_signed() {
    let mut labels = std::collections::BTreeSet::new();
    for (vector, verifier) in accepted() {
        let scheme = verifier.scheme();
        let signs = matches!(
            scheme.event.identified_by,
            Identification::SignedId(_) | Identification::SignedParts
        );
        let Some(label) = scheme.event.label.as_ref().filter(|_| signs) else { continue };
        let (sent, body) = request(&vector);
        let first = record(&verifier, &sent, &body, &vector);
        for source in &label.from {
            let ValueSource::Header(slot) = source else { continue };
            if scheme.event.distinguish.iter().any(|(distinguishing, _)| distinguishing == source) {
                continue;
            }
            let mut copy = sent.clone();
            let name = scheme.inputs.headers[*slot].clone();
            copy.headers.insert(name, HeaderValue::from_static("another"));
            assert_eq!(record(&verifier, &copy, &body, &vector), first, "{}", vector.name);
            labels.insert(scheme.id().to_owned());
        }
    }
    for id in ["bitbucket", "gitea", "github", "jira", "linear", "razorpay", "sentry", "shopify"] {
        assert!(labels.contains(id), "{id} is not tested: {labels:?}");
    }
    for id in ["toss-payments", "wise", "woocommerce"] {
        assert!(labels.contains(id), "{id} is not tested: {labels:?}");
    }
}

#[test]
fn an_unsigned_body_is_pinned_and_does_not_identify_an_event() {
    let mut tested = Vec::new();
    for (vector, verifier) in accepted() {
        if !verifier.scheme().pins_body || ["mandrill", "twilio"].contains(&verifier.scheme().id())
        {
            continue;
        }
        let (sent, body) = request(&vector);
        let other = match verifier.scheme().id() {
            // A byte at the end would be part of the last field.
            "mailgun-form" => vector.body.replace("recipient", "Recipient").into_bytes(),
            // The two words have the same CRC-32.
            "paypal" => vector.body.replace("plumless", "buckeroo").into_bytes(),
            _ => [&body[..], b" "].concat(),
        };
        if other == body {
            continue;
        }
        let now = UnixMillis(vector.now * 1000);
        let first = verifier.verify(&sent, &payload(&body), now).expect("authentic");
        let copy = verifier.verify(&sent, &payload(&other), now).expect("authentic");
        assert_eq!(first.record(), copy.record(), "{}", vector.name);
        assert_ne!(first.pin(), copy.pin(), "{}", vector.name);
        tested.push(vector.scheme.clone());
    }
    for id in ["adyen", "mailgun", "mailgun-form", "mercado-pago", "paypal"] {
        assert!(tested.iter().any(|tested| tested == id), "{id}");
    }
}

#[test]
fn a_fresh_timestamp_does_not_make_another_event() {
    let body = payload(b"{\"n\":1}");
    for id in ["buildkite", "calendly", "recurly", "sanity", "zendesk", "zoom"] {
        let verifier = verifier(id, global("a-secret-of-the-tests-0001"));
        let signed = |now: i64| {
            let mut headers = HeaderMap::new();
            for name in ["idempotency-key", "x-zendesk-webhook-invocation-id"] {
                headers.insert(name, HeaderValue::from_static("e1"));
            }
            let draft = Draft { method: Method::POST, path: "/x", headers, body: &body };
            let mut sent = post(&[]);
            sent.headers = verifier.sign(None, draft, UnixMillis(now)).expect("signed");
            verifier.verify(&sent, &body, UnixMillis(now)).expect("authentic").record()
        };
        assert!(signed(NOW).is_some());
        assert_eq!(signed(NOW), signed(NOW + 60_000), "{id}");
    }
}

#[test]
fn events_that_share_an_id_are_different_events() {
    let cases = [
        ("paystack", r#"{"event":"charge.dispute.remind","data":{"id":1,"n":N}}"#),
        ("trello", r#"{"action":{"id":"a"},"model":{"id":"N"}}"#),
    ];
    for (id, body) in cases {
        let public_url = (id == "trello").then(|| "https://hooks.example.com/x".to_owned());
        let secret = global("a-secret-of-the-tests-0001");
        let verifier = verifier(id, Credentials { public_url, ..secret });
        let record = |n: &str| {
            let body = payload(body.replace('N', n).as_bytes());
            let headers = HeaderMap::new();
            let draft = Draft { method: Method::POST, path: "/x", headers, body: &body };
            let mut sent = post(&[]);
            sent.headers = verifier.sign(None, draft, UnixMillis(NOW)).expect("signed");
            verifier.verify(&sent, &body, UnixMillis(NOW)).expect("authentic").record()
        };
        assert_eq!(record("1"), record("1"), "{id}");
        assert_ne!(record("1"), record("2"), "{id}");
    }
}

#[test]
fn values_that_distinguish_events_have_a_grammar() {
    for scheme in Scheme::builtins() {
        for (source, grammar) in &scheme.event.distinguish {
            assert!(matches!(source, ValueSource::Header(_)), "{}", scheme.id());
            assert_ne!(*grammar, IdGrammar::Visible, "{}", scheme.id());
            assert!(scheme.replayable().contains(grammar.describe()), "{}", scheme.id());
        }
    }
    for (grammar, good, bad) in [
        (IdGrammar::Topic, "orders/create", "orders//create"),
        (IdGrammar::Topic, "order.updated", "order updated"),
        (IdGrammar::Host, "a.myshopify.com", "A.myshopify.com"),
        (IdGrammar::Host, "localhost", "a..b"),
        (IdGrammar::Word, "0f1e-2d", "0f1e.2d"),
    ] {
        assert!(grammar.accepts(good.as_bytes()), "{good}");
        assert!(!grammar.accepts(bad.as_bytes()), "{bad}");
    }
}

#[test]
fn a_present_value_that_is_not_a_scalar_is_malformed() {
    let key = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056";
    let adyen = verifier("adyen", global(key));
    let item = |more: &str| {
        format!(
            r#"{{"notificationItems":[{{"NotificationRequestItem":{{"pspReference":"p1",
            "merchantAccountCode":"m","merchantReference":"a:b","amount":{{"value":1,"currency":"EUR"}},
            "eventCode":"AUTHORISATION"{more}}}}}]}}"#
        )
    };
    let signed = adyen.sign_body(None, "/x", item("").as_bytes(), UnixMillis(NOW)).expect("signed");
    let signed = String::from_utf8(signed).expect("JSON");
    let verdict =
        |body: &str| reason(adyen.verify(&post(&[]), &payload(body.as_bytes()), UnixMillis(NOW)));
    assert_eq!(verdict(&signed), None);
    for value in ["true", "[]", "{}", "null", "1.5", "\"a:b\""] {
        let member = format!("\"pspReference\":\"p1\",\"success\":{value}");
        let body = signed.replace("\"pspReference\":\"p1\"", &member);
        assert_eq!(verdict(&body), Some(Reason::MalformedBody), "{value}");
    }
}

/// Returns a body that Adyen's scheme has signed, with these members at the end of its only item.
fn adyen_body(adyen: &Verifier, more: &str) -> String {
    let body = format!(
        r#"{{"notificationItems":[{{"NotificationRequestItem":{{"pspReference":"p1",
        "merchantAccountCode":"m","merchantReference":"a:b","amount":{{"value":1,"currency":"EUR"}},
        "eventCode":"AUTHORISATION"{more}}}}}]}}"#
    );
    let signed = adyen.sign_body(None, "/x", body.as_bytes(), UnixMillis(NOW)).expect("signed");
    String::from_utf8(signed).expect("JSON")
}

#[test]
fn an_empty_value_and_an_absent_one_that_sign_the_same_are_one_event() {
    let key = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056";
    let adyen = verifier("adyen", global(key));
    let verify = |body: &str| adyen.verify(&post(&[]), &payload(body.as_bytes()), UnixMillis(NOW));
    let signed = adyen_body(&adyen, "");
    let first = verify(&signed).expect("authentic");
    for empty in ["\"success\":\"\"", "\"originalReference\":\"\""] {
        let body = signed.replace("\"pspReference\"", &format!("{empty},\"pspReference\""));
        let copy = verify(&body).expect("authentic");
        assert_eq!(copy.record(), first.record(), "{empty}");
        assert_ne!(copy.pin(), first.pin(), "{empty}");
    }
    let other = verify(&adyen_body(&adyen, ",\"success\":\"true\"")).expect("authentic");
    assert_ne!(other.record(), first.record());
}

#[test]
fn captured_items_cannot_be_combined_to_another_event() {
    let key = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056";
    let adyen = verifier("adyen", global(key));
    let signed = adyen_body(&adyen, "");
    let (start, end) = (signed.find('[').expect("items"), signed.rfind(']').expect("items"));
    let item = &signed[start + 1..end];
    let body = format!("{}{item},{item}{}", &signed[..=start], &signed[end..]);
    let verify = |body: &str| {
        adyen.verify(&post(&[]), &payload(body.as_bytes()), UnixMillis(NOW)).expect("authentic")
    };
    assert_eq!(verify(&body).record(), verify(&signed).record());
    assert_ne!(verify(&body).pin(), verify(&signed).pin());
}

#[test]
fn an_event_sent_again_by_get_is_a_copy() {
    let body = payload(br#"{"n":1}"#);
    for id in ["meta", "slack"] {
        let verifier = verifier(id, global("a-secret-of-the-tests-0001"));
        let headers = HeaderMap::new();
        let draft = Draft { method: Method::POST, path: "/x", headers, body: &body };
        let mut sent = post(&[]);
        sent.headers = verifier.sign(None, draft, UnixMillis(NOW)).expect("signed");
        let first = verifier.verify(&sent, &body, UnixMillis(NOW)).expect("authentic");
        sent.method = Method::GET;
        let copy = verifier.verify(&sent, &body, UnixMillis(NOW)).expect("authentic");
        assert!(first.record().is_some(), "{id}");
        assert_eq!(copy.record(), first.record(), "{id}");
        assert_ne!(copy.pin(), first.pin(), "{id}");
    }
}

#[test]
fn a_value_that_reaches_into_the_next_one_is_a_copy() {
    let verifier = verifier("mercado-pago", global("a-secret-of-the-tests-0001"));
    let body = payload(b"{\"id\":1}");
    let mut headers = HeaderMap::new();
    headers.insert("x-request-id", HeaderValue::from_static("r1"));
    let path = "/x?data.id=123";
    let draft = Draft { method: Method::POST, path, headers, body: &body };
    let mut sent = head(Method::POST, path, &[]);
    sent.headers = verifier.sign(None, draft, UnixMillis(NOW)).expect("signed");
    let first = verifier.verify(&sent, &body, UnixMillis(NOW)).expect("authentic");
    sent.uri = "/x?data.id=123;request-id:r1".parse().expect("a target");
    sent.headers.remove("x-request-id");
    let copy = verifier.verify(&sent, &body, UnixMillis(NOW)).expect("the same bytes are signed");
    assert_eq!(copy.record(), first.record());
    assert_ne!(copy.pin(), first.pin());
}

#[test]
fn bytes_that_are_not_utf8_neither_pass_as_json_nor_extend_a_plain_hash() {
    let hygraph = verifier("hygraph", global("a-secret-of-the-tests-0001"));
    let replaced = payload("{\"n\":\"\u{fffd}\"}".as_bytes());
    let mut headers = HeaderMap::new();
    headers.insert("gcms-signature", HeaderValue::from_static("env=master"));
    let draft = Draft { method: Method::POST, path: "/x", headers, body: &replaced };
    let mut sent = post(&[]);
    sent.headers = hygraph.sign(None, draft, UnixMillis(NOW)).expect("signed");
    let verdict = |body: &[u8]| reason(hygraph.verify(&sent, &payload(body), UnixMillis(NOW)));
    assert_eq!(verdict("{\"n\":\"\u{fffd}\"}".as_bytes()), None);
    assert_eq!(verdict(b"{\"n\":\"\xff\"}"), Some(Reason::BadSignature));

    let hubspot = verifier("hubspot-v1", global("secret"));
    let extended = b"{}\x80\0\0\0\0\0\0\x40[]";
    let message = [b"secret".as_slice(), extended].concat();
    let signature = hex(&Sha256::digest(&message));
    let sent = post(&[("X-HubSpot-Signature", &signature)]);
    let verdict = reason(hubspot.verify(&sent, &payload(extended), UnixMillis(NOW)));
    assert_eq!(verdict, Some(Reason::MalformedBody));
}
