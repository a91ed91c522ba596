//! `sign` imitates every built-in sender that has a symmetric key, and the verifier accepts it.

use super::*;

/// Senders that are not imitated, and what `sign` says of them.
const NOT_IMITATED: &[(&str, &str)] = &[
    ("adyen", "signature in the body"),
    ("hygraph", "lacks something that is signed"),
    ("mailgun", "lacks something that is signed"),
    ("messagebird", "JWT"),
    ("microsoft-graph", "signature in the body"),
    ("netlify", "JWT"),
    ("vonage", "JWT"),
];

/// A secret that is one in every key form: hexadecimal and base64, or user and password.
fn secret_for(scheme: &Scheme) -> Secret {
    match scheme.kind {
        Kind::Basic => secret("user:password-of-the-tests"),
        _ => secret("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
    }
}

/// A body as the senders' own would be, as far as their schemes read bodies.
fn body_for(id: &str) -> String {
    let timestamp = match id {
        "govalid" => r#""timestamp":"2025-09-18T08:33:11.752Z","#.to_owned(),
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
    for scheme in Scheme::builtins().iter().filter(|scheme| !scheme.takes_public_key()) {
        let id = scheme.id();
        let credentials = Credentials {
            global: vec![secret_for(scheme)],
            public_url: scheme.needs_url.then(|| "https://hooks.example.com/x".to_owned()),
            ..Credentials::default()
        };
        let verifier = Verifier::new(Arc::clone(scheme), "r", credentials);
        let verifier = verifier.unwrap_or_else(|problems| panic!("{id}: {problems:?}"));
        let body = payload(body_for(id).as_bytes());
        let (headers, now) = (HeaderMap::new(), UnixMillis(NOW));
        let draft = Draft { method: Method::POST, path: "/x", headers, body: &body };
        let signed = verifier.sign(None, draft, now);
        if let Some((_, said)) = NOT_IMITATED.iter().find(|(known, _)| *known == id) {
            let problem = signed.expect_err(id);
            assert!(problem.contains(said), "{id}: {problem}");
            continue;
        }
        let mut head = post(&[]);
        head.headers = signed.unwrap_or_else(|problem| panic!("{id}: {problem}"));
        let refused = reason(verifier.verify(&head, &body, now));
        assert_eq!(refused, None, "{id}: {:?}", head.headers);
        imitated += 1;
    }
    assert!(imitated > 55, "{imitated}");
}
