//! HTTP Message Signatures: the test cases of RFC 9421, appendix B, and what goes beyond vectors.

use super::*;

/// 2021-04-20T02:07:53Z, when the signatures of the appendix were created.
const CREATED: i64 = 1_618_884_473_000;
const BODY: &[u8] = b"{\"hello\": \"world\"}";
const TARGET: &str = "/foo?param=Value&Pet=dog";
const DIGEST: &str = "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:";
/// `test-key-rsa-pss`, B.1.2.
const RSA_PSS: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAr4tmm3r20Wd/PbqvP1s2
+QEtvpuRaV8Yq40gjUR8y2Rjxa6dpG2GXHbPfvMs8ct+Lh1GH45x28Rw3Ry53mm+
oAXjyQ86OnDkZ5N8lYbggD4O3w6M6pAvLkhk95AndTrifbIFPNU8PPMO7OyrFAHq
gDsznjPFmTOtCEcN2Z1FpWgchwuYLPL+Wokqltd11nqqzi+bJ9cvSKADYdUAAN5W
Utzdpiy6LbTgSxP7ociU4Tn0g5I6aDZJ7A8Lzo0KSyZYoA485mqcO0GVAdVw9lq4
aOT9v6d+nb4bnNkQVklLQ3fVAvJm+xdDOp9LCNCN48V2pnDOkFV6+U9nV5oyc6XI
2wIDAQAB
-----END PUBLIC KEY-----";
/// `test-key-ed25519`, B.1.4.
const ED25519: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=
-----END PUBLIC KEY-----";
/// `test-shared-secret`, B.1.5.
const SHARED: &str =
    "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==";

/// A scheme with these lines about its kind and its message signature.
fn scheme(kind: &str, rule: &str) -> std::sync::Arc<Scheme> {
    let text = format!(
        "id = \"x\"\n{kind}\nidentity = [\"Signature\"]\n[message_signature]\n{rule}\n\
         [key]\nencoding = \"base64\"\n\
         [timestamp]\nfrom = \"signature:created\"\nunit = \"s\"\nwindow = \"5m\"\n\
         [event]\nid = \"signed\"\n"
    );
    Scheme::parse("x", &text).unwrap_or_else(|report| panic!("{report}"))
}

fn with_key(kind: &str, rule: &str, key: &str) -> Verifier {
    let keys = vec![secret(key)];
    let credentials = match kind.contains("hmac") {
        true => Credentials { global: keys, ..Credentials::default() },
        false => Credentials { public_keys: keys, ..Credentials::default() },
    };
    Verifier::new(scheme(kind, rule), "r", credentials).expect("fitting credentials")
}

/// The test request of B.2 with a signature.
fn request(input: &str, signature: &str) -> Parts {
    head(
        Method::POST,
        TARGET,
        &[
            ("host", "example.com"),
            ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
            ("content-type", "application/json"),
            ("content-digest", DIGEST),
            ("content-length", "18"),
            ("signature-input", input),
            ("signature", signature),
        ],
    )
}

const PSS: &str = "kind = \"rsa-pss\"\nhash = \"sha512\"";
const HMAC: &str = "kind = \"hmac\"\nhash = \"sha256\"";
const EDWARDS: &str = "kind = \"ed25519\"";

/// Kind, key, `Signature-Input` and `Signature` of B.2.1, B.2.2, B.2.3, B.2.5 and B.2.6, and
/// whether the signature covers the body. B.2.4 is a response.
const PUBLISHED: [(&str, &str, &str, &str, bool); 5] = [
    (
        PSS,
        RSA_PSS,
        "sig-b21=();created=1618884473;keyid=\"test-key-rsa-pss\";nonce=\"b3k2pp5k7z-50gnwp.yemd\"",
        "sig-b21=:d2pmTvmbncD3xQm8E9ZV2828BjQWGgiwAaw5bAkgibUopemLJcWDy/lkbbHAve4cRAtx31Iq786U7it++wgGxbtRxf8Udx7zFZsckzXaJMkA7ChG52eSkFxykJeNqsrWH5S+oxNFlD4dzVuwe8DhTSja8xxbR/Z2cOGdCbzR72rgFWhzx2VjBqJzsPLMIQKhO4DGezXehhWwE56YCE+O6c0mKZsfxVrogUvA4HELjVKWmAvtl6UnCh8jYzuVG5WSb/QEVPnP5TmcAnLH1g+s++v6d4s8m0gCw1fV5/SITLq9mhho8K3+7EPYTU8IU1bLhdxO5Nyt8C8ssinQ98Xw9Q==:",
        false,
    ),
    (
        PSS,
        RSA_PSS,
        "sig-b22=(\"@authority\" \"content-digest\" \"@query-param\";name=\"Pet\");created=1618884473;keyid=\"test-key-rsa-pss\";tag=\"header-example\"",
        "sig-b22=:LjbtqUbfmvjj5C5kr1Ugj4PmLYvx9wVjZvD9GsTT4F7GrcQEdJzgI9qHxICagShLRiLMlAJjtq6N4CDfKtjvuJyE5qH7KT8UCMkSowOB4+ECxCmT8rtAmj/0PIXxi0A0nxKyB09RNrCQibbUjsLS/2YyFYXEu4TRJQzRw1rLEuEfY17SARYhpTlaqwZVtR8NV7+4UKkjqpcAoFqWFQh62s7Cl+H2fjBSpqfZUJcsIk4N6wiKYd4je2U/lankenQ99PZfB4jY3I5rSV2DSBVkSFsURIjYErOs0tFTQosMTAoxk//0RoKUqiYY8Bh0aaUEb0rQl3/XaVe4bXTugEjHSw==:",
        true,
    ),
    (
        PSS,
        RSA_PSS,
        "sig-b23=(\"date\" \"@method\" \"@path\" \"@query\" \"@authority\" \"content-type\" \"content-digest\" \"content-length\");created=1618884473;keyid=\"test-key-rsa-pss\"",
        "sig-b23=:bbN8oArOxYoyylQQUU6QYwrTuaxLwjAC9fbY2F6SVWvh0yBiMIRGOnMYwZ/5MR6fb0Kh1rIRASVxFkeGt683+qRpRRU5p2voTp768ZrCUb38K0fUxN0O0iC59DzYx8DFll5GmydPxSmme9v6ULbMFkl+V5B1TP/yPViV7KsLNmvKiLJH1pFkh/aYA2HXXZzNBXmIkoQoLd7YfW91kE9o/CCoC1xMy7JA1ipwvKvfrs65ldmlu9bpG6A9BmzhuzF8Eim5f8ui9eH8LZH896+QIF61ka39VBrohr9iyMUJpvRX2Zbhl5ZJzSRxpJyoEZAFL2FUo5fTIztsDZKEgM4cUA==:",
        true,
    ),
    (
        HMAC,
        SHARED,
        "sig-b25=(\"date\" \"@authority\" \"content-type\");created=1618884473;keyid=\"test-shared-secret\"",
        "sig-b25=:pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:",
        false,
    ),
    (
        EDWARDS,
        ED25519,
        "sig-b26=(\"date\" \"@method\" \"@path\" \"@authority\" \"content-type\" \"content-length\");created=1618884473;keyid=\"test-key-ed25519\"",
        "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:",
        false,
    ),
];

#[test]
fn accepts_the_signatures_of_the_rfc() {
    for (kind, key, input, signature, covers_body) in PUBLISHED {
        let verifier = with_key(kind, "cover = []", key);
        let sent = request(input, signature);
        let at = |body: &[u8], now| reason(verifier.verify(&sent, &payload(body), UnixMillis(now)));
        // A signature that does not cover the digest is good for a request without a body only.
        let (signed, unsigned) = if covers_body { (BODY, &b"x"[..]) } else { (&b""[..], BODY) };
        assert_eq!(at(signed, CREATED), None, "{input}");
        assert_eq!(at(signed, CREATED + 300_001), Some(Reason::Stale), "{input}");
        let expected = if covers_body { Reason::Inconsistent } else { Reason::MalformedSignature };
        assert_eq!(at(unsigned, CREATED), Some(expected), "{input}");
        let mut other = sent.clone();
        let host = HeaderValue::from_static("example.org");
        other.headers.insert("host", host);
        let found = verifier.verify(&other, &payload(signed), UnixMillis(CREATED));
        let is_host_covered = input.contains("@authority");
        assert_eq!(reason(found), is_host_covered.then_some(Reason::BadSignature), "{input}");
    }
}

/// Returns the lines of the signature base of a request that covers `covered`.
fn base(method: Method, target: &str, headers: &[(&str, &str)], covered: &str) -> Option<String> {
    let verifier = with_key(HMAC, "cover = []", SHARED);
    let input = format!("a=({covered});created=1618884473");
    let mut headers = headers.to_vec();
    headers.extend([("signature-input", input.as_str()), ("signature", "a=:AAAA:")]);
    let sent = head(method, target, &headers);
    let payload = payload(b"");
    let mut values = verifier.request(&sent, &payload);
    verifier.read_items(&mut values);
    let base = String::from_utf8(values.signature_base()?).expect("text");
    let (lines, parameters) = base.rsplit_once("\"@signature-params\": ").expect("the last line");
    assert_eq!(format!("a={parameters}"), input);
    Some(lines.trim_end().to_owned())
}

/// The examples of section 2.
#[test]
fn derives_the_components_of_the_rfc() {
    let host = ("host", "www.example.com");
    let encoded = "/parameters?var=this%20is%20a%20big%0Amultiline%20value&bar=with+plus+whitespace\
                   &fa%C3%A7ade%22%3A%20=something";
    for (target, covered, expected) in [
        ("/path?param=value", "\"@method\"", "\"@method\": POST"),
        (
            "/path?param=value",
            "\"@target-uri\"",
            "\"@target-uri\": https://www.example.com/path?param=value",
        ),
        ("/path?param=value", "\"@authority\"", "\"@authority\": www.example.com"),
        ("/path?param=value", "\"@scheme\"", "\"@scheme\": https"),
        ("/path?param=value", "\"@request-target\"", "\"@request-target\": /path?param=value"),
        ("/path?param=value", "\"@path\"", "\"@path\": /path"),
        (
            "/path?param=value&foo=bar&baz=bat%2Dman",
            "\"@query\"",
            "\"@query\": ?param=value&foo=bar&baz=bat%2Dman",
        ),
        ("/path?queryString", "\"@query\"", "\"@query\": ?queryString"),
        ("/path", "\"@query\"", "\"@query\": ?"),
        (
            "/path?param=value&foo=bar&baz=batman&qux=",
            "\"@query-param\";name=\"baz\" \"@query-param\";name=\"qux\" \"@query-param\";name=\"param\"",
            "\"@query-param\";name=\"baz\": batman\n\"@query-param\";name=\"qux\": \n\"@query-param\";name=\"param\": value",
        ),
        (
            encoded,
            "\"@query-param\";name=\"var\" \"@query-param\";name=\"bar\" \"@query-param\";name=\"fa%C3%A7ade%22%3A%20\"",
            "\"@query-param\";name=\"var\": this%20is%20a%20big%0Amultiline%20value\n\
             \"@query-param\";name=\"bar\": with%20plus%20whitespace\n\
             \"@query-param\";name=\"fa%C3%A7ade%22%3A%20\": something",
        ),
    ] {
        let found = base(Method::POST, target, &[host], covered);
        assert_eq!(found.as_deref(), Some(expected.trim_end()), "{target} {covered}");
    }
    let fields = [
        ("x-ows-header", "   Leading and trailing whitespace.   "),
        ("cache-control", "max-age=60"),
        ("cache-control", "    must-revalidate"),
        ("example-dict", " a=1,    b=2;x=1;y=2,   c=(a   b   c), d"),
        ("example-header", "value, with, lots"),
        ("example-header", "of, commas"),
        ("x-empty-header", ""),
    ];
    for (covered, expected) in [
        ("\"x-ows-header\"", "\"x-ows-header\": Leading and trailing whitespace."),
        ("\"cache-control\"", "\"cache-control\": max-age=60, must-revalidate"),
        ("\"example-dict\"", "\"example-dict\": a=1,    b=2;x=1;y=2,   c=(a   b   c), d"),
        (
            "\"example-dict\";key=\"a\" \"example-dict\";key=\"d\" \"example-dict\";key=\"b\" \"example-dict\";key=\"c\"",
            "\"example-dict\";key=\"a\": 1\n\"example-dict\";key=\"d\": ?1\n\"example-dict\";key=\"b\": 2;x=1;y=2\n\"example-dict\";key=\"c\": (a b c)",
        ),
        (
            "\"example-header\";bs",
            "\"example-header\";bs: :dmFsdWUsIHdpdGgsIGxvdHM=:, :b2YsIGNvbW1hcw==:",
        ),
        ("\"x-empty-header\"", "\"x-empty-header\":"),
    ] {
        let found = base(Method::POST, "/", &fields, covered);
        assert_eq!(found.as_deref(), Some(expected), "{covered}");
    }
    for covered in ["\"x-absent\"", "\"example-dict\";key=\"z\"", "\"@query-param\";name=\"a\""] {
        assert_eq!(base(Method::POST, "/?a=1&a=2", &fields, covered), None, "{covered}");
    }
    for (given, expected) in
        [("Example.COM:443", "example.com"), ("example.com:8443", "example.com:8443")]
    {
        let found = base(Method::POST, "/", &[("host", given)], "\"@authority\"");
        assert_eq!(found, Some(format!("\"@authority\": {expected}")));
    }
}

#[test]
fn the_registered_address_replaces_the_authority_of_the_request() {
    let cover = "cover = [\"@target-uri\"]";
    let mut credentials = Credentials { global: vec![secret(SHARED)], ..Credentials::default() };
    credentials.public_url = Some("http://Hooks.example.com:80/other".to_owned());
    let verifier = Verifier::new(scheme(HMAC, cover), "r", credentials).expect("credentials");
    let now = UnixMillis(CREATED);
    let body = payload(BODY);
    let draft =
        Draft { method: Method::POST, path: "/a?b=c", headers: HeaderMap::new(), body: &body };
    let headers = verifier.sign(None, draft, now).expect("signed");
    let mut sent = head(Method::POST, "/a?b=c", &[("host", "internal:8080")]);
    sent.headers.extend(headers);
    assert_eq!(reason(verifier.verify(&sent, &body, now)), None);
    let url = b"http://hooks.example.com/a?b=c";
    let values = verifier.request(&sent, &body);
    let component = crate::scheme::compiled::message_signature::Component::TargetUri;
    assert_eq!(values.component(&component).as_deref(), Some(&url[..]));
}

#[test]
fn selects_a_signature_by_label_or_tag() {
    let signed = |rule: &str, body: &Payload| {
        let verifier = with_key(HMAC, rule, SHARED);
        let draft = Draft { method: Method::POST, path: "/", headers: HeaderMap::new(), body };
        verifier.sign(None, draft, UnixMillis(CREATED)).expect("signed")
    };
    let body = payload(BODY);
    let text = |headers: &HeaderMap, name: &str| headers[name].to_str().expect("text").to_owned();
    let ours = signed("cover = []\nlabel = \"ours\"\ntag = \"app\"", &body);
    assert!(text(&ours, "signature-input").contains(";tag=\"app\""));
    // A proxy adds a signature with a key that we do not have.
    let proxy = "proxy=(\"@method\");created=1618884473;alg=\"hmac-sha256\"";
    let combined = |first: bool| {
        let mut headers = ours.clone();
        for (name, other) in [("signature-input", proxy), ("signature", "proxy=:AAAA:")] {
            let own = text(&ours, name);
            let both = if first { format!("{other}, {own}") } else { format!("{own},{other}") };
            headers.insert(name, HeaderValue::try_from(both).expect("a value"));
        }
        let mut sent = head(Method::POST, "/", &[]);
        sent.headers = headers;
        sent
    };
    for (rule, expected) in [
        ("cover = []\nlabel = \"ours\"", None),
        ("cover = []\ntag = \"app\"", None),
        // Without a label or tag, any signature that covers what it must is tried.
        ("cover = []", None),
        ("cover = []\nlabel = \"theirs\"", Some(Reason::MalformedSignature)),
        ("cover = []\ntag = \"other\"", Some(Reason::MalformedSignature)),
        ("cover = []\nlabel = \"proxy\"", Some(Reason::BadSignature)),
    ] {
        let verifier = with_key(HMAC, rule, SHARED);
        for first in [true, false] {
            let found = verifier.verify(&combined(first), &body, UnixMillis(CREATED));
            assert_eq!(reason(found), expected, "{rule} {first}");
        }
    }
}

#[test]
fn signs_again_with_the_same_components_and_a_fresh_time() {
    let rule = "cover = [\"@method\", \"x-event\"]";
    let text = format!(
        "id = \"x\"\n{HMAC}\nidentity = [\"Signature\"]\n[message_signature]\n{rule}\n\
         [timestamp]\nfrom = \"signature:created\"\nunit = \"s\"\nwindow = \"5m\"\n\
         [event]\nid = [\"header:x-event\", \"signature:nonce\"]\nsigned = true\n"
    );
    let scheme = Scheme::parse("x", &text).unwrap_or_else(|report| panic!("{report}"));
    let verifier =
        Verifier::new(scheme, "r", global("a-secret-of-32-characters-length")).expect("fits");
    let body = payload(BODY);
    let mut headers = HeaderMap::new();
    headers.insert("x-event", HeaderValue::from_static("e-1"));
    let draft = Draft { method: Method::POST, path: "/", headers, body: &body };
    let headers = verifier.sign(None, draft, UnixMillis(CREATED)).expect("signed");
    let mut sent = head(Method::POST, "/", &[]);
    sent.headers = headers;
    let verified = verifier.verify(&sent, &body, UnixMillis(CREATED)).expect("authentic");
    assert!(verifier.can_resign());
    let later = UnixMillis(CREATED + 86_400_000);
    assert_eq!(reason(verifier.verify(&sent, &body, later)), Some(Reason::Stale));
    let changed =
        verifier.resign("global", verified.secret(), &sent, &body, later).expect("signed");
    assert_eq!(changed.len(), 2);
    for (name, value) in changed {
        assert_ne!(sent.headers[&name], value);
        sent.headers.insert(name, value);
    }
    assert_eq!(reason(verifier.verify(&sent, &body, later)), None);
}

#[test]
fn rejects_schemes_that_make_no_sense() {
    for (lines, expected) in [
        ("kind = \"hmac\"\nhash = \"sha1\"\n[message_signature]\ncover = []", "has no algorithm"),
        ("kind = \"ecdsa-p256\"\n[message_signature]\ncover = []", "has no algorithm"),
        ("kind = \"ed25519\"\n[message_signature]\ncover = [\"@status\"]", "no component"),
        ("kind = \"ed25519\"\n[message_signature]\ncover = [\"X-A\"]", "no component"),
        (
            "kind = \"ed25519\"\n[message_signature]\nlabel = \"a\"",
            "`cover` is missing in message_signature",
        ),
        (
            "kind = \"ed25519\"\n[message_signature]\ncover = []\n[timestamp]\n\
             from = \"signature:t\"\nunit = \"s\"\nwindow = \"5m\"",
            "no parameter `t`",
        ),
        (
            "kind = \"hmac\"\nhash = \"sha256\"\nmessage = \"{signed-headers}\"\n\
             [signature]\nfrom = \"header:x-s\"\nencoding = \"hex\"",
            "needs a section `[signed_headers]`",
        ),
    ] {
        let text = format!("id = \"x\"\n{lines}\n[event]\nid = \"signed\"\n");
        let report = Scheme::parse("x", &text).map(|_| ()).expect_err(lines).to_string();
        assert!(report.contains(expected), "{lines}: {report}");
    }
}
