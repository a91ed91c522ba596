//! Handshakes, and that none of them is an oracle for the key of events.

use std::sync::LazyLock;

use proptest::{prop_assert, prop_assert_eq, prop_oneof, proptest};

use http::StatusCode;

use super::*;
use crate::{
    response::SanitizedResponse,
    scheme::{
        compiled::{ProofKind, TimestampRule, challenge::ChallengeRule, template::ValueSource},
        mac::HashAlgorithm,
    },
};

fn shake(
    verifier: &Verifier,
    head: &Parts,
    body: &str,
) -> Option<Result<SanitizedResponse, Reject>> {
    let found = verifier.challenge(head, &payload(body.as_bytes()), UnixMillis(NOW))?;
    Some(found.map(|reply| reply.response))
}

fn body(answer: Option<Result<SanitizedResponse, Reject>>) -> String {
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
    let old = twitch.challenge(&ask("twitch-secret"), &payload(text.as_bytes()), later);
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

/// The request of a handshake with this challenge, and its body; `None` if the challenge cannot
/// stand where this sender writes it.
fn challenged(
    verifier: &Verifier,
    handshake: &ChallengeRule,
    challenge: &str,
) -> Option<(Parts, String)> {
    let (mut query, mut json, mut headers) = (String::from("/x?"), serde_json::json!({}), vec![]);
    let mut form = String::new();
    let given = handshake.when.iter().map(|(source, value)| (source, &**value));
    for (source, value) in given.chain(handshake.challenge.iter().map(|s| (s, challenge))) {
        match source {
            ValueSource::Query(name) => {
                let value: String = value.bytes().map(|byte| format!("%{byte:02x}")).collect();
                query.push_str(&format!("{name}={value}&"));
            }
            ValueSource::Json(pointer) => {
                let mut place = &mut json;
                for member in handshake.reader.name(*pointer).split('/').skip(1) {
                    place = &mut place[member];
                }
                *place = value.into();
            }
            ValueSource::Header(slot) => {
                HeaderValue::from_str(value).ok()?;
                headers.push((verifier.slots.names()[*slot].as_str(), value));
            }
            ValueSource::Form(name) => form.push_str(&format!("{name}={value}&")),
            other => panic!("no challenge stands at {other:?}"),
        }
    }
    let body = if form.is_empty() { json.to_string() } else { form };
    Some((head(handshake.method.clone(), &query, &headers), body))
}

/// What the sender would sign of a request, by the scheme's own message.
fn signed(verifier: &Verifier, sent: &Parts, body: &Payload) -> Vec<u8> {
    let mut request = verifier.request(sent, body);
    if let Some(TimestampRule { from: ValueSource::Header(slot), .. }) = &verifier.scheme.timestamp
    {
        request.timestamp = request.header(*slot).map(|text| text.to_vec().into());
    }
    let mut message = Vec::new();
    let whole = request.feed(&verifier.scheme.message, b"", 0, &mut |piece| message.extend(piece));
    assert!(whole, "{}: nothing is missing", verifier.scheme.id);
    message
}

/// Every built-in scheme with challenges, as a verifier.
static SHAKING: LazyLock<Vec<Verifier>> = LazyLock::new(|| {
    let schemes = Scheme::builtin_ids().filter_map(Scheme::builtin);
    // Fetched keys are public keys: no response contains a MAC.
    let shaking = schemes.filter(|scheme| !scheme.challenges.is_empty() && !scheme.fetches_keys());
    let ready = shaking.map(|scheme| {
        let public = scheme.takes_public_key();
        let keys = vec![secret(if public { DISCORD } else { ORACLE })];
        let (global, public_keys) = if public { (vec![], keys) } else { (keys, vec![]) };
        let public_url = scheme.needs_url.then(|| "https://hooks.example.com/x".to_owned());
        let credentials = Credentials { global, public_keys, public_url, ..Default::default() };
        Verifier::new(scheme, "r", credentials).expect("fitting credentials")
    });
    ready.collect()
});

const ORACLE: &str = "0123456789abcdef0123456789abcdef";
/// A public key from RFC 8032, section 7.1.
const DISCORD: &str = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";

/// Whether an answer holds the MAC of `message` under the events' key, in any of its spellings.
fn gives_away(answer: &SanitizedResponse, message: &[u8]) -> bool {
    let macs = [HashAlgorithm::Sha1, HashAlgorithm::Sha256, HashAlgorithm::Sha512]
        .map(|hash| mac::Engine::hmac(hash, ORACLE.as_bytes()).of(message).bytes().to_vec());
    let headers = answer.headers.values().flat_map(|value| value.as_bytes().to_vec());
    let said: Vec<u8> = answer.body.iter().copied().chain(headers).collect();
    let holds = |text: String| said.windows(text.len()).any(|part| part == text.as_bytes());
    macs.iter().any(|mac| {
        holds(hex(mac))
            || holds(data_encoding::BASE64.encode(mac))
            || holds(data_encoding::BASE64URL_NOPAD.encode(mac))
    })
}

proptest! {
    #[test]
    fn no_answer_proves_an_event(
        body in prop_oneof![
            "[A-Za-z0-9_-]{0,40}", "\\{\"id\":\"[a-z]{0,9}\"\\}", "v0:[0-9]{10}:[a-z]{0,9}", ".{0,40}",
        ],
    ) {
        prop_assert!(SHAKING.len() >= 12);
        for verifier in &*SHAKING {
            let id = verifier.scheme.id.to_string();
            // A challenge without a signing key has no MAC.
            let signs = matches!(verifier.scheme.kind, ProofKind::Hmac(_));
            prop_assert!(signs || verifier.scheme.challenges.iter().all(|h| h.mac.is_none()));
            // What is no form has no sorted fields to sign.
            if !signs || verifier.scheme.message.covers(&ValueSource::FormSorted) {
                continue;
            }
            let payload = payload(body.as_bytes());
            let headers = HeaderMap::new();
            let draft = Draft { method: Method::POST, path: "/x", headers, body: &payload };
            let mut event = post(&[]);
            event.headers = verifier.sign(None, draft, UnixMillis(NOW)).expect("signed");
            let message = signed(verifier, &event, &payload);
            let text = String::from_utf8(message.clone()).expect("text");
            for handshake in &verifier.scheme.challenges {
                let Some((sent, asked)) = challenged(verifier, handshake, &text) else { continue };
                let answered = match shake(verifier, &sent, &asked) {
                    Some(Ok(answer)) => gives_away(&answer, &message),
                    Some(Err(_)) | None => false,
                };
                let accepted = verifier.verify(&event, &payload, UnixMillis(NOW)).is_ok();
                prop_assert!(!(answered && accepted), "{id}: {text}");
            }
        }
    }

    #[test]
    fn a_mac_is_the_answer_to_a_word(word in "[A-Za-z0-9_-]{1,64}") {
        let mut answered = Vec::new();
        for verifier in &*SHAKING {
            for handshake in verifier.scheme.challenges.iter().filter(|h| h.mac.is_some()) {
                let (sent, asked) = challenged(verifier, handshake, &word).expect("a word fits");
                let answer = shake(verifier, &sent, &asked).expect("a handshake").expect("answered");
                prop_assert!(gives_away(&answer, word.as_bytes()));
                answered.push(verifier.scheme.id.to_string());
            }
        }
        prop_assert_eq!(answered, ["linkedin", "x", "zoom"]);
    }
}
