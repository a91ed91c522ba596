//! Secrets from files, and the problems reported for them.

use std::os::unix::fs::PermissionsExt;

use super::{
    super::secret::{Use, read},
    *,
};
use crate::secret::Secret;

/// Reads `secret = { file = "key" }` from a file with this content and mode.
fn from_file(content: &[u8], mode: u32) -> (Option<Secret>, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("key");
    fs::write(&path, content).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
    let reader = Reader::new("gateway.toml", "secret = { file = \"key\" }\n");
    let secret = {
        let table = reader.parse();
        let root = reader.root(&table);
        let surroundings = Surroundings::new(directory.path(), &|_| None);
        let field = root.get("secret").expect("it is there");
        read(&field, Use::Verify, &surroundings)
    };
    (secret, reader.finish().to_string())
}

#[test]
fn one_newline_at_the_end_of_a_file_is_dropped() {
    for (content, expected) in [
        (&b"canary-bird-in-a-coal-mine"[..], &b"canary-bird-in-a-coal-mine"[..]),
        (b"canary-bird-in-a-coal-mine\n", b"canary-bird-in-a-coal-mine"),
        (b"canary-bird-in-a-coal-mine\r\n", b"canary-bird-in-a-coal-mine"),
        (b"\xff\x00canary-bird-in-a-coal", b"\xff\x00canary-bird-in-a-coal"),
    ] {
        let (secret, report) = from_file(content, 0o600);
        assert_eq!(secret.expect("a secret").expose(), expected);
        assert_eq!(report, "");
    }
    let (secret, report) = from_file(b"canary-bird-in-a-coal-mine\n\n", 0o600);
    assert_eq!(secret.expect("a secret").expose(), b"canary-bird-in-a-coal-mine\n");
    assert!(report.contains("begins or ends with white space"), "{report}");
    assert!(!report.contains(CANARY), "{report}");
}

#[test]
fn warns_about_files_that_others_can_read() {
    for (mode, shown) in [(0o644, "(mode 644)"), (0o660, "(mode 660)"), (0o602, "(mode 602)")] {
        let (secret, report) = from_file(CANARY.as_bytes(), mode);
        assert!(secret.is_some(), "{report}");
        assert!(report.contains("is open to other users") && report.contains(shown), "{report}");
        assert!(report.contains("help: chmod 600 "), "{report}");
    }
    for mode in [0o600, 0o400, 0o440] {
        let (secret, report) = from_file(CANARY.as_bytes(), mode);
        assert!(secret.is_some() && report.is_empty(), "{report}");
    }
}

#[test]
fn warns_about_secrets_that_an_editor_or_a_shell_damaged() {
    let utf16: Vec<u8> =
        format!("\u{feff}{CANARY}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let swapped: Vec<u8> =
        format!("\u{feff}{CANARY}").encode_utf16().flat_map(u16::to_be_bytes).collect();
    for (content, message) in [
        (utf16, "is encoded in UTF-16"),
        (swapped, "is encoded in UTF-16"),
        (format!("\u{feff}{CANARY}").into_bytes(), "begins with a byte order mark"),
        (format!("\"{CANARY}\"\n").into_bytes(), "is enclosed in quotes"),
        (format!("'{CANARY}'").into_bytes(), "is enclosed in quotes"),
    ] {
        let (secret, report) = from_file(&content, 0o600);
        assert!(secret.is_some(), "{report}");
        assert!(report.starts_with("warning: ") && report.contains(message), "{report}");
        assert!(!report.contains(CANARY), "{report}");
    }
    for content in [&b"\xff\xfecanary-bird-in-a-coal-mine"[..], b"\"canary-bird-in-a-coal-mine"] {
        let (secret, report) = from_file(content, 0o600);
        assert!(secret.is_some() && report.is_empty(), "{report}");
    }
}

#[test]
fn rejects_files_without_a_secret() {
    let long = vec![b'k'; (64 << 10) + 1];
    for (content, message) in [
        (&b""[..], "is empty"),
        (b"\n", "is empty"),
        (b" \t\n", "contains only white space"),
        (b"your-global-secret-key\n", "is a placeholder from documentation"),
        (b"<YOUR SECRET>", "is a placeholder from documentation"),
        (b"${SECRET}", "is a placeholder from documentation"),
        (b"Changeme123", "is a placeholder from documentation"),
        (b"secret", "is a placeholder from documentation"),
        (&long, "is longer than 64 KiB"),
    ] {
        let (secret, report) = from_file(content, 0o600);
        assert!(secret.is_none(), "{report}");
        assert!(report.starts_with("error: ") && report.contains(message), "{report}");
    }
}
