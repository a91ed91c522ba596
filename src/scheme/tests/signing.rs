//! `sign` imitates every built-in sender that has a symmetric key, and the verifier accepts it.

use std::sync::Arc;

use super::*;
use crate::scheme::compiled::ProofKind;

/// A secret that is one in every key form: hexadecimal and base64, or user and password.
fn secret_for(scheme: &Scheme) -> Secret {
    match scheme.kind {
        ProofKind::Basic => secret("user:password-of-the-tests"),
        _ => secret("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
    }
}

/// What Adyen signs of an item, member by member.
const ADYEN: &str = r#""notificationItems":[{"NotificationRequestItem":{
    "pspReference":"7914073381342284","originalReference":"","merchantAccountCode":"TestMerchant",
    "merchantReference":"TestPayment-1407325143704","amount":{"value":1130,"currency":"EUR"},
    "eventCode":"AUTHORISATION","success":"true"}}],"#;

/// Headers that the caller of `sign` gives.
const GIVEN: [(&str, &str, &str); 2] = [
    ("hygraph", "gcms-signature", "env=master"),
    ("sinch-conversation", "x-sinch-webhook-signature-nonce", "01FJA8B4A7BM43YGWSG9GBV067"),
];

/// A body as the senders' own would be, as far as their schemes read bodies.
fn body_for(id: &str) -> String {
    if ["mandrill", "twilio"].contains(&id) {
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
        let configured = scheme.token.iter().flat_map(|rules| &rules.configured);
        let issuer = configured.filter(|name| ***name == *"issuer").map(|_| "key-1".to_owned());
        let issuer = issuer.collect();
        let credentials = Credentials {
            global: vec![secret_for(scheme)],
            public_url: scheme.needs_url.then(|| "https://hooks.example.com/x".to_owned()),
            jwt: JwtCredentials { issuer, ..JwtCredentials::default() },
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
            payload(&signed.unwrap_or_else(|problem| panic!("{id}: {problem}")))
        } else {
            let draft = Draft { method: Method::POST, path: "/x", headers, body: &body };
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
