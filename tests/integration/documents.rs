//! The documentation is correct: links resolve, every page is linked, every configuration is valid.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use sealgate::internals::config;
use tempfile::TempDir;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the files in the project's documented directories with this ending.
fn files(ending: &str) -> Vec<PathBuf> {
    let mut left: Vec<_> = ["docs", "deploy", "examples", "certs", "schemes"]
        .iter()
        .map(|name| project().join(name))
        .collect();
    let mut found = Vec::new();
    for entry in fs::read_dir(project()).expect("a directory") {
        found.push(entry.expect("an entry").path());
    }
    while let Some(dir) = left.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.expect("an entry").path();
            if path.is_dir() { left.push(path) } else { found.push(path) }
        }
    }
    found.retain(|path| path.is_file() && path.to_string_lossy().ends_with(ending));
    assert!(!found.is_empty(), "the table is not empty: {ending}");
    found
}

/// Returns the targets of a page's links, without external ones.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:")).collect()
}

/// Returns the anchor of a heading.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_resolve_and_every_page_is_linked() {
    assert_eq!(anchor("## `[route.jwt]` and more"), "routejwt-and-more");
    let mut linked = BTreeSet::new();
    for page in files(".md") {
        let text = fs::read_to_string(&page).expect("readable");
        for link in links(&text) {
            let (path, part) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => page.clone(),
                _ => page.parent().expect("a directory").join(path),
            };
            let target = target.canonicalize();
            let target = target.unwrap_or_else(|_| panic!("{link} in {}", page.display()));
            if !part.is_empty() {
                let text = fs::read_to_string(&target).expect("readable");
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                assert!(headings.any(|line| anchor(line) == part), "{link} in {}", page.display());
            }
            if page == project().join("README.md") {
                linked.insert(target);
            }
        }
    }
    for page in files(".md").into_iter().filter(|page| page.starts_with(project().join("docs"))) {
        assert!(linked.contains(&page), "{} is not linked from README.md", page.display());
    }
}

/// Returns the code blocks of a page in this language, without the indentation of a list.
pub(crate) fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim_start() == format!("```{language}") {
            let indent = line.len() - line.trim_start().len();
            let block = lines.by_ref().take_while(|line| line.trim_start() != "```");
            let block = block.map(|line| line.get(indent..).unwrap_or(""));
            found.push(block.collect::<Vec<_>>().join("\n"));
        }
    }
    found
}

/// Creates the files that a configuration names, below `dir`; returns the configuration with their
/// paths.
fn with_files(text: &str, dir: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]);
    let made = made.expect("a certificate");
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let mut own = text.to_owned();
    for named in text.split('"').skip(1).step_by(2) {
        let absolute = ["/etc/", "/run/", "/var/", "/data/"].iter().any(|at| named.starts_with(at));
        let endings = [".pem", ".crt", ".key", ".secret", ".txt"];
        if !absolute && !endings.iter().any(|ending| named.ends_with(ending)) {
            continue;
        }
        let path = dir.join(named.trim_start_matches('/'));
        own = own.replace(&format!("\"{named}\""), &format!("{:?}", path.display().to_string()));
        let is_store = ["/replay", "/events", "/acme"].iter().any(|end| named.ends_with(end));
        if is_store || path.exists() {
            continue;
        }
        fs::create_dir_all(path.parent().expect("a directory")).expect("created");
        let is_key = [".key", "privkey.pem", "key.pem"].iter().any(|end| named.ends_with(end));
        let content = match named {
            _ if is_key => &key,
            _ if named.ends_with(".crt") || named.ends_with(".pem") => &cert,
            _ if named.contains("database") => "postgres://sealgate:a-password@postgres/sealgate",
            _ if named.contains("redis") => "redis://127.0.0.1:6379/0",
            _ => "a-secret-out-of-a-file-of-the-test",
        };
        fs::write(&path, content).expect("written");
    }
    own
}

/// Parses a configuration as `sealgate check` does; fails if it is invalid.
fn checked(what: &str, text: &str) -> config::Config {
    let dir = TempDir::new().expect("a directory");
    let text = with_files(text, dir.path());
    let environment = |name: &str| {
        let secret = format!("a-secret-under-the-name-{name}");
        Some(if name.contains("REDIS") { "redis://127.0.0.1:6379/0".to_owned() } else { secret })
    };
    match config::parse("gateway.toml", &text, dir.path(), &environment) {
        Ok((config, _)) => config,
        Err(report) => panic!("{what}:\n{report}\n{text}"),
    }
}

/// Returns whether a block is a complete configuration. One that needs a scheme file is tested with
/// that file elsewhere.
fn is_complete(text: &str) -> bool {
    text.contains("[server]") && text.contains("[[route]]") && !text.contains("scheme_file")
}

#[test]
fn every_configuration_in_the_documentation_is_valid() {
    assert_eq!(blocks("1. a\n   ```toml\n   x = 1\n   ```\n", "toml"), ["x = 1"]);
    let mut tried = 0;
    for page in files(".md") {
        let text = fs::read_to_string(&page).expect("readable");
        for block in blocks(&text, "toml").iter().filter(|block| is_complete(block)) {
            checked(&page.display().to_string(), block);
            tried += 1;
        }
    }
    assert!(tried > 0, "the table is not empty");
}

/// Returns the lines below `heading` that are indented deeper, without the indentation.
fn embedded(text: &str, heading: &str) -> String {
    let mut lines = text.lines().skip_while(|line| line.trim() != heading);
    let line = lines.next().expect("the heading");
    let indent = line.len() - line.trim_start().len() + 2;
    let deeper = |line: &&str| line.trim().is_empty() || line.starts_with(&" ".repeat(indent));
    lines
        .take_while(deeper)
        .map(|line| line.get(indent..).unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn every_shipped_configuration_is_valid() {
    let mut tried = 0;
    for file in files("gateway.toml") {
        checked(&file.display().to_string(), &fs::read_to_string(&file).expect("readable"));
        tried += 1;
    }
    assert!(tried > 5, "the table is not empty");
    for map in ["configuration.yaml", "postgres/configuration.yaml"] {
        let text = fs::read_to_string(project().join("deploy/kubernetes").join(map));
        checked(map, &embedded(&text.expect("readable"), "gateway.toml: |"));
    }
}

/// Returns the text of all files below `dir`.
fn sources(dir: &Path) -> String {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry"));
    let text = |path: PathBuf| match path.is_dir() {
        true => sources(&path),
        false => fs::read_to_string(&path).expect("readable"),
    };
    let is_code = |path: &PathBuf| path.is_dir() || path.extension().is_some_and(|end| end == "rs");
    entries.map(|entry| entry.path()).filter(is_code).map(text).collect()
}

#[test]
fn every_quoted_log_message_exists() {
    let page = project().join("docs/what-happens-to-my-event.md");
    let page = fs::read_to_string(page).expect("readable");
    let rows = page.lines().skip_while(|line| *line != "| message | store |").skip(2);
    let cells = rows.map_while(|line| line.strip_prefix("| ")?.split(" | ").next());
    let quoted: Vec<_> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert!(quoted.len() > 5, "the table is not empty: {quoted:?}");
    let sources = sources(&project().join("src"));
    for message in quoted {
        // The stores share messages that begin with their name.
        let shared = message.replace("the replay store", "the {}");
        let is_logged =
            [message, &shared].iter().any(|text| sources.contains(&format!("\"{text}")));
        assert!(is_logged, "no log message begins with {message}");
    }
}

/// Stop timeouts of orchestrators are longer than the drain.
#[test]
fn stop_timeouts_are_longer_than_the_drain() {
    let read = |path: &str| fs::read_to_string(project().join("deploy").join(path)).expect("there");
    let seconds = |text: &str, before: &str| -> Duration {
        let rest = text.split(before).nth(1).unwrap_or_else(|| panic!("{before} is there"));
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Duration::from_secs(digits.parse().expect("a number"))
    };
    let map = embedded(&read("kubernetes/configuration.yaml"), "gateway.toml: |");
    let gateway = read("kubernetes/gateway.yaml");
    for (what, configuration, timeout) in [
        ("kubernetes", map, seconds(&gateway, "terminationGracePeriodSeconds: ")),
        (
            "systemd",
            read("systemd/gateway.toml"),
            seconds(&read("systemd/sealgate.service"), "TimeoutStopSec="),
        ),
        (
            "compose",
            read("compose/gateway.toml"),
            seconds(&read("compose/compose.yml"), "stop_grace_period: "),
        ),
    ] {
        let server = checked(what, &configuration).server;
        let draining = server.drain_delay + server.drain;
        assert!(timeout > draining + Duration::from_secs(5), "{what}: {timeout:?} {draining:?}");
    }
}
