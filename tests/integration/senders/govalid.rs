//! GoValid: the body's digest identifies the event, and the signed body contains the timestamp.

use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use super::all_refused;
use crate::kit::{Answer, Call, Gateway, Setup, Upstream, hmac_sha256, sha256};

const PATH: &str = "/webhooks/govalid";
const SECRET: &str = "chosen-by-the-user-at-govalid";

fn start(upstream: &Upstream) -> Gateway {
    Setup::new(upstream)
        .routes(&format!(
            "[[route]]\nname = \"govalid\"\npath = \"{PATH}\"\nscheme = \"govalid\"\n\
             upstream = \"http://{}\"\nsecret = \"{SECRET}\"\n",
            upstream.address()
        ))
        .start()
}

/// Returns the payload of the guide with this age in seconds; every scan has its own number.
fn scan(number: u32, age: i64) -> String {
    let at = OffsetDateTime::now_utc() - Duration::seconds(age);
    let at = at.replace_nanosecond(0).expect("a time").format(&Rfc3339).expect("a time");
    format!(
        "{{\"event\":\"qr.scanned\",\"timestamp\":\"{at}\",\"webhook_id\":\"wh-001\",\
         \"data\":{{\"scan_count\":{number}}},\"signature\":\"sha256=a1b2c3d4...\"}}"
    )
}

fn signed(body: &str) -> Call {
    let signature = format!("sha256={}", hmac_sha256(SECRET, body.as_bytes()));
    Call::post(PATH, body).with("X-GoValid-Signature", &signature)
}

#[tokio::test]
async fn each_payload_is_an_event_and_its_copies_are_retries() {
    let upstream = Upstream::start().await;
    let gateway = start(&upstream);
    let first = signed(&scan(1, 0));
    upstream.answer([Answer::Status(500)]);
    assert_eq!(gateway.call(&first).await.status, 500);
    // The sender signs a retry like the first attempt, so the bytes are identical.
    assert_eq!(gateway.call(&first).await.status, 200);
    let again = gateway.call(&first).await;
    assert_eq!((again.status, again.header("sealgate-answer")), (200, Some("duplicate")));
    assert_eq!(upstream.requests().len(), 2);
    // The same subscription, but another event.
    let second = signed(&scan(2, 0));
    assert_eq!(gateway.call(&second).await.status, 200);
    let requests = upstream.requests();
    assert_eq!(requests.len(), 3);
    let id = format!("sha256-{}", sha256(&second.body));
    assert_eq!(requests[2].header("sealgate-event-id"), Some(id.as_str()));
    assert_eq!(requests[2].header("sealgate-verified"), Some("govalid"));
    assert_eq!(requests[2].body, second.body);
    // The last retry is sent 81 minutes after the event.
    assert_eq!(gateway.call(&signed(&scan(3, 81 * 60))).await.status, 200);
}

#[tokio::test]
async fn what_is_not_authentic_is_401_with_its_reason() {
    let upstream = Upstream::start().await;
    let gateway = start(&upstream);
    let body = scan(1, 0);
    let good = signed(&body);
    let name = "X-GoValid-Signature";
    let value = good.headers[0].1.clone();
    let hex = value.trim_start_matches("sha256=").to_owned();
    let without_member = body.replace(",\"signature\":\"sha256=a1b2c3d4...\"", "");
    all_refused(
        &gateway,
        401,
        vec![
            ("no signature", good.clone().without(name), "missing_header"),
            ("two signatures", good.clone().with(name, &value), "duplicate_header"),
            ("a twin", good.clone().with("X_GoValid_Signature", &value), "duplicate_header"),
            ("bare hex", good.clone().set(name, &hex), "malformed_signature"),
            ("a digit less", good.clone().set(name, &value[..70]), "malformed_signature"),
            (
                "not hex",
                good.clone().set(name, &format!("{}zz", &value[..69])),
                "malformed_signature",
            ),
            (
                "another algorithm",
                good.clone().set(name, &format!("sha1={hex}")),
                "malformed_signature",
            ),
            ("not ASCII", good.clone().set(name, "sha256=\u{e9}"), "malformed_signature"),
            ("another body", good.clone().tampered(&scan(2, 0)), "bad_signature"),
            (
                "signed without the member `signature`",
                signed(&without_member).tampered(&body),
                "bad_signature",
            ),
            ("no time", signed("{\"event\":\"qr.scanned\"}"), "malformed_timestamp"),
            ("time as a number", signed("{\"timestamp\":1758184391}"), "malformed_timestamp"),
            ("not JSON", signed("qr.scanned"), "malformed_body"),
            (
                "two times",
                signed(&body.replace("{\"event\"", "{\"timestamp\":\"x\",\"event\"")),
                "malformed_body",
            ),
            ("too old", signed(&scan(1, 2 * 3600 + 30)), "stale"),
            ("from the future", signed(&scan(1, -5 * 60 - 30)), "future"),
        ],
    )
    .await;
    assert!(upstream.requests().is_empty(), "nothing was forwarded");
}
