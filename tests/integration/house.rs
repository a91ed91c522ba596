//! The rules of the house: who may import from whom, which versions are too old, how long files are.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The rooms, lowest first: each imports only from rooms before it.
const ROOMS: &[&str] = &[
    "secret",
    "document",
    "target",
    "reject",
    "metrics",
    "response",
    "capacity",
    "body",
    "tls",
    "scheme",
    "diagnose",
    "replay",
    "upstream",
    "route",
    "rejections",
    "gate",
    "admin",
    "server",
    "config",
    "gateway",
    "cli",
    "main",
];

/// Versions with published advisories against what came before them.
const FLOORS: &[(&str, &str)] = &[
    ("h2", "0.4.16"),
    ("rustls", "0.23.45"),
    ("rustls-webpki", "0.103.13"),
    ("aws-lc-sys", "0.39.0"),
    ("prometheus", "0.14.0"),
];

/// Crates that must be there once: mixed majors of these do not fit together.
const ONCE: &[&str] = &["hmac", "sha2", "rustls", "hyper", "http"];

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The room that a file belongs to.
fn room(path: &Path) -> String {
    let within = path.strip_prefix(project().join("src")).expect("a source");
    let first = within.iter().next().expect("a name").to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// A file without its comments and tests.
fn code(text: &str) -> String {
    let until_tests = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("");
    until_tests
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The rooms that a file's code names by `crate::`.
fn imported(code: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    let mut rooms = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            rooms.push(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut item = String::new();
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => rooms.push(word(std::mem::take(&mut item).trim())),
                _ if depth == 0 => item.push(c),
                _ => {}
            }
        }
        rooms.push(word(item.trim()));
    }
    rooms.retain(|room| !room.is_empty());
    rooms
}

/// The imports of `room` that stand above it.
fn upward(room: &str, code: &str) -> Vec<String> {
    let rank = |name: &str| ROOMS.iter().position(|known| *known == name);
    let own = rank(room).expect("a room of the list");
    imported(code)
        .into_iter()
        .filter(|name| name != room && rank(name).is_none_or(|rank| rank > own))
        .collect()
}

#[test]
fn rooms_import_only_from_rooms_below() {
    assert_eq!(upward("gate", "use crate::{body::{self, Payload}, server};"), ["server"]);
    assert_eq!(upward("gate", "let x = crate::cli::now();"), ["cli"]);
    assert!(upward("gate", "use crate::{response, replay::Claim, gate::Record};").is_empty());
    let files = sources(&project().join("src"));
    assert!(files.len() > 40, "the sources are found");
    for file in files {
        let room = room(&file);
        if room == "lib" || file.to_string_lossy().contains("tests") {
            continue;
        }
        let text = fs::read_to_string(&file).expect("readable");
        let upward = upward(&room, &code(&text));
        assert!(upward.is_empty(), "{} imports from above: {upward:?}", file.display());
    }
}

/// The kind of a `use`: standard library, other crates, own.
fn kind(line: &str) -> Option<u8> {
    let path = line.strip_prefix("use ").or_else(|| line.strip_prefix("pub use "))?;
    Some(match path.split([':', ';', ' ', '{']).next()? {
        "std" => 0,
        "crate" | "super" | "self" => 2,
        _ => 1,
    })
}

/// The first `use` that comes after a later kind.
fn misplaced(code: &str) -> Option<&str> {
    let mut last = 0;
    code.lines().find(|line| {
        kind(line).is_some_and(|kind| {
            let wrong = kind < last;
            last = last.max(kind);
            wrong
        })
    })
}

#[test]
fn imports_are_ordered_standard_library_other_crates_own() {
    assert_eq!(misplaced("use crate::a;\nuse std::b;"), Some("use std::b;"));
    assert_eq!(misplaced("use std::b;\nuse bytes::Bytes;\nuse crate::a;"), None);
    for file in sources(&project().join("src")) {
        let text = fs::read_to_string(&file).expect("readable");
        let code = code(&text);
        assert_eq!(misplaced(&code), None, "{}", file.display());
    }
}

#[test]
fn files_are_short_and_nothing_is_left_open() {
    let forbidden = ["todo!(", "unimplemented!(", "dbg!(", "unsafe {", "#[ignore"];
    for file in sources(&project().join("src")) {
        let text = fs::read_to_string(&file).expect("readable");
        let code = code(&text);
        for word in forbidden {
            assert!(!code.contains(word), "{word} in {}", file.display());
        }
        let lines = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("").lines().count();
        let is_test = file.to_string_lossy().contains("tests");
        assert!(lines <= 400 || is_test, "{} has {lines} lines", file.display());
        let is_gate = file.ends_with("src/gate.rs");
        assert!(lines < 150 || !is_gate, "{} has {lines} lines", file.display());
    }
}

/// The versions of every crate in a lock file.
fn locked(text: &str) -> BTreeMap<String, Vec<Vec<u64>>> {
    let mut versions = BTreeMap::<_, Vec<_>>::new();
    let value = |line: &str, key: &str| -> Option<String> {
        Some(line.strip_prefix(key)?.trim_matches([' ', '=', '"']).to_owned())
    };
    let mut name = String::new();
    for line in text.lines() {
        if let Some(found) = value(line, "name") {
            name = found;
        } else if let Some(version) = value(line, "version")
            && !name.is_empty()
        {
            versions.entry(std::mem::take(&mut name)).or_default().push(numbers(&version));
        }
    }
    versions
}

fn numbers(version: &str) -> Vec<u64> {
    let plain = version.split(['-', '+']).next().unwrap_or("");
    plain.split('.').map(|part| part.parse().expect("a number")).collect()
}

#[test]
fn no_version_is_below_its_floor() {
    let lock = fs::read_to_string(project().join("Cargo.lock")).expect("a lock file");
    let locked = locked(&lock);
    for (name, floor) in FLOORS {
        let versions = locked.get(*name).unwrap_or_else(|| panic!("{name} is in the tree"));
        for version in versions {
            assert!(*version >= numbers(floor), "{name} {version:?} is below {floor}");
        }
    }
    for name in ONCE {
        assert_eq!(locked.get(*name).map(Vec::len), Some(1), "{name} is in the tree once");
    }
    for name in ["rustls-pemfile", "openssl", "native-tls"] {
        assert!(!locked.contains_key(name), "{name} is not in the tree");
    }
    assert!(numbers("0.4.9") < numbers("0.4.16"));
}

#[test]
fn every_dependency_is_justified() {
    let manifest = fs::read_to_string(project().join("Cargo.toml")).expect("a manifest");
    let architecture = fs::read_to_string(project().join("ARCHITECTURE.md")).expect("a page");
    let dependencies: Vec<_> = manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with("[lints"))
        .filter_map(|line| line.split_once(" = ").map(|(name, _)| name))
        .collect();
    assert!(dependencies.len() > 30, "{dependencies:?}");
    for name in dependencies {
        let named = architecture
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'))
            .any(|word| word == name);
        assert!(named, "{name} has no line in ARCHITECTURE.md");
    }
}

#[test]
fn no_private_key_is_kept() {
    for file in fs::read_dir(project().join("certs")).expect("a directory") {
        let path = file.expect("an entry").path();
        if path.file_name().is_some_and(|name| name == "README.md") {
            continue;
        }
        let ignored = std::process::Command::new("git")
            .args(["check-ignore", "-q"])
            .arg(&path)
            .current_dir(project())
            .status();
        assert!(ignored.is_ok_and(|status| status.success()), "{} is tracked", path.display());
    }
}

/// The bare proxy that sealgate is measured against is a floor only as long as it is made of the same
/// crates.
#[test]
fn the_bare_proxy_is_made_of_the_same_crates() {
    let lock = |path: &str| locked(&fs::read_to_string(project().join(path)).expect("a lock file"));
    let (own, peers) = (lock("Cargo.lock"), lock("benches/peers/Cargo.lock"));
    for name in ["aws-lc-sys", "http", "hyper", "mimalloc", "rustls", "tokio", "tokio-rustls"] {
        assert_eq!(own.get(name), peers.get(name), "{name}");
        assert!(own.contains_key(name), "{name}");
    }
}

#[test]
fn the_container_file_copies_only_what_is_there() {
    let text = fs::read_to_string(project().join("Dockerfile")).expect("a Dockerfile");
    let mut copied = 0;
    for line in text.lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from=")) {
        let mut words: Vec<_> = line.split_whitespace().skip(1).collect();
        words.pop();
        for source in words {
            assert!(project().join(source).exists(), "{source} of {line}");
            copied += 1;
        }
    }
    assert!(copied > 0, "the table is not empty");
    for needed in ["USER ", "HEALTHCHECK ", "ENTRYPOINT "] {
        assert!(text.contains(needed), "{needed}");
    }
}
