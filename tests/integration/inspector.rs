//! The inspector in Chromium: `tests/browser` drives it against the binary. `scripts/libraries`
//! installs what it needs.

use std::{path::Path, process::Command};

use crate::kit::tool;

#[test]
fn works_in_a_browser() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let libraries = project.join("target/libraries");
    if !libraries.join("installed").exists() {
        let required = std::env::var_os("SEALGATE_REQUIRE_ALL").is_some();
        assert!(!required, "the libraries are not installed: run scripts/libraries");
        eprintln!("SKIPPED: the libraries are not installed; scripts/libraries does it");
        return;
    }
    let (Some(chromium), Some(mut node)) = (tool("chromium"), tool("node")) else { return };
    let output = node
        .args(["--test", "--test-reporter=spec", "tests/browser/inspector.test.mjs"])
        .current_dir(project)
        .env("SEALGATE", env!("CARGO_BIN_EXE_sealgate"))
        .env("LIBRARIES", libraries)
        .env("CHROMIUM", which(&chromium))
        .output()
        .expect("node runs");
    let report = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}\n{errors}");
}

/// Returns the path of a program: the driver does not search for it.
fn which(program: &Command) -> String {
    let found = Command::new("which").arg(program.get_program()).output().expect("which runs");
    String::from_utf8(found.stdout).expect("a path").trim().to_owned()
}
