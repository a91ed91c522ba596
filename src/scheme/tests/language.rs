//! What the loader refuses, with its places.

use super::*;

const GOOD: &str = r#"id = "mine"
name = "Mine"
kind = "hmac"
hash = "sha256"
message = "{header:X-Id}.{timestamp}.{body}"

[sender]
answer_within = "5s"
retries = "none"
memory = "24h"
body = "1MiB"

[signature]
from = "header:X-Signature"
encoding = "hex"

[timestamp]
from = "header:X-Time"
unit = "auto"
window = "5m"

[event]
id = "header:X-Id"
signed = true
grammar = "word"
"#;

fn report(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    match Scheme::parse("mine.toml", &GOOD.replacen(from, to, 1)) {
        Ok(_) => panic!("it compiles: {to}"),
        Err(report) => report.to_string(),
    }
}

#[test]
fn the_scheme_that_the_cases_change_compiles() {
    Scheme::parse("mine.toml", GOOD).unwrap_or_else(|report| panic!("{report}"));
}

#[test]
fn mistakes_are_told_with_their_places() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("hash = ", "hsh = ", &["unknown key `hsh`", "mine.toml:4:1", "did you mean `hash`?"]),
        ("window", "windw", &["unknown key `windw` in timestamp", "did you mean `window`?"]),
        ("\"hmac\"", "\"hmca\"", &["must be one of", "did you mean \"hmac\"?"]),
        ("{body}", "{bdy}", &["unknown source `bdy`", "mine.toml:5:39", "did you mean `body`?"]),
        ("{body}", "{body|sha}", &["unknown filter `sha`", "mine.toml:5:44"]),
        ("{body}", "{haeder:X}", &["unknown source `haeder:`", "did you mean `header:X`?"]),
        ("{body}", "{body", &["never closed"]),
        ("{body}", "{item:/a}", &["needs `each`"]),
        ("{body}", "{header:X Y}", &["not a header name"]),
        ("{timestamp}.{body}", "{timestamp}{body}", &["does not separate it", "mine.toml:5:11"]),
        ("{timestamp}.{body}", "{timestamp}0{body}", &["does not separate it"]),
        ("{timestamp}.{body}", "{header:X-Time}{body}", &["does not separate it"]),
        ("{header:X-Id}.{t", "{header:X-Id}{t", &["does not separate it"]),
        ("{header:X-Id}.", "", &["does not cover the event id", "mine.toml:24:10"]),
        ("signed = true", "signed = false", &["covers the event id"]),
        (".{timestamp}", "", &["does not cover the timestamp"]),
        ("grammar = \"word\"", "", &["could contain what separates it"]),
        ("id = \"header:X-Id\"\nsigned = true", "id = \"body\"", &["id = \"signed\""]),
        ("signed = true", "signed = true\nabsent = \"body\"", &["must be one of"]),
        (
            "signed = true",
            "signed = true\ndistinguish = { \"header:X-A\" = \"topics\" }",
            &["did you mean \"topic\"?"],
        ),
        ("memory = \"24h\"", "memory = \"23h\"", &["at least 24h"]),
        ("header:X-Signature", "header:", &["needs a name"]),
        ("id = \"mine\"", "id = \"Mine!\"", &["small letters"]),
        ("id = \"mine\"", "", &["`id` is missing in the file"]),
        ("kind = \"hmac\"", "kind = ", &["mine.toml:3:"]),
    ];
    for (from, to, expected) in cases {
        let report = report(from, to);
        for part in *expected {
            assert!(report.contains(part), "{to}\n{part}\n{report}");
        }
    }
}

#[test]
fn a_wrong_kind_or_hash_is_one_mistake() {
    let jwt = "id = \"t\"\nkind = \"jtw\"\n[token]\nalgorithm = \"RS256\"\n[signature]\n\
               [event]\nid = \"body\"\n";
    let jwt = Scheme::parse("t.toml", jwt).expect_err("no such kind").to_string();
    let cases = [
        (report("\"sha256\"", "\"sha265\""), "did you mean \"sha256\"?"),
        (report("\"hmac\"", "\"hmca\""), "did you mean \"hmac\"?"),
        (report("hash = \"sha256\"\n", ""), "`hash` is missing"),
        (jwt, "did you mean \"jwt\"?"),
    ];
    for (report, expected) in cases {
        assert_eq!(report.matches("error: ").count(), 1, "{report}");
        assert!(report.contains(expected), "{report}");
    }
}

#[test]
fn a_fixed_timestamp_needs_no_separator() {
    let text = GOOD.replace("\"auto\"", "\"s\"").replace("{timestamp}.{body}", "{timestamp}{body}");
    Scheme::parse("mine.toml", &text).unwrap_or_else(|report| panic!("{report}"));
}

fn with(more: &str) -> String {
    let text = format!("{GOOD}{more}");
    match Scheme::parse("mine.toml", &text) {
        Ok(_) => String::new(),
        Err(report) => report.to_string(),
    }
}

#[test]
fn sections_that_not_every_scheme_has() {
    let cases = [
        ("[[handshake]]\nmethod = \"GET\"\n", "`signed` is missing in handshake"),
        ("[[handshake]]\nmethod = \"PATCH\"\nsigned = false\n", "must be one of"),
        (
            "[[handshake]]\nmethod = \"GET\"\nsigned = false\nchalenge = \"query:c\"\n",
            "`challenge`?",
        ),
        (
            "[[handshake]]\nmethod = \"GET\"\nsigned = false\nwhen = { \"quer:a\" = \"b\" }\n",
            "`query:a`?",
        ),
        (
            "[[handshake]]\nmethod = \"GET\"\nsigned = false\nunless = [\"json:a\"]\n",
            "a JSON pointer starts with `/`",
        ),
        ("[[agree]]\nvalue = \"header:X\"\n", "`with` is missing in agree"),
        (
            "[[variant]]\nwhen = \"query:a\"\nmessage = \"{timestamp}{body}\"\n",
            "does not separate it",
        ),
        ("[key]\nencoding = \"base46\"\n", "did you mean \"base64\"?"),
        ("[key.choice]\nheader = \"X\"\n", "`global` is missing in key.choice"),
        ("[sender]\nmemory = \"1h\"\n", ""),
    ];
    for (more, expected) in cases {
        let report = with(more);
        assert!(!report.is_empty() && report.contains(expected), "{more}\n{report}");
    }
    let jwt = "id = \"t\"\nkind = \"jwt\"\n[signature]\n[event]\nid = \"body\"\n";
    for (token, expected) in [
        ("", "`token` is missing"),
        ("[token]\nalgorithm = \"none\"\n", "must be one of \"HS256\", \"RS256\", \"ES256\""),
        ("[token]\nalgorithm = \"RS256\"\nconfigured = [\"isuer\"]\n", "did you mean \"issuer\"?"),
        ("[token]\nalgorithm = \"RS256\"\njku = true\n", "unknown key `jku`"),
    ] {
        let report = Scheme::parse("t.toml", &format!("{jwt}{token}")).err();
        let report = report.map(|report| report.to_string()).unwrap_or_default();
        assert!(report.contains(expected), "{token}\n{report}");
    }
}

#[test]
fn a_section_of_another_document_takes_its_name_for_an_id() {
    let short = "[schemes.mine]\nkind = \"hmac\"\nhash = \"sha1\"\nmessage = \"{body}\"\n\
        [schemes.mine.signature]\nfrom = \"header:X-Mine\"\nencoding = \"hex\"\n\
        [schemes.mine.event]\nid = \"signed\"\n";
    let reader = crate::document::Reader::new("gateway.toml", short);
    let scheme = {
        let table = reader.parse();
        let root = reader.root(&table);
        let schemes = root.get("schemes").and_then(|f| f.section()).expect("a table");
        let mine = schemes.get("mine").and_then(|f| f.section()).expect("a table");
        let scheme = Scheme::read(&mine);
        mine.finish();
        scheme
    };
    assert!(!reader.finish().is_fatal());
    assert_eq!(scheme.expect("a scheme").id(), "mine");
}

#[test]
fn a_mac_is_not_answered_where_it_could_be_that_of_an_event() {
    let text = |message: &str| {
        format!(
            "id = \"m\"\nkind = \"hmac\"\nhash = \"sha256\"\nmessage = \"{message}\"\n\
             [signature]\nfrom = \"header:X-Mine\"\nencoding = \"hex\"\n\
             [timestamp]\nfrom = \"header:X-Time\"\nunit = \"s\"\nwindow = \"5m\"\n\
             [event]\nid = \"signed\"\n[[handshake]]\nmethod = \"GET\"\nsigned = false\n\
             challenge = \"query:c\"\nmac = \"hex\"\nreply = \"{{signature:mac}}\"\n"
        )
    };
    for message in ["{timestamp}{body}", "v0{timestamp}{body}", "{timestamp}-{body|sha256}"] {
        let report = Scheme::parse("m.toml", &text(message)).expect_err(message).to_string();
        assert!(report.contains("could be that of an event"), "{message}\n{report}");
    }
    Scheme::parse("m.toml", &text("v0:{timestamp}:{body}")).unwrap_or_else(|r| panic!("{r}"));
    let bare = text("{body}")
        .replace("[timestamp]\nfrom = \"header:X-Time\"\nunit = \"s\"\nwindow = \"5m\"\n", "");
    let scheme = Scheme::parse("m.toml", &bare).unwrap_or_else(|report| panic!("{report}"));
    assert!(scheme.oracle, "a body that is a word is no event of this scheme");
}
