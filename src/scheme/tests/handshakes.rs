//! Handshakes, and that none of them is an oracle for the key of events.

use super::*;
use crate::answer::Answer;

fn shake(verifier: &Verifier, head: &Parts, body: &str) -> Option<Result<Answer, Reject>> {
    verifier.handshake(head, &payload(body.as_bytes()), UnixMillis(NOW))
}

fn body(answer: Option<Result<Answer, Reject>>) -> String {
    let answer = answer.expect("a handshake").expect("answered");
    assert_eq!(answer.status, StatusCode::OK);
    String::from_utf8(answer.body.to_vec()).expect("text")
}

fn get(path: &str) -> Parts {
    head(Method::GET, path, &[])
}

#[test]
fn challenges_are_echoed() {
    let meta = verifier(
        "meta",
        Credentials { verify_token: Some(secret("my-token")), ..global("app-secret") },
    );
    let path = "/x?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=my-token";
    assert_eq!(body(shake(&meta, &get(path), "")), "1158201444");
    let wrong = shake(&meta, &get(&path.replace("my-token", "other")), "");
    assert_eq!(wrong.map(|r| r.err()), Some(Some(Reason::BadSignature.into())));
    assert!(shake(&meta, &get(&path.replace("subscribe", "other")), "").is_none());
    assert!(shake(&meta, &post(&[]), "{}").is_none());

    let dropbox = verifier("dropbox", global("app-secret"));
    let answer = shake(&dropbox, &get("/x?challenge=abc%3Cb%3E"), "").expect("one").expect("ok");
    assert_eq!(&answer.body[..], b"abc<b>");
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    assert!(shake(&dropbox, &get("/x"), "").is_none());
    let control = shake(&dropbox, &get("/x?challenge=a%0d%0ab"), "");
    assert_eq!(control.map(|r| r.err()), Some(Some(Reason::MalformedSignature.into())));

    let slack = verifier("slack", global("app-secret"));
    let text = "{\"type\":\"url_verification\",\"challenge\":\"3eZbrw\"}";
    assert_eq!(body(shake(&slack, &post(&[]), text)), "3eZbrw");
    assert!(shake(&slack, &post(&[]), "{\"type\":\"event_callback\"}").is_none());
    assert!(shake(&slack, &post(&[]), "token=x").is_none());

    let graph = verifier("microsoft-graph", global("state"));
    let token = head(Method::POST, "/x?validationToken=a%20b%2Bc", &[]);
    assert_eq!(body(shake(&graph, &token, "")), "a b+c");

    let okta = verifier("okta", global("token"));
    let asked = head(Method::GET, "/x", &[("X-Okta-Verification-Challenge", "a\"b")]);
    assert_eq!(body(shake(&okta, &asked, "")), "{\"verification\":\"a\\\"b\"}");

    for id in ["trello", "intercom"] {
        let public_url = (id == "trello").then(|| "https://hooks.example.com/x".to_owned());
        let verifier = verifier(id, Credentials { public_url, ..global("secret") });
        assert_eq!(body(shake(&verifier, &head(Method::HEAD, "/x", &[]), "")), "");
        assert!(verifier.scheme().methods().contains("HEAD"));
    }
}

#[test]
fn signed_handshakes_must_be_authentic() {
    let twitch = verifier("twitch", global("twitch-secret"));
    let text = "{\"challenge\":\"pogchamp\"}";
    let at = "2025-09-18T08:33:11Z";
    let ask = |secret: &str| {
        let signature = hmac_sha256(secret, format!("m-1{at}{text}").as_bytes());
        post(&[
            ("Twitch-Eventsub-Message-Id", "m-1"),
            ("Twitch-Eventsub-Message-Timestamp", at),
            ("Twitch-Eventsub-Message-Signature", &format!("sha256={signature}")),
            ("Twitch-Eventsub-Message-Type", "webhook_callback_verification"),
        ])
    };
    assert_eq!(body(shake(&twitch, &ask("twitch-secret"), text)), "pogchamp");
    let forged = shake(&twitch, &ask("other"), text);
    assert_eq!(forged.map(|r| r.err()), Some(Some(Reason::BadSignature.into())));
    let later = UnixMillis(NOW + 3_600_000);
    let old = twitch.handshake(&ask("twitch-secret"), &payload(text.as_bytes()), later);
    assert_eq!(old.map(|r| r.err()), Some(Some(Reason::Stale.into())));
}

#[test]
fn a_mac_is_answered_for_words_only_and_no_event_is_a_word() {
    let zoom = verifier("zoom", global("zoom-secret"));
    let ask = |token: &str| {
        format!(
            "{{\"event\":\"endpoint.url_validation\",\"payload\":{{\"plainToken\":\"{token}\"}}}}"
        )
    };
    let expected = format!(
        "{{\"plainToken\":\"qgg8vlvZRS6UYooatFL8Aw\",\"encryptedToken\":\"{}\"}}",
        hmac_sha256("zoom-secret", b"qgg8vlvZRS6UYooatFL8Aw")
    );
    assert_eq!(body(shake(&zoom, &post(&[]), &ask("qgg8vlvZRS6UYooatFL8Aw"))), expected);
    let oracle = shake(&zoom, &post(&[]), &ask("v0:1758184391:{}"));
    assert_eq!(oracle.map(|r| r.err()), Some(Some(Reason::MalformedSignature.into())));

    let x = verifier("x", global("consumer-secret"));
    let answer = body(shake(&x, &get("/x?crc_token=abc_1-2"), ""));
    let mac = answer.strip_prefix("{\"response_token\":\"").and_then(|a| a.strip_suffix("\"}"));
    let oracle = shake(&x, &get("/x?crc_token=%7B%7D"), "");
    assert_eq!(oracle.map(|r| r.err()), Some(Some(Reason::MalformedSignature.into())));
    // The answer to a challenge does not make the challenge an event.
    let stolen = post(&[("x-twitter-webhooks-signature", mac.expect("a MAC"))]);
    let judged = x.verify(&stolen, &payload(b"abc_1-2"), UnixMillis(NOW));
    assert_eq!(reason(judged), Some(Reason::MalformedBody));
}
