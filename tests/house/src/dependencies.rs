//! The dependencies: versions that are new enough, one line of justification for each, and no key
//! or missing file in what is packaged.

use std::{collections::BTreeMap, fs};

use super::project;

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
    let sections = manifest.split("\n[").filter_map(|section| section.split_once("]\n"));
    let dependencies: Vec<_> = sections
        .filter(|(name, _)| name.ends_with("dependencies"))
        .flat_map(|(_, lines)| lines.lines())
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

/// The bare proxy that sealgate is measured against is a floor only as long as it is made of the
/// same crates.
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
