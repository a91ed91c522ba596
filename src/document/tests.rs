use std::time::Duration;

use super::{
    field::{parse_duration, parse_size},
    *,
};

fn read(text: &str) -> String {
    let reader = Reader::new("gateway.toml", text);
    {
        let root = reader.parse();
        let root = reader.root(&root);
        if let Some(server) = root.get("server").and_then(|field| field.section()) {
            server.get("listen");
            server.get("idle").and_then(|field| field.duration());
            server.get("body").and_then(|field| field.size());
            server.finish();
        }
        if let Some(other) = root.get("other").and_then(|field| field.section()) {
            other.get("mode");
            other.finish();
        }
        root.finish();
    }
    reader.finish().to_string()
}

#[test]
fn all_problems_are_told_at_once_with_their_places() {
    let report = read("[server]\nlissten = \"a\"\nidle = \"75x\"\nbody = 3\n");
    assert!(report.contains("unknown key `lissten` in server"), "{report}");
    assert!(report.contains("did you mean `listen`?"), "{report}");
    assert!(report.contains("gateway.toml:3:8"), "{report}");
    assert!(report.contains("3 | idle = \"75x\"\n  |        ^^^^^"), "{report}");
    assert!(report.contains("must be a string, not integer"), "{report}");
}

#[test]
fn a_key_of_another_table_is_told_where_it_belongs() {
    let report = read("[server]\n[other]\nidle = \"1s\"\n");
    assert!(report.contains("unknown key `idle` in other"), "{report}");
    assert!(report.contains("`idle` belongs to server, before the heading"), "{report}");
}

#[test]
fn unknown_values_and_lines_that_are_not_toml_are_not_quoted() {
    for text in [
        "[server]\nsecrt = \"hunter2hunter2\"\n",
        "[server]\nsecrt = { a = [\"hunter2hunter2\"] }\n",
        "[server]\nlisten = hunter2hunter2\n",
        "[server]\nlisten = \"hunter2hunter2\n",
        "[server]\n\"hunter2hunter2\n",
        "[server]\nlisten \"hunter2hunter2\"\n",
        "server = \"hunter2hunter2\"\n",
    ] {
        let report = read(text);
        assert!(report.contains("error:"), "{text}");
        assert!(!report.contains("hunter2"), "{report}");
    }
    let report = read("[server]\nsecrt = \"hünter2\" # é\nsecrt2 = 1\n");
    assert!(report.contains("2 | secrt = \"*×*****\" # é\n"), "{report}");
}

#[test]
fn what_was_asked_for_is_known_by_its_path() {
    let reader = Reader::new("x", "[[route]]\nname = \"a\"\n[[route]]\nname = \"b\"\n");
    {
        let root = reader.parse();
        let root = reader.root(&root);
        for section in root.require("route").expect("a list").sections() {
            section.require("name");
            section.get("host");
            section.finish();
        }
        root.finish();
    }
    let asked: Vec<_> = reader.asked().into_iter().collect();
    assert_eq!(asked, ["route", "route.host", "route.name"]);
    assert!(!reader.finish().is_fatal());
}

#[test]
fn after_a_syntax_error_nothing_else_is_told() {
    let report = read("[server]\nidle = \"75x\"\nbody = 3\nother\n[other]\nmood = 1\n");
    assert_eq!(report.matches("error: ").count(), 1, "{report}");
    assert!(report.contains("gateway.toml:4:"), "{report}");
}

#[test]
fn durations_and_sizes() {
    assert_eq!(parse_duration("4.5s"), Some(Duration::from_millis(4500)));
    assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
    for wrong in ["5", "s", "-5s", "4000d", ".s", "1e3s", "99999999999999999999999s", "1 s"] {
        assert_eq!(parse_duration(wrong), None, "{wrong}");
    }
    assert_eq!(parse_size("64KiB"), Some(65536));
    for wrong in ["1MB", "99999999999GiB", "1.5MiB", "MiB", "1"] {
        assert_eq!(parse_size(wrong), None, "{wrong}");
    }
    for text in ["250ms", "4500ms", "10s", "90m", "24h", "7d", "0ms"] {
        let span = parse_duration(text).expect("a duration");
        assert_eq!(parse_duration(&show_duration(span)), Some(span), "{text}");
    }
    assert_eq!(show_duration(Duration::from_secs(86_400)), "1d");
    assert_eq!(show_size(1536), "1536B");
    assert_eq!(show_size(1 << 20), "1MiB");
}
