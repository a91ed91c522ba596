//! `docs/configuration.md` documents exactly the keys that the reader knows, with correct defaults,
//! and the sample `gateway.toml` is valid.

use std::{collections::BTreeSet, fmt::Write};

use super::*;
use crate::document::Reader;

/// The keys of `[replay]` with a default that are rejected without `store = "redis"`.
const OF_REDIS: [&str; 2] = ["prefix", "cluster"];

/// The documented keys as dotted paths, each with its default if it has one that TOML can express.
fn documented() -> Vec<(String, Option<String>)> {
    let reference = read("docs/configuration.md");
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in reference.lines() {
        if let Some(heading) = line.strip_prefix("## ").or(line.strip_prefix("### ")) {
            section = heading.trim_matches(['`', '[', ']']).to_lowercase();
            keys.push((section.clone(), None));
        } else if let Some(row) = line.strip_prefix("| `") {
            let (key, cells) = row.split_once('`').expect("a key in code font");
            let default = cells.split('|').nth(2).expect("a column of defaults").trim();
            let default = default.strip_prefix('`').and_then(|text| text.strip_suffix('`'));
            keys.push((format!("{section}.{key}"), default.map(str::to_owned)));
        }
    }
    keys
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every key that the reader knows, found by reading all valid files.
fn asked() -> BTreeSet<String> {
    let mut asked = BTreeSet::new();
    for path in table::files("valid") {
        let text = fs::read_to_string(&path).expect("readable");
        let reader = Reader::new("gateway.toml", &text);
        let base = Path::new("/nonexistent");
        super::super::read(&reader, &Surroundings::new(base, &table::environment));
        asked.extend(reader.asked());
    }
    let form = |key: String| match key.rsplit_once('.') {
        Some((_, form @ ("env" | "file"))) => format!("secrets.{form}"),
        Some(("server.listen", part)) => format!("listeners.{part}"),
        Some((rate, part)) if rate.starts_with("route.rate_limit") => format!("rates.{part}"),
        Some(_) | None => key,
    };
    asked.into_iter().map(form).filter(|key| !key.starts_with("schemes.")).collect()
}

#[test]
fn the_reference_documents_every_key_and_no_other() {
    let mut documented_keys: BTreeSet<_> = documented().into_iter().map(|(key, _)| key).collect();
    for form in ["secrets", "rates", "listeners"] {
        assert!(documented_keys.remove(form), "a heading for values that occur in several tables");
    }
    let asked = asked();
    assert!(asked.len() > 60, "{asked:?}");
    let missing: Vec<_> = asked.difference(&documented_keys).collect();
    let surplus: Vec<_> = documented_keys.difference(&asked).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "missing {missing:?}, surplus {surplus:?}");
}

/// Formats a whole configuration, without its secrets and certificates.
fn shown(text: &str) -> String {
    let parsed = parse("gateway.toml", text, Path::new("/nonexistent"), &table::environment);
    let (config, _) = parsed.unwrap_or_else(|report| panic!("{report}"));
    let mut shown = format!(
        "{:?} {:?} {:?} {:?} {}",
        config.server, config.admin, config.replay, config.acknowledge_replays, config.memory
    );
    for route in config.routes {
        write!(
            shown,
            " {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            route.host,
            route.mode,
            route.answer_within,
            route.body,
            route.upstream,
            route.ttl,
            route.delivery
        )
        .expect("a string");
    }
    shown
}

#[test]
fn the_defaults_of_the_reference_change_nothing() {
    let documented = documented();
    let mut count = 0;
    let mut defaults = |section: &str| {
        let mut lines = String::new();
        for (key, default) in &documented {
            let (Some(default), Some((owner, name))) = (default, key.rsplit_once('.')) else {
                continue;
            };
            // Keys of a store are rejected without it; the next test has them.
            if owner == section && !OF_REDIS.contains(&name) {
                writeln!(lines, "{name} = {default}").expect("a string");
                count += 1;
            }
        }
        lines
    };
    let route = "name = \"a\"\npath = \"/a\"\nscheme = \"vivoldi\"\n\
                 upstream = \"http://127.0.0.1:8080\"\nsecret = { env = \"SECRET\" }\n";
    let listen = "http_listen = \"127.0.0.1:8081\"\n";
    let silent = format!("[server]\n{listen}[[route]]\n{route}");
    let told = format!(
        "[server]\n{listen}{}[admin]\n{}[replay]\n{}[limits]\n{}[[route]]\n{route}{}",
        defaults("server"),
        defaults("admin"),
        defaults("replay"),
        defaults("limits"),
        defaults("route")
    );
    assert!(count >= 24, "only {count} defaults:\n{told}");
    assert_eq!(shown(&silent), shown(&told));
}

#[test]
fn keys_of_the_redis_store_have_their_defaults() {
    let documented = documented();
    let lines = OF_REDIS.map(|name| {
        let found = documented.iter().find(|(key, _)| *key == format!("replay.{name}"));
        let default = found.and_then(|(_, default)| default.as_deref());
        format!("{name} = {}\n", default.expect("the reference has a default"))
    });
    let redis = |lines: &str| {
        format!(
            "[server]\nhttp_listen = \"127.0.0.1:8081\"\n\
             [replay]\nstore = \"redis\"\nurl = {{ env = \"REDIS_URL\" }}\n{lines}\
             [[route]]\nname = \"a\"\npath = \"/a\"\nscheme = \"vivoldi\"\n\
             upstream = \"http://127.0.0.1:8080\"\nsecret = {{ env = \"SECRET\" }}\n"
        )
    };
    assert_eq!(shown(&redis("")), shown(&redis(&lines.concat())));
}

#[test]
fn the_sample_is_in_order() {
    let text = read("gateway.toml");
    let environment =
        |name: &str| (name == "VIVOLDI_WEBHOOK_SECRET").then(|| format!("{CANARY}-of-the-sample"));
    let base = Path::new(env!("CARGO_MANIFEST_DIR"));
    let parsed = parse("gateway.toml", &text, base, &environment);
    let (config, report) = parsed.unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(report.count(Severity::Warning), 0, "{report}");
    assert_eq!(config.routes.len(), 1);
    let refused = parse("gateway.toml", &text, base, &|_| None).expect_err("no secret");
    assert_eq!(refused.count(Severity::Error), 1, "{refused}");
}
