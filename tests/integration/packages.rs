//! Files that are installed with the binary: shell completions and the certbot hook.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use crate::kit::{Connection, Event, Upstream, free_address, until};

/// Runs a shell on a file with completions; fails if it reports an error.
fn accepts(shell: &str, arguments: &[&str], script: &Path) {
    let output = Command::new(shell).args(arguments).arg(script).output().expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && error.is_empty(), "{shell}: {error}");
}

#[test]
fn completions_are_valid_shell_scripts() {
    let dir = tempfile::tempdir().expect("a directory");
    for shell in ["bash", "zsh", "fish"] {
        let mut sealgate = Command::new(env!("CARGO_BIN_EXE_sealgate"));
        let output = sealgate.args(["completions", shell]).output().expect("the binary runs");
        assert!(output.status.success());
        let script = String::from_utf8(output.stdout).expect("text");
        for word in ["sealgate", "verify", "schemes", "log-format", "route"] {
            assert!(script.contains(word), "{word} for {shell}");
        }
        let file = dir.path().join(shell);
        fs::write(&file, script).expect("written");
        // scripts/check-deploy installs zsh and fish and tests them.
        if shell == "bash" {
            accepts(shell, &["-n"], &file);
            let words = "source $0; COMP_WORDS=(sealgate ver); COMP_CWORD=1; \
                         _sealgate sealgate ver sealgate; echo \"${COMPREPLY[@]}\"";
            let reply = Command::new("bash").args(["-c", words]).arg(&file).output();
            let reply = String::from_utf8(reply.expect("it runs").stdout).expect("text");
            assert_eq!(reply.trim(), "verify");
        }
    }
}

/// Writes a new certificate for this name to `dir`, with certbot's file names.
fn renew(dir: &Path, name: &str) -> Vec<u8> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), name.to_owned()]);
    let made = made.expect("a certificate");
    fs::create_dir_all(dir).expect("created");
    fs::write(dir.join("fullchain.pem"), made.cert.pem()).expect("written");
    fs::write(dir.join("privkey.pem"), made.signing_key.serialize_pem()).expect("written");
    made.cert.pem().into_bytes()
}

#[tokio::test]
async fn the_hook_installs_a_renewed_certificate() {
    let upstream = Upstream::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    let (live, own) = (dir.join("live"), dir.join("tls"));
    let group = Command::new("id").arg("-gn").output().expect("id runs").stdout;
    let group = String::from_utf8(group).expect("text");
    let hook = |reload: &str| {
        let hook = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/certbot/sealgate.sh");
        let mut command = Command::new("sh");
        command.arg(hook).env("RENEWED_LINEAGE", &live).env("SEALGATE_TLS", &own);
        command.env("SEALGATE_GROUP", group.trim()).env("SEALGATE_RELOAD", reload);
        assert!(command.status().expect("sh runs").success());
    };
    let first = renew(&live, "first.example");
    hook("true");
    for name in ["fullchain.pem", "privkey.pem"] {
        let mode = fs::metadata(own.join(name)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o640, "{name}");
    }
    let (public, admin) = (free_address(), free_address());
    let toml = format!(
        "[server]\nlisten = \"{public}\"\n[[server.tls]]\ncert = \"tls/fullchain.pem\"\n\
         key = \"tls/privkey.pem\"\n[admin]\nlisten = \"{admin}\"\n[[route]]\nname = \"vivoldi\"\n\
         path = \"/webhooks/vivoldi\"\nscheme = \"vivoldi\"\nupstream = \"http://{}\"\nsecret = \"{}\"\n",
        upstream.address(),
        crate::kit::SECRET
    );
    fs::write(dir.join("gateway.toml"), toml).expect("written");
    let mut running = Command::new(env!("CARGO_BIN_EXE_sealgate"));
    let mut running = crate::kit::Program::silent(running.current_dir(dir));
    running.listens(public).await;
    let send = |certificate: Vec<u8>| async move {
        Connection::tls(public, certificate).await.exchange(&Event::default().request()).await
    };
    assert_eq!(send(first).await.status, 200);
    let second = renew(&live, "second.example");
    hook(&format!("kill -HUP {}", running.id()));
    let page = || async {
        let request = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
        let page = Connection::plain(admin).await.exchange(request).await.text();
        page.contains("sealgate_config_reloads_total{result=\"ok\"} 1")
    };
    until("the reload is done", page).await;
    assert_eq!(send(second).await.status, 200, "the new certificate is served");
}
