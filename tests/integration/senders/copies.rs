//! Copies of a captured request: a changed header or byte that the signature does not cover does
//! not make another event.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use sealgate::internals::{
    body::Payload,
    scheme::{Credentials, Draft, Scheme, UnixMillis, Verifier},
    secret::Secret,
};

use crate::kit::{Call, Gateway, Reply, Setup, Upstream, now_ms};

const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const PUBLIC_URL: &str = "https://hooks.example.com/in";

/// Senders with an unsigned ID in a header, which is only a label.
const LABELS: [(&str, &str); 9] = [
    ("bitbucket", "X-Request-UUID"),
    ("gitea", "X-Gitea-Delivery"),
    ("github", "X-GitHub-Delivery"),
    ("jira", "X-Atlassian-Webhook-Identifier"),
    ("razorpay", "x-razorpay-event-id"),
    ("sentry", "Request-ID"),
    ("shopify", "X-Shopify-Event-Id"),
    ("toss-payments", "tosspayments-webhook-transmission-id"),
    ("woocommerce", "X-WC-Webhook-Delivery-ID"),
];

/// Senders with an unsigned header that distinguishes events with equal signed bytes.
const DISTINGUISHED: [(&str, &str, &str, &str); 5] = [
    ("sanity", "idempotency-key", "other", "not a word"),
    ("shopify", "X-Shopify-Topic", "orders/paid", "orders paid"),
    ("twilio", "I-Twilio-Idempotency-Token", "other", "not.a.word"),
    ("woocommerce", "X-WC-Webhook-Topic", "order.updated", "order updated"),
    ("zendesk", "X-Zendesk-Webhook-Invocation-Id", "other", "not.a.word"),
];

fn start(upstream: &Upstream, ids: &[&str]) -> Gateway {
    let route = |id: &&str| {
        let url =
            if *id == "twilio" { format!("public_url = \"{PUBLIC_URL}\"\n") } else { "".into() };
        format!(
            "[[route]]\nname = \"{id}\"\npath = \"/{id}\"\nscheme = \"{id}\"\n\
             upstream = \"http://{}\"\nsecret = \"{SECRET}\"\n{url}\n",
            upstream.address()
        )
    };
    Setup::new(upstream).routes(&ids.iter().map(route).collect::<String>()).start()
}

fn verifier(id: &str) -> Verifier {
    let credentials = Credentials {
        global: vec![Secret::new(SECRET.as_bytes().to_vec())],
        public_url: (id == "twilio").then(|| PUBLIC_URL.to_owned()),
        ..Credentials::default()
    };
    let scheme = Scheme::builtin(id).expect("a built-in scheme");
    Verifier::new(scheme, id, credentials).expect("fitting credentials")
}

/// Returns a request as the sender would sign it, with the given headers.
fn signed(id: &str, body: &str, given: &[(&str, &str)]) -> Call {
    let payload = Payload::from(Bytes::from(body.to_owned()));
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        headers.insert(name, HeaderValue::from_str(value).expect("a value"));
    }
    let path = format!("/{id}");
    let draft = Draft { method: Method::POST, path: &path, headers, body: &payload };
    let now = UnixMillis(i64::try_from(now_ms()).expect("in range"));
    let headers = verifier(id).sign(None, draft, now).expect("signed");
    headers.iter().fold(Call::post(&path, body), |call, (name, value)| {
        call.with(name.as_str(), value.to_str().expect("text"))
    })
}

fn outcome(reply: &Reply) -> (u16, Option<&str>) {
    (reply.status, reply.header("sealgate-answer"))
}

#[tokio::test]
async fn another_unsigned_id_is_not_another_event() {
    let upstream = Upstream::start().await;
    let gateway = start(&upstream, &LABELS.map(|(id, _)| id));
    for (number, (id, header)) in LABELS.into_iter().enumerate() {
        let first = signed(id, "{\"n\":1}", &[(header, "first")]);
        assert_eq!(outcome(&gateway.call(&first).await), (200, None), "{id}");
        assert_eq!(upstream.requests()[number].header("sealgate-event-id"), Some("first"), "{id}");
        let copy = first.set(header, "second");
        assert_eq!(outcome(&gateway.call(&copy).await), (200, Some("duplicate")), "{id}");
        let bare = copy.without(header);
        assert_eq!(outcome(&gateway.call(&bare).await), (200, Some("duplicate")), "{id}");
        assert_eq!(upstream.requests().len(), number + 1, "{id}");
    }
}

#[tokio::test]
async fn values_that_distinguish_events_are_bounded_by_their_grammar() {
    let upstream = Upstream::start().await;
    let gateway = start(&upstream, &DISTINGUISHED.map(|(id, ..)| id));
    for (id, header, other, outside) in DISTINGUISHED {
        let body = if id == "twilio" { "From=1" } else { "{\"n\":1}" };
        let given = [(header, "first"), ("x-shopify-shop-domain", "a.example")];
        let first = signed(id, body, &given);
        assert_eq!(outcome(&gateway.call(&first).await), (200, None), "{id}");
        assert_eq!(outcome(&gateway.call(&first).await), (200, Some("duplicate")), "{id}");
        let event = first.clone().set(header, other);
        assert_eq!(outcome(&gateway.call(&event).await), (200, None), "{id}");
        let (reply, reason) = gateway.refused(&first.set(header, outside)).await;
        assert_eq!((reply.status, reason.as_str()), (401, "malformed_signature"), "{id}");
    }
    assert_eq!(upstream.requests().len(), 2 * DISTINGUISHED.len());
}

#[tokio::test]
async fn a_changed_unsigned_body_is_not_forwarded_again() {
    let upstream = Upstream::start().await;
    let gateway = start(&upstream, &["adyen", "mailgun", "mercado-pago"]);
    let now = UnixMillis(i64::try_from(now_ms()).expect("in range"));
    let item = r#"{"notificationItems":[{"NotificationRequestItem":{"pspReference":"7914",
        "merchantAccountCode":"M","merchantReference":"r:1","amount":{"value":1,"currency":"EUR"},
        "eventCode":"AUTHORISATION","success":"true"}}]}"#;
    let in_body = |id: &str, body: &str| {
        let body = verifier(id).sign_body(None, "/x", body.as_bytes(), now).expect("signed");
        Call::post(&format!("/{id}"), std::str::from_utf8(&body).expect("JSON"))
    };
    let calls = [
        in_body("adyen", item),
        in_body("mailgun", "{\"event-data\":{\"event\":\"opened\"}}"),
        signed("mercado-pago", "{\"id\":1}", &[("x-request-id", "r1")]),
    ];
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(outcome(&gateway.call(&call).await), (200, None), "{}", call.target);
        assert_eq!(
            outcome(&gateway.call(&call).await),
            (200, Some("duplicate")),
            "{}",
            call.target
        );
        let spaced = call.clone().tampered(&format!("{} ", String::from_utf8_lossy(&call.body)));
        let (reply, reason) = gateway.refused(&spaced).await;
        assert_eq!((reply.status, reason.as_str()), (409, "context_mismatch"), "{}", call.target);
        assert_eq!(upstream.requests().len(), number + 1);
    }
}

#[tokio::test]
async fn identical_notifications_are_forwarded_where_they_are_sent_on_purpose() {
    let upstream = Upstream::start().await;
    let gateway = start(&upstream, &["microsoft-graph", "kakao-unlink"]);
    let graph = format!("{{\"value\":[{{\"clientState\":\"{SECRET}\",\"resource\":\"r\"}}]}}");
    let graph = Call::post("/microsoft-graph", &graph);
    let kakao = Call::post("/kakao-unlink", "user_id=1&referrer_type=UNLINK_FROM_APPS")
        .with("Authorization", &format!("KakaoAK {SECRET}"));
    for call in [&graph, &graph, &kakao, &kakao] {
        let reply = gateway.call(call).await;
        assert_eq!(reply.header("sealgate-answer"), None, "{}: {}", call.target, reply.head);
    }
    assert_eq!(upstream.requests().len(), 4);
}

#[tokio::test]
async fn a_route_accepts_the_methods_of_its_scheme_or_its_own() {
    let upstream = Upstream::start().await;
    let route = |name: &str, more: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\npath = \"/{name}\"\nscheme = \"zendesk\"\n\
             upstream = \"http://{}\"\nsecret = \"{SECRET}\"\n{more}\n",
            upstream.address()
        )
    };
    let routes = route("zendesk", "") + &route("own", "methods = [\"POST\"]");
    let gateway = Setup::new(&upstream).routes(&routes).start();
    for (number, method) in ["POST", "PUT", "PATCH", "DELETE", "GET"].into_iter().enumerate() {
        let id = format!("event-{number}");
        let mut call = signed("zendesk", "", &[("x-zendesk-webhook-invocation-id", &id)]);
        call.method = method;
        assert_eq!(outcome(&gateway.call(&call).await), (200, None), "{method}");
        call.target = "/own".to_owned();
        let expected = if method == "POST" { 200 } else { 405 };
        assert_eq!(gateway.call(&call).await.status, expected, "{method}");
    }
    assert_eq!(upstream.requests().len(), 6);
}
