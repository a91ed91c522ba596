//! Vivreal: hexadecimal with and without `sha256=`; the signed member `id` identifies the event.

use super::all_refused;
use crate::kit::{Answer, Call, Gateway, Setup, Upstream, hmac_sha256};

const PATH: &str = "/webhooks/vivreal";
const SECRET: &str = "whsec-generated-by-vivreal-0001";
const NAME: &str = "x-vivreal-signature";

fn start(upstream: &Upstream) -> Gateway {
    Setup::new(upstream)
        .routes(&format!(
            "[[route]]\nname = \"vivreal\"\npath = \"{PATH}\"\nscheme = \"vivreal\"\n\
             upstream = \"http://{}\"\nsecret = \"{SECRET}\"\n",
            upstream.address()
        ))
        .start()
}

fn payload(id: &str) -> String {
    format!(
        "{{\"id\":\"{id}\",\"event\":\"content.created\",\"timestamp\":\"2026-01-15T10:00:00.000Z\",\
         \"data\":{{\"id\":\"another\"}}}}"
    )
}

/// Returns a request signed as the original guide says: hexadecimal without a prefix.
fn bare(body: &str) -> Call {
    Call::post(PATH, body).with(NAME, &hmac_sha256(SECRET, body.as_bytes()))
}

/// Returns a request signed as the current guide says, with a delivery ID that differs in each
/// attempt.
fn prefixed(body: &str, delivery: &str) -> Call {
    let signature = format!("sha256={}", hmac_sha256(SECRET, body.as_bytes()));
    Call::post(PATH, body)
        .with("X-Vivreal-Signature", &signature)
        .with("X-Vivreal-Event", "content.created")
        .with("X-Vivreal-Delivery-Id", delivery)
}

#[tokio::test]
async fn accepts_both_formats_and_the_signed_id_identifies_the_event() {
    let upstream = Upstream::start().await;
    let gateway = start(&upstream);
    let body = payload("5f0c-1");
    upstream.answer([Answer::Status(503)]);
    assert_eq!(gateway.call(&prefixed(&body, "d-1")).await.status, 503);
    assert_eq!(gateway.call(&prefixed(&body, "d-2")).await.status, 200);
    let again = gateway.call(&prefixed(&body, "d-3")).await;
    assert_eq!((again.status, again.header("sealgate-answer")), (200, Some("duplicate")));
    // The same event with other signed bytes: the ID decides.
    let spaced = gateway.call(&bare(&body.replace(':', ": "))).await;
    assert_eq!((spaced.status, spaced.header("sealgate-answer")), (200, Some("duplicate")));
    assert_eq!(upstream.requests().len(), 2);
    assert_eq!(gateway.call(&bare(&payload("5f0c-2"))).await.status, 200);
    let seen = upstream.requests().pop().expect("forwarded");
    assert_eq!(seen.header("sealgate-event-id"), Some("5f0c-2"));
    assert_eq!(seen.header("sealgate-verified"), Some("vivreal"));
    // Upper-case digits are the same bytes.
    let upper = bare(&payload("5f0c-3"));
    let value = upper.headers[0].1.to_uppercase();
    assert_eq!(gateway.call(&upper.set(NAME, &value)).await.status, 200);
}

#[tokio::test]
async fn what_is_not_authentic_is_401_with_its_reason() {
    let upstream = Upstream::start().await;
    let gateway = start(&upstream);
    let good = bare(&payload("1"));
    let value = good.headers[0].1.clone();
    let two_ids = payload("1").replace("{\"id\"", "{\"\\u0069d\":\"2\",\"id\"");
    all_refused(
        &gateway,
        401,
        vec![
            ("no signature", good.clone().without(NAME), "missing_header"),
            ("two signatures", good.clone().with(NAME, &value), "duplicate_header"),
            ("empty", good.clone().set(NAME, ""), "malformed_signature"),
            ("too short", good.clone().set(NAME, &value[..62]), "malformed_signature"),
            ("too long", good.clone().set(NAME, &format!("{value}00")), "malformed_signature"),
            (
                "prefix twice",
                good.clone().set(NAME, &format!("sha256=sha256={value}")),
                "malformed_signature",
            ),
            ("another body", good.clone().tampered(&payload("2")), "bad_signature"),
            (
                "another secret",
                {
                    let body = payload("1");
                    Call::post(PATH, &body)
                        .with(NAME, &hmac_sha256("another-secret-0001", body.as_bytes()))
                },
                "bad_signature",
            ),
            ("no id", bare("{\"event\":\"content.created\"}"), "missing_header"),
            ("id is a list", bare("{\"id\":[\"1\"]}"), "missing_header"),
            ("two ids", bare(&two_ids), "malformed_body"),
            ("not JSON", bare("content.created"), "malformed_body"),
        ],
    )
    .await;
    assert!(upstream.requests().is_empty(), "nothing was forwarded");
}
