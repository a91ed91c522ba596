//! Pitchpoint: a token that proves the sender but not the body, keys from a file or over HTTPS, 403
//! for an invalid token and 503 for one that cannot be verified now.

use serde_json::{Value, json};

use super::all_refused;
use crate::kit::{
    Answer, Authority, Call, Gateway, Issuer, KeyServer, Process, Serves, Setup, Upstream,
    hmac_token, key_set, now_ms, unsigned_token, until,
};

const PATH: &str = "/webhooks/pitchpoint";

/// Returns the route with these `jwks` lines.
pub(crate) fn route(upstream: &Upstream, jwks: &str) -> String {
    format!(
        "[[route]]\nname = \"pitchpoint\"\npath = \"{PATH}\"\nscheme = \"pitchpoint\"\n\
         upstream = \"http://{}\"\n[route.jwt]\n\
         issuer = \"https://securetoken.google.com/acme\"\naudience = \"acme\"\n\
         subject = [\"svc-webhooks\", \"svc-other\"]\n{jwks}\n",
        upstream.address()
    )
}

/// Returns the claims of a token issued now.
pub(crate) fn claims() -> Value {
    let now = now_ms() / 1000;
    json!({
        "iss": "https://securetoken.google.com/acme", "aud": "acme", "sub": "svc-webhooks",
        "user_id": "svc-webhooks", "auth_time": now - 5, "iat": now - 5, "exp": now + 3595,
        "email": "svc@acme.example", "email_verified": true,
    })
}

/// Returns the claims with some replaced or removed (`null`).
fn but(changes: &Value) -> Value {
    let mut claims = claims();
    let all = claims.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => all.remove(name),
            value => all.insert(name.clone(), value.clone()),
        };
    }
    claims
}

/// Returns a request as the guide describes it, with this token.
pub(crate) fn call(token: &str, id: &str, body: &str) -> Call {
    Call::post(PATH, body)
        .with("Authorization", &format!("Bearer {token}"))
        .with("X-Pps-Topic", "orders/placed")
        .with("X-Pps-Sub-Topic", "product:adv/adv-120")
        .with("X-Pps-Tenant-Id", "OU1243")
        .with("X-Pps-Webhook-Id", id)
        .with("X-Pps-Triggered-At", "2024-01-1T10:00:00.7777748Z")
}

fn with_file(upstream: &Upstream, issuers: &[&Issuer]) -> Gateway {
    let setup = Setup::new(upstream).routes(&route(upstream, "jwks = \"file:keys.json\""));
    std::fs::write(setup.dir.path().join("keys.json"), key_set(issuers)).expect("written");
    setup.start()
}

#[tokio::test]
async fn webhook_id_and_body_identify_the_event() {
    let upstream = Upstream::start().await;
    let issuer = Issuer::new("k1");
    let gateway = with_file(&upstream, &[&issuer]);
    let first = call(&issuer.token(&claims()), "279e4e55", "{\"order\":1}");
    upstream.answer([Answer::Status(500)]);
    assert_eq!(gateway.call(&first).await.status, 500);
    let retry =
        call(&issuer.token(&but(&json!({"iat": 1_700_000_000}))), "279e4e55", "{\"order\":1}");
    assert_eq!(gateway.call(&retry).await.status, 200);
    let again = gateway.call(&first).await;
    assert_eq!((again.status, again.header("sealgate-answer")), (200, Some("duplicate")));
    assert_eq!(upstream.requests().len(), 2);
    let seen = upstream.requests().pop().expect("forwarded");
    assert_eq!(seen.header("sealgate-event-id"), Some("279e4e55"));
    assert_eq!(seen.header("sealgate-verified"), Some("pitchpoint"));
    assert_eq!(seen.header("x-pps-topic"), Some("orders/placed"));
    // The token covers neither: another body or another ID is another event, not a duplicate.
    let token = issuer.token(&claims());
    assert_eq!(gateway.call(&call(&token, "279e4e55", "{\"order\":2}")).await.status, 200);
    assert_eq!(gateway.call(&call(&token, "279e4e56", "{\"order\":1}")).await.status, 200);
    assert_eq!(upstream.requests().len(), 4);
    // The same event with another topic is not a retry.
    let other = first.clone().set("X-Pps-Topic", "orders/cancelled");
    assert_eq!(gateway.call(&other).await.status, 409);
    assert_eq!(upstream.requests().len(), 4);
    // Without an ID, which every request should have, the body identifies the event.
    let nameless = call(&token, "", "{\"order\":3}").without("X-Pps-Webhook-Id");
    assert_eq!(gateway.call(&nameless).await.status, 200);
    assert_eq!(gateway.call(&nameless).await.header("sealgate-answer"), Some("duplicate"));
}

#[tokio::test]
async fn a_bad_token_is_403_with_its_reason() {
    let upstream = Upstream::start().await;
    let (issuer, stranger) = (Issuer::new("k1"), Issuer::new("k1"));
    let gateway = with_file(&upstream, &[&issuer]);
    let now = now_ms() / 1000;
    let with = |token: &str| call(token, "id-1", "{}");
    let changed = |changes: Value| with(&issuer.token(&but(&changes)));
    let header = |header: Value| with(&issuer.token_with(&header, &claims()));
    let good = issuer.token(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    let der = issuer.public_der();
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        data_encoding::BASE64.encode(&der)
    );
    let hs256 = json!({"alg": "HS256", "typ": "JWT", "kid": "k1"});
    let evil = json!({"alg": "RS256", "kid": "k1", "jwk": stranger.jwk()});
    let elsewhere = json!({
        "alg": "RS256", "kid": "k1",
        "jku": "http://127.0.0.1:9/keys", "x5u": "http://127.0.0.1:9/cert",
    });
    all_refused(
        &gateway,
        403,
        vec![
            ("no token", with(&good).without("Authorization"), "missing_header"),
            ("two tokens", with(&good).with("Authorization", "Bearer x"), "duplicate_header"),
            ("basic", with(&good).set("Authorization", "Basic YTpi"), "malformed_token"),
            ("a token alone", with(&good).set("Authorization", &good), "malformed_token"),
            ("two parts", with(&format!("{}.{}", parts[0], parts[1])), "malformed_token"),
            ("four parts", with(&format!("{good}.x")), "malformed_token"),
            (
                "padded",
                with(&format!("{}=.{}.{}", parts[0], parts[1], parts[2])),
                "malformed_token",
            ),
            (
                "padded signature",
                with(&format!("{}.{}.dGVzdA==", parts[0], parts[1])),
                "malformed_token",
            ),
            (
                "base64, not base64url",
                with(&format!("{}.{}.ab+/", parts[0], parts[1])),
                "malformed_token",
            ),
            (
                "critical extension",
                header(json!({"alg": "RS256", "kid": "k1", "crit": ["b64"]})),
                "malformed_token",
            ),
            ("alg is a number", header(json!({"alg": 256, "kid": "k1"})), "malformed_token"),
            ("exp is text", changed(json!({"exp": (now + 60).to_string()})), "malformed_token"),
            ("exp is a fraction", changed(json!({"exp": 1.5e9})), "malformed_token"),
            (
                "none",
                with(&unsigned_token(&json!({"alg": "none", "kid": "k1"}), &claims())),
                "bad_alg",
            ),
            (
                "None",
                with(&unsigned_token(&json!({"alg": "None", "kid": "k1"}), &claims())),
                "bad_alg",
            ),
            (
                "HS256 under the PEM",
                with(&hmac_token(&hs256, &claims(), pem.as_bytes())),
                "bad_alg",
            ),
            ("HS256 under the DER", with(&hmac_token(&hs256, &claims(), &der)), "bad_alg"),
            ("RS512", header(json!({"alg": "RS512", "kid": "k1"})), "bad_alg"),
            (
                "an HMAC called RS256",
                with(&hmac_token(&json!({"alg": "RS256", "kid": "k1"}), &claims(), pem.as_bytes())),
                "bad_signature",
            ),
            ("another kid", header(json!({"alg": "RS256", "kid": "k2"})), "unknown_kid"),
            ("a stranger's key", with(&stranger.token(&claims())), "bad_signature"),
            ("a key in the token", with(&stranger.token_with(&evil, &claims())), "bad_signature"),
            (
                "addresses in the token",
                with(&stranger.token_with(&elsewhere, &claims())),
                "bad_signature",
            ),
            (
                "other claims under the signature",
                with(&format!(
                    "{}.{}.{}",
                    parts[0],
                    data_encoding::BASE64URL_NOPAD
                        .encode(but(&json!({"sub": "svc-other"})).to_string().as_bytes()),
                    parts[2]
                )),
                "bad_signature",
            ),
            (
                "another issuer",
                changed(json!({"iss": "https://securetoken.google.com/other"})),
                "claim",
            ),
            ("no issuer", changed(json!({"iss": null})), "claim"),
            ("another audience", changed(json!({"aud": "other"})), "claim"),
            ("any user of the project", changed(json!({"sub": "a-customer"})), "claim"),
            ("no subject", changed(json!({"sub": null})), "claim"),
            ("no exp", changed(json!({"exp": null})), "claim"),
            ("expired", changed(json!({"exp": now - 120})), "stale"),
            ("not yet", changed(json!({"nbf": now + 600})), "future"),
        ],
    )
    .await;
    assert!(upstream.requests().is_empty(), "nothing was forwarded");
    // Valid variants: one of several audiences, the other subject.
    for (number, changes) in
        [json!({}), json!({"aud": ["x", "acme"]}), json!({"sub": "svc-other"})].iter().enumerate()
    {
        let good = call(&issuer.token(&but(changes)), &format!("good-{number}"), "{}");
        assert_eq!(gateway.call(&good).await.status, 200, "{changes}");
    }
}

#[tokio::test]
async fn fetches_keys_over_https_with_a_private_authority() {
    let upstream = Upstream::start().await;
    let issuer = Issuer::new("k1");
    let setup = Setup::new(&upstream);
    let authority = Authority::new();
    authority.write(&setup.dir.path().join("authority.pem"));
    let tls = authority.server("localhost", None);
    let server = KeyServer::start_tls(Serves::Set(key_set(&[&issuer])), tls).await;
    let jwks = format!("jwks = \"{}\"\njwks_ca = \"authority.pem\"", server.url());
    let setup = setup.routes(&route(&upstream, &jwks));
    // The system's root CAs did not sign its certificate.
    let strict = route(&upstream, &format!("jwks = \"{}\"", server.url()));
    let strict = strict.replace("pitchpoint\"\npath = \"/webhooks", "strict\"\npath = \"/strict");
    let routes = format!("{}{strict}", route(&upstream, &jwks));
    let gateway = setup.routes(&routes).start();
    let one = call(&issuer.token(&claims()), "id-1", "{}");
    let accepted = || async { gateway.call(&one).await.status == 200 };
    until("the keys are fetched", accepted).await;
    let asked = server.requests();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(asked[0].starts_with("GET /keys.json HTTP/1.1\r\n"), "{asked:?}");
    let mut distrustful = call(&issuer.token(&claims()), "id-2", "{}");
    distrustful.target = "/strict/pitchpoint".to_owned();
    let reply = gateway.call(&distrustful).await;
    assert_eq!(reply.status, 503, "no keys, no judgement");
    assert!(reply.header("retry-after").is_some());
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn observe_mode_logs_the_subject_of_a_valid_token() {
    let upstream = Upstream::start().await;
    let (issuer, stranger) = (Issuer::new("k1"), Issuer::new("k1"));
    let text = route(&upstream, "jwks = \"file:keys.json\"")
        .replace("[route.jwt]", "mode = \"observe\"\n[route.jwt]");
    let unpinned = text.replace("subject = [\"svc-webhooks\", \"svc-other\"]\n", "");
    let long = "x".repeat(300);
    let cases = [
        (issuer.token(&but(&json!({"sub": "svc-new"}))), Some("svc-new".to_owned())),
        (
            issuer.token(&but(&json!({"sub": "a\nb \"c\" \u{1b}[31m\u{e9}"}))),
            Some("a\\nb \\\"c\\\" \\u{1b}[31m\\u{e9}".to_owned()),
        ),
        (issuer.token(&but(&json!({"sub": long}))), Some("x".repeat(128))),
        // Of another project, whose owner can choose the subject.
        (issuer.token(&but(&json!({"sub": "svc-evil", "aud": "evil"}))), None),
        (issuer.token(&but(&json!({"sub": "svc-evil", "iss": "evil"}))), None),
        (stranger.token(&but(&json!({"sub": "svc-evil"}))), None),
        (issuer.token(&but(&json!({"sub": 7}))), None),
    ];
    for (routes, known) in [(&text, None), (&unpinned, Some("svc-webhooks".to_owned()))] {
        let setup = Setup::new(&upstream).plain().routes(routes);
        let setup = setup.section("[log]\nunverified_lines = 100");
        let dir = setup.dir.path();
        std::fs::write(dir.join("keys.json"), key_set(&[&issuer])).expect("written");
        let gateway = Process::start(dir, &setup.toml()).await;
        let own = (issuer.token(&claims()), known);
        let cases: Vec<_> = cases.iter().cloned().chain([own]).collect();
        for (number, (token, _)) in cases.iter().enumerate() {
            let call = call(token, &format!("event-{number}"), "{\"order\":1}");
            assert_eq!(gateway.connect().await.exchange(&call.bytes()).await.status, 200);
        }
        let logged = || gateway.lines("request");
        until("every request is logged", || async { logged().len() == cases.len() }).await;
        for (line, (_, expected)) in logged().iter().zip(&cases) {
            assert_eq!(line["subject"].as_str(), expected.as_deref(), "{line}");
        }
    }
    let enforced = unpinned.replace("mode = \"observe\"\n", "");
    let setup = Setup::new(&upstream).plain().routes(&enforced);
    std::fs::write(setup.dir.path().join("keys.json"), key_set(&[&issuer])).expect("written");
    let refused =
        sealgate::internals::config::parse("x", &setup.toml(), setup.dir.path(), &|_| None);
    let refused = refused.expect_err("nobody is pinned").to_string();
    assert!(refused.contains("needs `subject` in [route.jwt]"), "{refused}");
}
