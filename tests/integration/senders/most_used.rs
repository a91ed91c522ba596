//! The most used senders: what each of them repeats, what it sends twice on purpose, and what only
//! looks like a repetition.

use data_encoding::BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::Sha256;

use crate::kit::{Answer, Call, Gateway, Reply, Setup, Upstream, hmac_sha256, now_ms};

const SECRET: &str = "a-secret-of-the-most-used-0001";
const PUBLIC_URL: &str = "https://hooks.example.com/twilio";

fn start(upstream: &Upstream) -> Gateway {
    let route = |id: &str| {
        let more = match id {
            "twilio" => format!("public_url = \"{PUBLIC_URL}\""),
            _ => String::new(),
        };
        format!(
            "[[route]]\nname = \"{id}\"\npath = \"/{id}\"\nscheme = \"{id}\"\n\
             upstream = \"http://{}\"\nsecret = \"{SECRET}\"\n{more}\n",
            upstream.address()
        )
    };
    let ids = ["stripe", "github", "slack", "shopify", "twilio", "recurly"];
    Setup::new(upstream).routes(&ids.map(route).concat()).start()
}

/// Returns the status and the outcome of a response; the outcome is present if the gateway
/// generated the response.
fn ended(reply: &Reply) -> (u16, Option<&str>) {
    (reply.status, reply.header("sealgate-answer"))
}

fn seconds() -> u64 {
    now_ms() / 1000
}

fn stripe(at: u64, body: &str) -> Call {
    let v1 = hmac_sha256(SECRET, format!("{at}.{body}").as_bytes());
    let v0 = "63f3a72374a733066c4be69ed7f8e5ac85c22c9f0a6a612ab9a025a9e4ee7eef";
    Call::post("/stripe", body).with("Stripe-Signature", &format!("t={at},v1={v1},v0={v0}"))
}

#[tokio::test]
async fn stripe_signs_each_attempt_again() {
    let upstream = Upstream::start().await;
    let gateway = start(&upstream);
    let (now, event) = (seconds(), "{\"id\":\"evt_1\",\"object\":\"event\"}");
    upstream.answer([Answer::Status(500)]);
    assert_eq!(ended(&gateway.call(&stripe(now - 20, event)).await), (500, None));
    assert_eq!(ended(&gateway.call(&stripe(now - 10, event)).await), (200, None));
    let attempt = stripe(now, event);
    assert_eq!(ended(&gateway.call(&attempt).await), (200, Some("duplicate")));
    // An identical attempt is a replay, not a retry.
    assert_eq!(ended(&gateway.call(&attempt).await), (409, Some("replay")));
    assert_eq!(upstream.requests().len(), 2);
    let (reply, reason) = gateway.refused(&stripe(now - 301, "{\"id\":\"evt_2\"}")).await;
    assert_eq!((reply.status, reason.as_str()), (401, "stale"));
}

#[tokio::test]
async fn github_delivers_again_by_hand() {
    let upstream = Upstream::start().await;
    let gateway = start(&upstream);
    let push = |id: &str, body: &str| {
        let signature = format!("sha256={}", hmac_sha256(SECRET, body.as_bytes()));
        Call::post("/github", body)
            .with("X-GitHub-Event", "push")
            .with("X-GitHub-Delivery", id)
            .with("X-Hub-Signature", "sha1=7d38cdd689735b008b3c702edd92eea23791c5f6")
            .with("X-Hub-Signature-256", &signature)
    };
    upstream.answer([Answer::Status(502)]);
    assert_eq!(ended(&gateway.call(&push("g-1", "{}")).await), (502, None));
    assert_eq!(ended(&gateway.call(&push("g-1", "{}")).await), (200, None));
    assert_eq!(ended(&gateway.call(&push("g-1", "{}")).await), (200, Some("duplicate")));
    assert_eq!(ended(&gateway.call(&push("g-2", "{}")).await), (200, Some("duplicate")));
    assert_eq!(ended(&gateway.call(&push("g-3", "{\"n\":3}")).await), (200, None));
    let other = push("g-1", "{}").set("X-GitHub-Event", "ping");
    let (reply, reason) = gateway.refused(&other).await;
    assert_eq!((reply.status, reason.as_str()), (409, "context_mismatch"));
    assert_eq!(upstream.requests().len(), 3);
}

#[tokio::test]
async fn slack_sends_events_with_an_id_and_commands_without() {
    let upstream = Upstream::start().await;
    let gateway = start(&upstream);
    let slack = |at: u64, body: &str| {
        let mac = hmac_sha256(SECRET, format!("v0:{at}:{body}").as_bytes());
        Call::post("/slack", body)
            .with("X-Slack-Request-Timestamp", &at.to_string())
            .with("X-Slack-Signature", &format!("v0={mac}"))
    };
    let now = seconds();
    let event = "{\"type\":\"event_callback\",\"event_id\":\"Ev08\"}";
    assert_eq!(ended(&gateway.call(&slack(now, event)).await), (200, None));
    let retry = slack(now + 1, event).with("X-Slack-Retry-Num", "1");
    assert_eq!(ended(&gateway.call(&retry).await), (200, Some("duplicate")));
    // A user types a command twice: each has its own trigger ID.
    let command = |trigger: &str| slack(now, &format!("command=%2Fdo&text=&trigger_id={trigger}"));
    upstream.answer([Answer::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nDone".to_vec())]);
    let reply = gateway.call(&command("1.a")).await;
    assert_eq!(
        (reply.status, reply.text().as_str()),
        (200, "Done"),
        "the answer is shown to a person"
    );
    assert_eq!(ended(&gateway.call(&command("2.b")).await), (200, None));
    assert_eq!(upstream.requests().len(), 3);
}

#[tokio::test]
async fn shopify_delivers_one_event_under_several_topics() {
    let upstream = Upstream::start().await;
    let gateway = start(&upstream);
    let shopify = |topic: &str, event: &str, webhook: &str| {
        let body = "{\"id\":820982911946154508}";
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length");
        mac.update(body.as_bytes());
        Call::post("/shopify", body)
            .with("X-Shopify-Topic", topic)
            .with("X-Shopify-Shop-Domain", "a.myshopify.com")
            .with("X-Shopify-Event-Id", event)
            .with("X-Shopify-Webhook-Id", webhook)
            .with("X-Shopify-Hmac-Sha256", &BASE64.encode(&mac.finalize().into_bytes()))
    };
    let created = shopify("orders/create", "e-1", "w-1");
    assert_eq!(ended(&gateway.call(&created).await), (200, None));
    assert_eq!(ended(&gateway.call(&shopify("orders/paid", "e-1", "w-2")).await), (200, None));
    assert_eq!(ended(&gateway.call(&created).await), (200, Some("duplicate")));
    let elsewhere = created.set("X-Shopify-Shop-Domain", "b.myshopify.com");
    assert_eq!(ended(&gateway.call(&elsewhere).await), (200, None));
    assert_eq!(upstream.requests().len(), 3);
}

#[tokio::test]
async fn twilio_sends_identical_requests_on_purpose() {
    let upstream = Upstream::start().await;
    let gateway = start(&upstream);
    let sign = |signed: &str| {
        let mut mac = Hmac::<Sha1>::new_from_slice(SECRET.as_bytes()).expect("any length");
        mac.update(signed.as_bytes());
        BASE64.encode(&mac.finalize().into_bytes())
    };
    let pressed = |token: &str| {
        Call::post("/twilio", "Digits=1&CallSid=CA12")
            .with("Content-Type", "application/x-www-form-urlencoded")
            .with("I-Twilio-Idempotency-Token", token)
            .with("X-Twilio-Signature", &sign(&format!("{PUBLIC_URL}CallSidCA12Digits1")))
    };
    // The caller presses the same key twice: two requests with the same fields, each of which needs
    // a response.
    assert_eq!(ended(&gateway.call(&pressed("t-1")).await), (200, None));
    assert_eq!(ended(&gateway.call(&pressed("t-2")).await), (200, None));
    assert_eq!(ended(&gateway.call(&pressed("t-2")).await), (200, Some("duplicate")));
    let without = pressed("").without("I-Twilio-Idempotency-Token");
    assert_eq!(ended(&gateway.call(&without).await), (200, None));
    assert_eq!(ended(&gateway.call(&without).await), (200, Some("duplicate")));
    // With GET, the signed URL contains everything.
    let target = "/twilio?CallSid=CA12&Digits=1";
    let signature = sign(&format!("{PUBLIC_URL}?CallSid=CA12&Digits=1"));
    let asked = Call::new("GET", target, "").with("X-Twilio-Signature", &signature);
    assert_eq!(ended(&gateway.call(&asked).await), (200, None));
    assert_eq!(ended(&gateway.call(&asked).await), (200, None));
    let mut other = asked.clone();
    other.target = target.replace("Digits=1", "Digits=2");
    let (reply, reason) = gateway.refused(&other).await;
    assert_eq!((reply.status, reason.as_str()), (401, "bad_signature"));
    assert_eq!(upstream.requests().len(), 5);
}

#[tokio::test]
async fn recurly_identifies_the_object_and_not_the_event() {
    let upstream = Upstream::start().await;
    let gateway = start(&upstream);
    let changed = |event: &str| {
        let body = format!("{{\"uuid\":\"612bcf67\",\"event_type\":\"{event}\"}}");
        let at = now_ms();
        let mac = hmac_sha256(SECRET, format!("{at}.{body}").as_bytes());
        Call::post("/recurly", &body).with("recurly-signature", &format!("{at},{mac}"))
    };
    for event in ["created", "updated"] {
        assert_eq!(ended(&gateway.call(&changed(event)).await), (200, None), "{event}");
    }
    assert_eq!(ended(&gateway.call(&changed("updated")).await), (200, Some("duplicate")));
    assert_eq!(upstream.requests().len(), 2);
}
