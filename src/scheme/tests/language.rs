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
fn a_fixed_timestamp_needs_no_separator() {
    let text = GOOD.replace("\"auto\"", "\"s\"").replace("{timestamp}.{body}", "{timestamp}{body}");
    Scheme::parse("mine.toml", &text).unwrap_or_else(|report| panic!("{report}"));
}
