//! Keys that requests name: a real TLS server plays the sender's host. The built-in schemes are
//! tested with this host in place of the pinned one.

use std::{path::Path, time::Duration};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{Value, json};

use crate::kit::{
    Authority, Call, Gateway, Issuer, KeyServer, Reply, Serves, Setup, Upstream, now_ms, sha256,
    until,
};

/// The most fetches within a minute.
const FETCHES_A_MINUTE: usize = 5;
const TOPIC: &str = "arn:aws:sns:eu-west-1:123456789012:orders";

/// Returns a built-in scheme as `[schemes.NAME]` with another host.
fn scheme(name: &str, id: &str, host: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("schemes/{id}.toml"));
    let text = std::fs::read_to_string(file).expect("a scheme");
    let mut lines = vec![format!("[schemes.{name}]")];
    // The first line is the ID.
    for line in text.lines().skip(1) {
        let bare = line.trim_start_matches('[');
        lines.push(match line.len() - bare.len() {
            1 if line.ends_with(']') => format!("[schemes.{name}.{bare}"),
            2 if line.ends_with("]]") => format!("[[schemes.{name}.{bare}"),
            _ if line.starts_with("host = ") => format!("host = \"{host}\""),
            _ => line.to_owned(),
        });
    }
    let text = lines.join("\n");
    assert!(text.contains(host), "{text}");
    text + "\n"
}

struct Stage {
    upstream: Upstream,
    host: KeyServer,
    authority: Authority,
    gateway: Gateway,
}

impl Stage {
    /// Starts a gateway whose route has this scheme and settings.
    async fn start(id: &str, settings: &str) -> Stage {
        let authority = Authority::new();
        let tls = authority.server("localhost", None);
        let nothing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned();
        let host = KeyServer::start_tls(Serves::Raw(nothing), tls).await;
        let upstream = Upstream::start().await;
        let route = format!(
            "[[route]]\nname = \"r\"\npath = \"/in\"\nscheme = \"mine\"\nkeys_ca = \"ca.pem\"\n\
             upstream = \"http://{}\"\n[route.settings]\n{settings}\n{}",
            upstream.address(),
            scheme("mine", id, &host.host()),
        );
        let setup = Setup::new(&upstream).plain().routes(&route);
        let setup = setup.server("trusted_proxies = [\"127.0.0.0/8\"]");
        authority.write(&setup.dir.path().join("ca.pem"));
        Stage { upstream, host, authority, gateway: setup.start() }
    }

    async fn send(&self, call: &Call) -> Reply {
        self.gateway.connect_plain().await.exchange(&call.bytes()).await
    }

    /// Waits until a request is accepted; until then its response is 503.
    async fn accepted(&self, call: &Call) {
        let settled = || async {
            let reply = self.send(call).await;
            assert!(matches!(reply.status, 200 | 503), "{}", reply.head);
            reply.status == 200
        };
        until("the key is fetched", settled).await;
    }

    /// Waits until a request is rejected; until then its response is 503.
    async fn rejected(&self, call: &Call) {
        let settled = || async {
            let reply = self.send(call).await;
            assert!(matches!(reply.status, 401 | 503), "{}", reply.head);
            reply.status == 401
        };
        until("the key is known to be bad", settled).await;
    }

    /// Sends a request and waits until the host was asked for its key, which must not be accepted.
    async fn unavailable(&self, call: &Call, what: &str) {
        let before = self.host.requests().len();
        assert_eq!(self.send(call).await.status, 503, "{what}");
        self.host.asked(before + 1).await;
        let reply = self.send(call).await;
        assert_eq!(reply.status, 503, "{what}: {}", reply.head);
        assert!(reply.header("retry-after").is_some(), "{what}");
    }
}

/// A sender of SNS messages.
struct Sns {
    key: Issuer,
    certificate: String,
}

impl Sns {
    fn new(stage: &Stage, certificate: &str) -> Sns {
        let key = Issuer::new("sns");
        let pem = stage.authority.signing("sns.amazonaws.com", &key.pkcs8(), None);
        stage.host.serve(&Self::path(certificate), Serves::Set(pem));
        Sns { key, certificate: certificate.to_owned() }
    }

    fn path(certificate: &str) -> String {
        format!("/SimpleNotificationService-{certificate}.pem")
    }

    /// Returns a message of a type with further signed members.
    fn message(&self, stage: &Stage, kind: &str, topic: &str, more: &[(&str, &str)]) -> Call {
        let url = format!("https://{}{}", stage.host.host(), Self::path(&self.certificate));
        self.message_at(&url, kind, topic, more)
    }

    fn message_at(&self, url: &str, kind: &str, topic: &str, more: &[(&str, &str)]) -> Call {
        let time = rfc3339(now_ms() / 1000);
        let mut members = vec![("MessageId", "m-1"), ("Message", "hello"), ("Timestamp", &time)];
        members.extend([("TopicArn", topic), ("Type", kind)]);
        for member in more {
            members.retain(|(name, _)| name != &member.0);
            members.push(*member);
        }
        members.sort_unstable();
        let signed: String =
            members.iter().map(|(name, value)| format!("{name}\n{value}\n")).collect();
        let mut body: serde_json::Map<String, Value> =
            members.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        body.insert("SignatureVersion".to_owned(), json!("2"));
        body.insert(
            "Signature".to_owned(),
            json!(BASE64.encode(&self.key.sign(signed.as_bytes()))),
        );
        body.insert("SigningCertURL".to_owned(), json!(url));
        Call::post("/in", &Value::Object(body).to_string())
    }

    fn event(&self, stage: &Stage, id: &str) -> Call {
        self.message(stage, "Notification", TOPIC, &[("MessageId", id)])
    }
}

/// Returns a time in RFC 3339.
fn rfc3339(seconds: u64) -> String {
    let time = time::OffsetDateTime::UNIX_EPOCH + Duration::from_secs(seconds);
    time.format(&time::format_description::well_known::Rfc3339).expect("text")
}

async fn sns() -> Stage {
    Stage::start("amazon-sns", &format!("topic = [\"{TOPIC}\"]\nregion = \"eu-west-1\"")).await
}

#[tokio::test]
async fn accepts_what_a_fetched_certificate_proves() {
    let stage = sns().await;
    let sender = Sns::new(&stage, "one");
    let event = sender.event(&stage, "e-1");
    assert_eq!(stage.send(&event).await.status, 503, "the certificate is not in memory");
    stage.accepted(&event).await;
    let copy = stage.send(&event).await;
    assert_eq!((copy.status, copy.header("sealgate-answer")), (200, Some("duplicate")));
    let changed = String::from_utf8_lossy(&event.body).replace("hello", "hallo");
    let changed = event.tampered(&changed);
    assert_eq!(stage.send(&changed).await.status, 401);
    // The next certificate is fetched when a message names it.
    let next = Sns::new(&stage, "two");
    stage.accepted(&next.event(&stage, "e-2")).await;
    stage.accepted(&sender.event(&stage, "e-3")).await;
    assert_eq!(stage.host.requests().len(), 2);
    assert_eq!(stage.upstream.requests().len(), 3);
}

#[tokio::test]
async fn fetches_nothing_for_other_addresses_and_topics() {
    let stage = sns().await;
    let sender = Sns::new(&stage, "one");
    let host = stage.host.host();
    let path = Sns::path("one");
    for url in [
        format!("http://{host}{path}"),
        format!("https://x@{host}{path}"),
        format!("https://localhost{path}"),
        format!("https://{host}{path}?a=.pem"),
        format!("https://{host}/../{path}"),
        format!("https://{host}/SimpleNotificationService-a/b.pem"),
        format!("https://sns.example.com{path}"),
        String::new(),
    ] {
        let call = sender.message_at(&url, "Notification", TOPIC, &[]);
        let reply = stage.send(&call).await;
        assert_eq!(reply.status, 401, "{url}: {}", reply.head);
    }
    let other = sender.message(&stage, "Notification", "arn:aws:sns:eu-west-1:1:other", &[]);
    assert_eq!(stage.send(&other).await.status, 401);
    stage.accepted(&sender.event(&stage, "e")).await;
    assert_eq!(stage.send(&other).await.status, 401, "whatever is known of the certificate");
    assert_eq!(stage.host.requests().len(), 1);
    assert_eq!(stage.upstream.requests().len(), 1);
}

#[tokio::test]
async fn rejects_certificates_of_others() {
    let stage = sns().await;
    let sender = Sns::new(&stage, "good");
    let key = sender.key.pkcs8();
    let elsewhere = Authority::new();
    let cases = [
        ("name", stage.authority.signing("www.amazonaws.com", &key, None)),
        ("expired", stage.authority.signing("sns.amazonaws.com", &key, Some(2020))),
        ("forged", elsewhere.signing("sns.amazonaws.com", &key, None)),
    ];
    for (name, pem) in cases {
        stage.host.serve(&Sns::path(name), Serves::Set(pem));
        let url = format!("https://{}{}", stage.host.host(), Sns::path(name));
        let call = sender.message_at(&url, "Notification", TOPIC, &[]);
        stage.rejected(&call).await;
        assert_eq!(stage.send(&call).await.status, 401, "{name}");
    }
    assert_eq!(stage.host.requests().len(), 3, "a bad certificate is not fetched again at once");
    assert!(stage.upstream.requests().is_empty());
}

#[tokio::test]
async fn accepts_nothing_while_the_certificate_cannot_be_fetched() {
    let answer = |head: &str| Serves::Raw(format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n"));
    let target = format!("302 Found\r\nLocation: {}", Sns::path("target"));
    let large = format!("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{}", "x".repeat(100_000));
    let cases = [
        ("redirect", answer(&target)),
        ("forbidden", answer("403 Forbidden")),
        ("oversized", Serves::Raw(large)),
        ("broken", Serves::Raw("nonsense\r\n\r\n".to_owned())),
    ];
    for (name, serves) in cases {
        let stage = sns().await;
        let sender = Sns::new(&stage, "target");
        stage.host.serve(&Sns::path(name), serves);
        let url = format!("https://{}{}", stage.host.host(), Sns::path(name));
        let call = sender.message_at(&url, "Notification", TOPIC, &[]);
        stage.unavailable(&call, name).await;
        assert!(stage.upstream.requests().is_empty(), "{name}");
        let followed = |head: &String| head.contains("-target.pem");
        assert!(!stage.host.requests().iter().any(followed), "{name}");
    }
}

#[tokio::test]
async fn a_flood_of_unknown_certificates_does_not_keep_others_waiting() {
    let stage = sns().await;
    let sender = Sns::new(&stage, "genuine");
    let mut connection = stage.gateway.connect_plain().await;
    for number in 0..200 {
        let url = format!("https://{}{}", stage.host.host(), Sns::path(&format!("f{number}")));
        let call = sender.message_at(&url, "Notification", TOPIC, &[]);
        let call = call.with("X-Forwarded-For", "203.0.113.9");
        let reply = connection.exchange(&call.bytes()).await;
        assert!(matches!(reply.status, 401 | 503), "{}", reply.head);
        if number == 20 {
            let event = sender.event(&stage, "e-1").with("X-Forwarded-For", "198.51.100.7");
            assert_eq!(stage.send(&event).await.status, 503);
        }
    }
    stage.accepted(&sender.event(&stage, "e-1").with("X-Forwarded-For", "198.51.100.7")).await;
    assert!(stage.host.requests().len() <= FETCHES_A_MINUTE);
    assert_eq!(stage.host.most_at_once(), 1);
}

#[tokio::test]
async fn confirms_subscriptions_of_the_configured_topics() {
    let stage = sns().await;
    let sender = Sns::new(&stage, "one");
    stage.accepted(&sender.event(&stage, "e-1")).await;
    let confirm = |topic: &str, token: &str| {
        let more = [("SubscribeURL", "https://elsewhere.example.com/"), ("Token", token)];
        sender.message(&stage, "SubscriptionConfirmation", topic, &more)
    };
    let path = format!("/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=t0k3n");
    assert_eq!(stage.send(&confirm(TOPIC, "t0k3n")).await.status, 503, "the host says 404");
    stage.host.serve(&path, Serves::Set("<ConfirmSubscriptionResponse/>".to_owned()));
    let reply = stage.send(&confirm(TOPIC, "t0k3n")).await;
    assert_eq!((reply.status, reply.header("sealgate-answer")), (200, Some("handshake")));
    let asked = stage.host.requests();
    assert_eq!(asked.iter().filter(|head| head.starts_with(&format!("GET {path} "))).count(), 2);
    // Nothing is requested for another topic, without a signature, or beyond the path.
    assert_eq!(stage.send(&confirm("arn:aws:sns:eu-west-1:1:other", "t0k3n")).await.status, 401);
    let forged = confirm(TOPIC, "t0k3n");
    let other = String::from_utf8_lossy(&forged.body).replace("t0k3n", "other");
    let forged = forged.tampered(&other);
    assert_eq!(stage.send(&forged).await.status, 401);
    assert_eq!(stage.send(&confirm(TOPIC, "a&Action=Other")).await.status, 401);
    let more = [("SubscribeURL", "https://elsewhere.example.com/"), ("Token", "t0k3n")];
    let ended = sender.message(&stage, "UnsubscribeConfirmation", TOPIC, &more);
    assert_eq!(stage.send(&ended).await.status, 200);
    assert_eq!(stage.host.requests().len(), asked.len());
    assert_eq!(stage.upstream.requests().len(), 1, "only the event is forwarded");
}

#[tokio::test]
async fn requests_keys_of_an_api_with_a_credential() {
    let secret = "a-secret-of-the-tests-0001";
    let stage =
        Stage::start("plaid", &format!("client_id = \"client\"\nclient_secret = \"{secret}\""))
            .await;
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let point = pair.public_key().as_ref();
    let jwk = json!({
        "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k1", "expired_at": null,
        "x": BASE64URL_NOPAD.encode(&point[1..33]), "y": BASE64URL_NOPAD.encode(&point[33..]),
    });
    let token = |kid: &str, body: &str| {
        let part = |value: Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let claims =
            json!({"iat": now_ms() / 1000, "request_body_sha256": sha256(body.as_bytes())});
        let signed = format!("{}.{}", part(json!({"alg": "ES256", "kid": kid})), part(claims));
        let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).expect("signed");
        format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    };
    let event = |kid: &str| {
        let body = "{\"webhook_type\":\"ITEM\"}";
        Call::post("/in", body).with("Plaid-Verification", &token(kid, body))
    };
    let path = "/webhook_verification_key/get";
    let failure = "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_owned();
    stage.host.serve(path, Serves::Raw(failure));
    stage.unavailable(&event("k1"), "the API fails").await;
    stage.host.serve(path, Serves::Set(json!({ "key": jwk }).to_string()));
    stage.accepted(&event("k1")).await;
    let asked = stage.host.requests().pop().expect("a request");
    assert!(asked.starts_with(&format!("POST {path} HTTP/1.1\r\n")), "{asked}");
    let sent: Value =
        serde_json::from_str(asked.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON");
    assert_eq!(sent, json!({"client_id": "client", "secret": secret, "key_id": "k1"}));
    stage.host.serve(path, Serves::Raw("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n".to_owned()));
    stage.rejected(&event("k2")).await;
    let count = stage.host.requests().len();
    assert_eq!(stage.send(&event("../k1")).await.status, 401);
    assert_eq!(stage.send(&event("k1")).await.status, 200, "the old key serves");
    assert_eq!(stage.host.requests().len(), count);
}

#[tokio::test]
async fn requests_keys_with_an_application_token_and_answers_the_challenge() {
    let secret = "a-secret-of-the-tests-0001";
    let settings = format!(
        "client_id = \"client\"\nclient_secret = \"{secret}\"\n\
         verification_token = \"71745723-d031-455c-bfa5-f90d11b4f20a\"\n\
         endpoint = \"https://hooks.example.com/ebay\""
    );
    let stage = Stage::start("ebay", &settings).await;
    let challenge = stage.send(&Call::new("GET", "/in?challenge_code=a8628072-3d33", "")).await;
    let code = "a8628072-3d3371745723-d031-455c-bfa5-f90d11b4f20ahttps://hooks.example.com/ebay";
    let expected = format!("{{\"challengeResponse\":\"{}\"}}", sha256(code.as_bytes()));
    assert_eq!((challenge.status, challenge.text()), (200, expected));
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/published.json");
    let vectors = std::fs::read_to_string(vectors).expect("vectors");
    let vectors: Value = serde_json::from_str(&vectors).expect("JSON");
    let vectors = vectors["vectors"].as_array().expect("a list");
    let vector = vectors.iter().find(|vector| vector["name"] == "ebay-valid").expect("a vector");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let keys: Value = serde_json::from_str(&text(&vector["keys"])).expect("JSON");
    let (kid, key) = keys.as_object().and_then(|keys| keys.iter().next()).expect("a key");
    let event = Call::post("/in", &text(&vector["body"]))
        .with("X-EBAY-SIGNATURE", &text(&vector["headers"][0][1]));
    let key_path = format!("/commerce/notification/v1/public_key/{kid}");
    stage.host.serve(&key_path, Serves::Set(text(key)));
    stage.unavailable(&event, "no application token").await;
    let token = json!({"access_token": "app-token", "expires_in": u64::MAX});
    stage.host.serve("/identity/v1/oauth2/token", Serves::Set(token.to_string()));
    stage.accepted(&event).await;
    let asked = stage.host.requests();
    let credentials = BASE64.encode(format!("client:{secret}").as_bytes());
    let asks_token = asked.iter().find(|asked| asked.starts_with("POST /identity/v1/oauth2/token"));
    let asks_token = asks_token.expect("a token is requested");
    assert!(asks_token.contains(&format!("authorization: Basic {credentials}\r\n")));
    assert!(asks_token.ends_with(
        "grant_type=client_credentials&scope=https%3A%2F%2Fapi.ebay.com%2Foauth%2Fapi_scope"
    ));
    let asks_key = asked.iter().find(|asked| asked.starts_with(&format!("GET {key_path} ")));
    assert!(asks_key.expect("asked").contains("authorization: Bearer app-token\r\n"));
    assert_eq!(stage.upstream.requests().len(), 1);
}
