//! Each near miss is produced by a sender that makes exactly this mistake, and must be named
//! exactly.

use std::collections::BTreeSet;

use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use hmac::{Hmac, KeyInit, Mac as _};
use http::{HeaderName, HeaderValue, Request};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::{
    rewrite::{JsonEscapes, JsonLayout},
    *,
};
use crate::scheme::{Credentials, Verifier};

const NOW: i64 = 1_758_184_391_752;
const SECRET: &str = "a-secret-of-the-diagnosis-tests";

fn mac(secret: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any key");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn hex_mac(secret: &str, message: impl AsRef<[u8]>) -> String {
    HEXLOWER.encode(&mac(secret.as_bytes(), message.as_ref()))
}

fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

fn verifier(scheme: &str, credentials: Credentials) -> Verifier {
    let scheme = Scheme::builtin(scheme).expect("built in");
    Verifier::new(scheme, "r", credentials).expect("fitting credentials")
}

fn global(scheme: &str, text: &str) -> Verifier {
    verifier(scheme, Credentials { global: vec![secret(text)], ..Credentials::default() })
}

/// A rejected request and the routes of the gateway that received it.
struct Made {
    route: Verifier,
    others: Vec<(&'static str, Verifier)>,
    target: &'static str,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Made {
    fn new(route: Verifier, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let headers = headers.iter().map(own).collect();
        Made { route, others: Vec::new(), target: "/x", headers, body: body.as_ref().to_vec() }
    }

    fn other(mut self, name: &'static str, route: Verifier) -> Self {
        self.others.push((name, route));
        self
    }

    fn head(&self) -> Parts {
        let (mut head, ()) = Request::post(self.target).body(()).expect("a request").into_parts();
        for (name, value) in &self.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            head.headers.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        head
    }

    fn diagnose(&self) -> Option<(Reason, Vec<NearMiss>)> {
        self.diagnose_with(WorkBudget::LIVE)
    }

    /// Returns why it is rejected, and the near misses; `None` if it is accepted.
    fn diagnose_with(&self, budget: WorkBudget) -> Option<(Reason, Vec<NearMiss>)> {
        let (head, payload) = (self.head(), Payload::from(Bytes::from(self.body.clone())));
        let now = UnixMillis(NOW);
        let reason = match self.route.verify(&head, &payload, now) {
            Ok(verified) if verified.is_stale() => Reason::Stale,
            Ok(_) => return None,
            Err(reject) => reject.reason().expect("a rejection"),
        };
        let route = &self.route.hypothesis();
        let others: Vec<_> = self.others.iter().map(|(name, v)| (*name, v.hypothesis())).collect();
        let case =
            RejectedRequest { head: &head, payload: &payload, now, reason, route, others: &others };
        Some((reason, diagnose(case, budget)))
    }
}

/// Square signs the address and the body: `signed` is signed where `registered` is configured.
fn square(registered: &str, signed: &str, target: &'static str) -> Made {
    let body = r#"{"event_id":"e1"}"#;
    let credentials = Credentials {
        global: vec![secret(SECRET)],
        public_url: Some(registered.to_owned()),
        ..Credentials::default()
    };
    let mac = BASE64.encode(&mac(SECRET.as_bytes(), format!("{signed}{body}").as_bytes()));
    let headers = [("x-square-hmacsha256-signature", &*mac), ("Host", "other.example")];
    Made { target, ..Made::new(verifier("square", credentials), &headers, body) }
}

/// GitHub signs the body and nothing else: `signed` is signed, `sent` is sent.
fn github(signed: impl AsRef<[u8]>, sent: impl AsRef<[u8]>) -> Made {
    let signature = format!("sha256={}", hex_mac(SECRET, signed));
    let headers = [("X-Hub-Signature-256", &*signature), ("X-GitHub-Delivery", "d-1")];
    Made::new(global("github", SECRET), &headers, sent)
}

/// A GitHub request whose signature is given, and where it stands.
fn github_as(name: &str, value: &str, body: &str) -> Made {
    Made::new(global("github", SECRET), &[(name, value), ("X-GitHub-Delivery", "d-1")], body)
}

/// Signed with `signing`, configured with `configured`.
fn github_under(signing: &str, configured: &str) -> Made {
    let signature = format!("sha256={}", hex_mac(signing, "{}"));
    let headers = [("X-Hub-Signature-256", &*signature), ("X-GitHub-Delivery", "d-1")];
    Made::new(global("github", configured), &headers, "{}")
}

fn vivoldi_message(t: &str, body: &[u8]) -> String {
    format!("{t}.e1.{}", sha256(body))
}

fn vivoldi_route() -> Verifier {
    let credentials = Credentials {
        global: vec![secret(SECRET)],
        groups: vec![("coupon".into(), 574, vec![secret("the-secret-of-coupon-574")])],
        ..Credentials::default()
    };
    verifier("vivoldi", credentials)
}

fn vivoldi(signature: &str, more: &[(&str, &str)], body: &str) -> Made {
    let mut headers = vec![("X-Vivoldi-Event-Id", "e1"), ("X-Vivoldi-Signature", signature)];
    headers.extend_from_slice(more);
    Made::new(vivoldi_route(), &headers, body)
}

fn vivoldi_signed(secret: &str, t: &str, message: &str) -> String {
    format!("t={t},v1={},alg=hmac-sha256", hex_mac(secret, message))
}

fn stripe(secret: &str, t: &str, message: &str) -> Made {
    let signature = format!("t={t},v1={}", hex_mac(secret, message));
    let route = global("stripe", SECRET);
    Made::new(route, &[("Stripe-Signature", &*signature)], r#"{"id":"evt_1"}"#)
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(plain).expect("memory");
    encoder.finish().expect("memory")
}

fn seconds() -> String {
    (NOW / 1000).to_string()
}

/// Every near miss: its code, the reason for which the request is rejected, and the request.
fn table() -> Vec<(&'static str, Reason, Made)> {
    use Reason::{
        BadSignature, Future, MalformedBody, MalformedSignature, MalformedTimestamp, MissingHeader,
        Stale, UnknownKey,
    };
    const COMPACT: &str = r#"{"b":[1,2.50],"a":{"url":"https://x.example/é","n":{}}}"#;
    const PHP: &str = r#"{"b":[1,2.50],"a":{"url":"https:\/\/x.example\/\u00e9","n":{}}}"#;
    const PYTHON: &str = r#"{"b": [1, 2.50], "a": {"url": "https://x.example/\u00e9", "n": {}}}"#;
    const TWO: &str = "{\n  \"b\": [\n    1,\n    2.50\n  ],\n  \"a\": {\n    \
                       \"url\": \"https://x.example/é\",\n    \"n\": {}\n  }\n}";
    const FOUR: &str = "{\n    \"b\": [\n        1,\n        2.50\n    ],\n    \"a\": {\n        \
                        \"url\": \"https:\\/\\/x.example\\/\\u00e9\",\n        \"n\": {}\n    }\n}";
    let now = NOW.to_string();
    let group = [("X-Vivoldi-Webhook-Type", "GROUP"), ("X-Vivoldi-Resource-Type", "COUPON")];
    let named = |t: &str, body: &str| vivoldi_message(t, body.as_bytes());
    let json = "{\"grpIdx\":574}";
    let raw = |body: &str| hex_mac(SECRET, body);
    let base64 = |body: &str| BASE64.encode(&mac(SECRET.as_bytes(), body.as_bytes()));
    let whsec = "bWZtc2VjcmV0bWZtc2VjcmV0bWZtc2VjcmV0";
    let standard = |key: &[u8]| {
        let message = format!("msg_1.{}.{{}}", seconds());
        let signature = format!("v1,{}", BASE64.encode(&mac(key, message.as_bytes())));
        let headers = [
            ("webhook-id", "msg_1"),
            ("webhook-timestamp", &*seconds()),
            ("webhook-signature", &*signature),
        ];
        Made::new(global("standard-webhooks", whsec), &headers, "{}")
    };
    let late = |t: i64| {
        vivoldi(&vivoldi_signed(SECRET, &t.to_string(), &named(&t.to_string(), json)), &[], json)
    };
    vec![
        // Secrets.
        (
            "other_key",
            BadSignature,
            vivoldi(
                &vivoldi_signed("the-secret-of-coupon-574", &now, &named(&now, json)),
                &[],
                json,
            ),
        ),
        (
            "other_key",
            UnknownKey,
            vivoldi(
                &vivoldi_signed(SECRET, &now, &named(&now, r#"{"grpIdx":575}"#)),
                &group,
                r#"{"grpIdx":575}"#,
            ),
        ),
        (
            "other_route_key",
            BadSignature,
            github_under("the-secret-of-the-other", SECRET)
                .other("second", global("stripe", "the-secret-of-the-other")),
        ),
        (
            "other_route",
            MissingHeader,
            Made::new(
                global("stripe", SECRET),
                &[
                    ("X-Hub-Signature-256", &*format!("sha256={}", hex_mac("of-the-other", "{}"))),
                    ("X-GitHub-Delivery", "d"),
                ],
                "{}",
            )
            .other("hub", global("github", "of-the-other")),
        ),
        (
            "other_scheme",
            MissingHeader,
            Made::new(
                global("stripe", SECRET),
                &[
                    ("X-Shopify-Hmac-Sha256", &*base64("{}")),
                    ("X-Shopify-Webhook-Id", "1"),
                    ("X-Shopify-Event-Id", "1"),
                    ("X-Shopify-Topic", "a"),
                    ("X-Shopify-Shop-Domain", "a"),
                ],
                "{}",
            ),
        ),
        ("secret_has_space", BadSignature, github_under(SECRET, &format!("{SECRET}\r"))),
        ("secret_has_space", BadSignature, github_under(SECRET, &format!(" {SECRET}\n"))),
        ("secret_lacks_space", BadSignature, github_under(&format!("{SECRET}\n"), SECRET)),
        ("secret_lacks_space", BadSignature, github_under(&format!("{SECRET}\r\n"), SECRET)),
        ("secret_lacks_space", BadSignature, github_under(&format!(" {SECRET}"), SECRET)),
        ("secret_quoted", BadSignature, github_under(SECRET, &format!("\"{SECRET}\""))),
        ("secret_quoted", BadSignature, github_under(SECRET, &format!("'{SECRET}'\n"))),
        ("secret_form", BadSignature, standard(whsec.as_bytes())),
        // Bodies.
        ("body_newline_added", BadSignature, github("{}", "{}\n")),
        ("body_newline_added", BadSignature, github("{}", "{}\r\n")),
        ("body_newline_removed", BadSignature, github("{}\n", "{}")),
        ("body_newline_removed", BadSignature, github("{}\r\n", "{}")),
        ("body_lf_to_crlf", BadSignature, github("{\n}\n", "{\r\n}\r\n")),
        ("body_lf_to_crlf", BadSignature, github("{\n}", "{\r\n}\r\n")),
        ("body_crlf_to_lf", BadSignature, github("{\r\n}\r\n", "{\n}\n")),
        ("body_bom_added", BadSignature, github("{}", "\u{feff}{}")),
        (
            "body_bom_added",
            MalformedBody,
            vivoldi(
                &vivoldi_signed("the-secret-of-coupon-574", &now, &named(&now, json)),
                &group,
                &format!("\u{feff}{json}"),
            ),
        ),
        ("body_bom_removed", BadSignature, github("\u{feff}{}", "{}")),
        ("body_json_compact", BadSignature, github(COMPACT, FOUR)),
        ("body_json_compact", BadSignature, github(PHP, COMPACT)),
        ("body_json_compact", BadSignature, github(r#"{"a":"\u003cb\u003e"}"#, r#"{"a":"<b>"}"#)),
        ("body_json_spaced", BadSignature, github(PYTHON, COMPACT)),
        ("body_json_indented_2", BadSignature, github(TWO, PHP)),
        ("body_json_indented_4", BadSignature, github(FOUR, COMPACT)),
        ("body_compressed", BadSignature, github(COMPACT, gzip(COMPACT.as_bytes()))),
        ("body_decompressed", BadSignature, github(gzip(COMPACT.as_bytes()), COMPACT)),
        // Messages.
        ("digest_for_body", BadSignature, github(sha256(b"{}"), "{}")),
        (
            "body_for_digest",
            BadSignature,
            vivoldi(&vivoldi_signed(SECRET, &now, &format!("{now}.e1.{json}")), &[], json),
        ),
        (
            "timestamp_unit",
            MalformedTimestamp,
            stripe(SECRET, &now, &format!("{now}.{{\"id\":\"evt_1\"}}")),
        ),
        (
            "timestamp_signed_unit",
            BadSignature,
            stripe(SECRET, &seconds(), &format!("{}000.{{\"id\":\"evt_1\"}}", seconds())),
        ),
        (
            "timestamp_signed_unit",
            BadSignature,
            vivoldi(&vivoldi_signed(SECRET, &now, &named(&seconds(), json)), &[], json),
        ),
        // Signatures.
        (
            "signature_encoding",
            MalformedSignature,
            github_as("X-Hub-Signature-256", &format!("sha256={}", base64("{}")), "{}"),
        ),
        (
            "signature_encoding",
            MalformedSignature,
            github_as(
                "X-Hub-Signature-256",
                &format!("sha256={}", BASE64.encode(raw("{}").as_bytes())),
                "{}",
            ),
        ),
        (
            "signature_prefix_missing",
            MalformedSignature,
            github_as("X-Hub-Signature-256", &raw("{}"), "{}"),
        ),
        (
            "signature_prefix_missing signature_prefix_extra",
            MalformedSignature,
            github_as("X-Hub-Signature-256", &format!("v1={}", raw("{}")), "{}"),
        ),
        (
            "signature_prefix_missing signature_encoding",
            MalformedSignature,
            github_as("X-Hub-Signature-256", &base64("{}"), "{}"),
        ),
        (
            "signature_prefix_extra",
            MalformedSignature,
            Made::new(
                global("shopify", SECRET),
                &[
                    ("X-Shopify-Hmac-Sha256", &*format!("sha256={}", base64("{}"))),
                    ("X-Shopify-Webhook-Id", "1"),
                    ("X-Shopify-Event-Id", "1"),
                ],
                "{}",
            ),
        ),
        (
            "signature_form",
            MalformedSignature,
            vivoldi(
                &format!("t={now};v1={}", hex_mac(SECRET, named(&now, json))),
                &[("X-Vivoldi-Timestamp", &now)],
                json,
            ),
        ),
        (
            "header_name",
            MissingHeader,
            github_as("X_Hub_Signature_256", &format!("sha256={}", raw("{}")), "{}"),
        ),
        (
            "header_name",
            MissingHeader,
            github_as("Hub-Signatur-256", &format!("sha256={}", raw("{}")), "{}"),
        ),
        ("header_name", MissingHeader, github_as("X-Gitea-Signature", &raw("{}"), "{}")),
        // Addresses.
        ("url_scheme", BadSignature, square("https://h.example/x", "http://h.example/x", "/x")),
        ("url_host", BadSignature, square("https://h.example/x", "https://other.example/x", "/x")),
        ("url_port", BadSignature, square("https://h.example/x", "https://h.example:443/x", "/x")),
        ("url_port", BadSignature, square("https://h.example:8443/x", "https://h.example/x", "/x")),
        ("url_slash", BadSignature, square("https://h.example/x", "https://h.example/x/", "/y")),
        ("url_slash", BadSignature, square("https://h.example/x/", "https://h.example/x", "/y")),
        ("url_path", BadSignature, square("https://h.example/y", "https://h.example/x", "/x")),
        (
            "url_encoding",
            BadSignature,
            square("https://h.example/caf%C3%A9", "https://h.example/caf\u{e9}", "/x"),
        ),
        (
            "url_query_order",
            BadSignature,
            square("https://h.example/x?a=1&b=2", "https://h.example/x?b=2&a=1", "/x?b=2&a=1"),
        ),
        (
            "url_query",
            BadSignature,
            square("https://h.example/x?a=1", "https://h.example/x?a=2", "/x?a=2"),
        ),
        // Clocks.
        ("clock", Stale, late(NOW - 600_000)),
        ("clock", Future, late(NOW + 600_000)),
    ]
}

#[test]
fn every_near_miss_is_named() {
    let table: Vec<_> = table().into_iter().chain(custom_rows()).chain(digest_rows()).collect();
    let mut named = BTreeSet::new();
    for (row, (codes, reason, made)) in table.iter().enumerate() {
        let (rejected, found) = made.diagnose().expect("rejected");
        assert_eq!(rejected, *reason, "row {row}: {codes}");
        let found: Vec<_> = found.iter().map(NearMiss::code).collect();
        assert_eq!(found.join(" "), *codes, "row {row}");
        named.extend(found);
    }
    assert_eq!(named, BTreeSet::from(NearMiss::CODES), "every code has a row");
}

#[test]
fn texts_contain_names_and_no_secrets() {
    for (codes, _, made) in table() {
        let (_, found) = made.diagnose().expect("rejected");
        for near_miss in found {
            let text = near_miss.text();
            assert!(text.len() > 40, "{codes}: {text}");
            for word in [SECRET, "the-secret-of", "of-the-other", "bWZtc2"] {
                assert!(!text.contains(word), "{codes}: {text}");
            }
        }
    }
    let table = table();
    let text_of = |code: &str| {
        let (_, _, made) = table.iter().find(|(known, ..)| *known == code).expect("a row");
        made.diagnose().expect("rejected").1[0].text()
    };
    assert!(text_of("other_key").contains("`coupon/574`"));
    assert!(text_of("other_route_key").contains("`second`"));
    assert!(text_of("other_route").contains("`hub`"));
    assert!(text_of("other_scheme").contains("scheme = \"shopify\""));
    assert!(text_of("header_name").contains("`x_hub_signature_256`"));
    assert!(text_of("clock").contains("600 s old"));
}

#[test]
fn an_unrelated_secret_is_not_a_near_miss() {
    let now = NOW.to_string();
    let json = "{\"grpIdx\":574}\n";
    let message = vivoldi_message(&now, json.as_bytes());
    let requests = [
        github_under("quite-another-secret", SECRET).other("second", global("stripe", "third")),
        vivoldi(&vivoldi_signed("quite-another-secret", &now, &message), &[], json),
        stripe("quite-another-secret", &seconds(), "x"),
        github_as("X-Hub-Signature-256", "sha256=", "{}"),
        github_as("X-Other", "1", "{}"),
    ];
    for (row, made) in requests.iter().enumerate() {
        let (_, found) = made.diagnose_with(WorkBudget::OFFLINE).expect("rejected");
        assert_eq!(found, [], "row {row}");
    }
}

#[test]
fn upper_case_hexadecimal_is_accepted() {
    let upper = format!("sha256={}", hex_mac(SECRET, "{}").to_uppercase());
    assert_eq!(github_as("X-Hub-Signature-256", &upper, "{}").diagnose(), None);
    assert_eq!(github_as("x-HUB-signature-256", &upper, "{}").diagnose(), None);
}

#[test]
fn a_diagnosis_stays_within_its_budget() {
    for units in [0, 1000] {
        let budget = WorkBudget { units, ..WorkBudget::LIVE };
        let (_, found) = github("{}", "{}\n").diagnose_with(budget).expect("rejected");
        assert_eq!(found, []);
    }
    let large = format!("{{\"a\": \"{}\"}}", "x".repeat(300 << 10));
    let signed = large.replace(": ", ":");
    let (_, found) = github(&signed, &large).diagnose().expect("rejected");
    assert_eq!(found, [], "too long to be rewritten by a running gateway");
    let (_, found) = github(&signed, &large).diagnose_with(WorkBudget::OFFLINE).expect("rejected");
    assert_eq!(found.len(), 1);
    let bomb = gzip(&vec![0; 4 << 20]);
    assert!(bomb.len() < 16 << 10);
    let (_, found) = github(vec![0; 4 << 20], &bomb).diagnose().expect("rejected");
    assert_eq!(found, [], "the decompressed body is too long");
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    assert_eq!(github("{}", &deep).diagnose().expect("rejected").1, []);
}

#[test]
fn does_nothing_for_reasons_without_near_misses() {
    let made = github("{}", "{}\n");
    let (head, payload) = (made.head(), Payload::from(Bytes::from(made.body.clone())));
    let route = made.route.hypothesis();
    for reason in Reason::ALL.into_iter().filter(|reason| !is_useful(*reason)) {
        let now = UnixMillis(NOW);
        let case = RejectedRequest {
            head: &head,
            payload: &payload,
            now,
            reason,
            route: &route,
            others: &[],
        };
        assert_eq!(diagnose(case, WorkBudget::LIVE), []);
    }
}

fn written(text: &str, layout: JsonLayout, slash: bool, unicode: bool) -> String {
    let tokens = rewrite::tokens(text.as_bytes()).expect("JSON");
    let escapes = JsonEscapes { slash, unicode, html: false };
    let bytes = rewrite::write(&tokens, layout, escapes, 1 << 20).expect("short");
    String::from_utf8(bytes).expect("text")
}

#[test]
fn writes_json_like_php_and_python() {
    let text = r#" {"a" : "x/é\u0001\"\\\u2028😀" , "b":[ ] , "a": -1.0E+2 } "#;
    assert_eq!(
        written(text, JsonLayout::Compact, true, true),
        r#"{"a":"x\/\u00e9\u0001\"\\\u2028\ud83d\ude00","b":[],"a":-1.0E+2}"#
    );
    assert_eq!(
        written(text, JsonLayout::Spaced, false, true),
        r#"{"a": "x/\u00e9\u0001\"\\\u2028\ud83d\ude00", "b": [], "a": -1.0E+2}"#
    );
    assert_eq!(
        written(r#"{"a":[1,{"b":[]}]}"#, JsonLayout::Indented4, false, false),
        "{\n    \"a\": [\n        1,\n        {\n            \"b\": []\n        }\n    ]\n}"
    );
    for wrong in ["", "{", "{} {}", "nul", "{\"a\":}", "\"\\ud800\""] {
        assert!(rewrite::tokens(wrong.as_bytes()).is_none(), "{wrong}");
    }
}

fn value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "\\PC{0,12}".prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map("[a-z/\"é]{0,4}", inner, 0..4)
                .prop_map(|map| map.into_iter().collect::<serde_json::Value>()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rewritten_json_has_the_same_meaning(value in value()) {
        let text = serde_json::to_string_pretty(&value).expect("JSON");
        let tokens = rewrite::tokens(text.as_bytes()).expect("JSON");
        let plain = JsonEscapes { slash: false, unicode: false, html: false };
        let compact = rewrite::write(&tokens, JsonLayout::Compact, plain, 1 << 20).expect("short");
        prop_assert_eq!(String::from_utf8(compact).ok(), serde_json::to_string(&value).ok());
        let two = rewrite::write(&tokens, JsonLayout::Indented2, plain, 1 << 20).expect("short");
        prop_assert_eq!(String::from_utf8(two).ok(), Some(text.clone()));
        for (layout, escapes) in rewrite::variants() {
            let bytes = rewrite::write(&tokens, layout, escapes, 1 << 20).expect("short");
            let read: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
            prop_assert_eq!(&read, &value);
        }
    }

    #[test]
    fn no_unsigned_request_panics_or_fits(
        body in prop::collection::vec(any::<u8>(), 0..200),
        signature in "[ -~]{0,90}",
        scheme in prop::sample::select(vec!["vivoldi", "github", "stripe", "svix", "shopify"]),
    ) {
        let route = match scheme {
            "vivoldi" => vivoldi_route(),
            "svix" => global("svix", "whsec_bWZtc2VjcmV0bWZtc2VjcmV0bWZtc2VjcmV0"),
            other => global(other, SECRET),
        };
        let names: Vec<_> = route.headers().iter().map(ToString::to_string).collect();
        let headers: Vec<_> = names.iter().map(|name| (name.as_str(), signature.as_str())).collect();
        let made = Made::new(route, &headers, &body);
        let (_, found) = made.diagnose().expect("rejected");
        prop_assert_eq!(found, []);
    }
}

/// A custom scheme, and what its sender sends instead of what the scheme says.
fn custom(header: &str, value: &str) -> Made {
    let text = "id = \"acme\"\nname = \"Acme\"\nkind = \"hmac\"\nhash = \"sha256\"\n\
                message = \"{timestamp}.{body}\"\n\
                [signature]\nfrom = \"header:Acme-Signature\"\nformat = \"key-value\"\n\
                separator = \",\"\nfield = \"v1\"\nencoding = \"hex\"\n\
                [timestamp]\nfrom = \"signature:t\"\nunit = \"s\"\nwindow = \"5m\"\n\
                [event]\nid = \"json:/id\"\nsigned = true\n";
    let scheme = Scheme::parse("acme.toml", text).expect("a scheme");
    let credentials = Credentials { global: vec![secret(SECRET)], ..Credentials::default() };
    let verifier = Verifier::new(scheme, "r", credentials).expect("fitting credentials");
    Made::new(verifier, &[(header, value)], CUSTOM_BODY)
}

const CUSTOM_BODY: &str = "{\"id\":\"e1\"}";

/// Custom schemes with a wrong hash, separator, field or header name.
fn custom_rows() -> Vec<(&'static str, Reason, Made)> {
    let message = format!("1758184391.{CUSTOM_BODY}");
    let right = hex_mac(SECRET, &message);
    let mut sha512 = Hmac::<sha2::Sha512>::new_from_slice(SECRET.as_bytes()).expect("any key");
    sha512.update(message.as_bytes());
    let sha512 = HEXLOWER.encode(&sha512.finalize().into_bytes());
    let name = "Acme-Signature";
    let made = |header: &str, separator: &str, field: &str, signature: &str| {
        custom(header, &format!("t=1758184391{separator}{field}={signature}"))
    };
    assert_eq!(made(name, ",", "v1", &right).diagnose(), None);
    vec![
        ("signature_form", Reason::MalformedSignature, made(name, ";", "v1", &right)),
        ("signature_form", Reason::MalformedSignature, made(name, ",", "sig", &right)),
        ("header_name", Reason::MissingHeader, made("Webhook-Sig", ",", "v1", &right)),
        ("other_hash", Reason::MalformedSignature, made(name, ",", "v1", &sha512)),
        ("signature_length", Reason::MalformedSignature, made(name, ",", "v1", &"ab".repeat(64))),
    ]
}

/// A Vivoldi request for which `signed` is signed, whose header names the digest of `named`.
fn digested(key: &str, signed: &str, named: &str, body: &str) -> Made {
    let signed = format!("1758184391.e1.{}", sha256(signed.as_bytes()));
    let signature = format!("t=1758184391,v1={},alg=hmac-sha256", hex_mac(key, signed));
    let digest = sha256(named.as_bytes());
    let headers = [
        ("X-Vivoldi-Signature", &*signature),
        ("X-Vivoldi-Event-Id", "e1"),
        ("X-Vivoldi-Request-Id", "r1"),
        ("X-Content-SHA256", &*digest),
    ];
    Made::new(global("vivoldi", SECRET), &headers, body)
}

/// A digest in the request shows whether the secret or the body is at fault.
fn digest_rows() -> Vec<(&'static str, Reason, Made)> {
    let (one, two) = ("{\"a\":1}", "{\"a\":2}");
    vec![
        ("body_changed", Reason::BadSignature, digested(SECRET, one, one, two)),
        ("other_secret", Reason::BadSignature, digested("another secret", one, one, one)),
        ("", Reason::BadSignature, digested("another secret", one, one, two)),
    ]
}
