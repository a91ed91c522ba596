//! `sealgate init`: writes a configuration to start from.

use std::{fmt::Write as _, fs::OpenOptions, io::Write as _, path::Path};

use anyhow::{Context, anyhow};
use clap::Args;
use http::Uri;

use super::{Status, err, invalid, out, schemes};
use crate::{config, scheme::Scheme};

/// Arguments of `sealgate init`.
#[derive(Args)]
pub(super) struct InitArguments {
    /// The sender's scheme; `sealgate schemes` lists them.
    #[arg(long, value_name = "ID")]
    scheme: String,
    /// The handler: its address, or its whole URL.
    #[arg(long, value_name = "URL")]
    upstream: String,
    /// The public host name, for a certificate from Let's Encrypt; without it, the certificate is
    /// self-signed and only for development.
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
}

/// Writes the configuration to `path`, unless the file exists, and prints what to do next.
pub(super) fn init(path: &Path, arguments: &InitArguments) -> anyhow::Result<Status> {
    let Some(scheme) = Scheme::builtin(&arguments.scheme) else {
        schemes::report_unknown(&arguments.scheme);
        return Ok(Status::Invalid);
    };
    if let Err(error) = check(arguments) {
        return Ok(invalid(&error));
    }
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = match file {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            err!("error: {} exists, and is not overwritten\n", path.display());
            return Ok(Status::Failed);
        }
        file => file.with_context(|| format!("cannot create {}", path.display()))?,
    };
    file.write_all(configuration(&scheme, arguments)?.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    out!("{}", next_steps(path, &scheme))?;
    Ok(Status::Success)
}

fn check(arguments: &InitArguments) -> anyhow::Result<()> {
    let upstream = &arguments.upstream;
    let valid = upstream.parse::<Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some()
            && !upstream.contains(['"', '\\'])
    });
    if !valid {
        return Err(anyhow!("--upstream: `{upstream}` is not a URL such as http://127.0.0.1:8080"));
    }
    match &arguments.domain {
        Some(domain) if !config::is_domain(&domain.to_ascii_lowercase()) => {
            Err(anyhow!("--domain: `{domain}` is not a host name such as hooks.example.com"))
        }
        Some(_) | None => Ok(()),
    }
}

fn configuration(scheme: &Scheme, arguments: &InitArguments) -> Result<String, std::fmt::Error> {
    let InitArguments { upstream, domain, .. } = arguments;
    let id = scheme.id();
    let mut text = String::from("# docs/configuration.md describes every key.\n\n[server]\n");
    match domain {
        Some(domain) => write!(
            text,
            "listen = \"0.0.0.0:443\"\n\n\
             [server.acme]                          # a certificate from Let's Encrypt\n\
             domains = [\"{domain}\"]\n\
             # contact = [\"you@example.com\"]\n\
             # directory = \"letsencrypt-staging\"    # for tests: high limits, not trusted\n"
        )?,
        None => text.push_str(
            "listen = \"127.0.0.1:8443\"\n\n\
             [[server.tls]]                         # for development; created at start\n\
             cert = \"tls/dev.crt\"\n\
             key = \"tls/dev.key\"\n\
             self_signed = [\"localhost\"]\n",
        ),
    }
    write!(
        text,
        "\n[replay]\n\
         store = \"disk\"                         # or \"memory\", or \"redis\" for several replicas\n\
         path = \"data/replay\"\n\n\
         [[route]]\n\
         name = \"{id}\"\n\
         path = \"/webhooks/{id}\"\n\
         scheme = \"{id}\"\n\
         upstream = \"{upstream}\"\n"
    )?;
    if scheme.needs_public_url() {
        let host = domain.as_deref().unwrap_or("localhost:8443");
        writeln!(text, "public_url = \"https://{host}/webhooks/{id}\"   # as registered there")?;
    }
    match (scheme.takes_public_key(), scheme.takes_tokens()) {
        _ if scheme.fetches_keys() => {}
        (false, _) => writeln!(text, "secret = {{ file = \"{id}.secret\" }}")?,
        (true, false) => writeln!(text, "public_key = {{ file = \"{id}.key\" }}")?,
        (true, true) => {}
    }
    text.push_str(
        "# mode = \"observe\"                     # reject nothing yet, but log what would be\n",
    );
    let settings: Vec<_> = scheme.required_settings().collect();
    if !settings.is_empty() {
        text.push_str("\n[route.settings]\n");
        for (name, what, is_confidential) in settings {
            let value = if is_confidential {
                format!("{{ file = \"{id}.{name}\" }}")
            } else {
                "\"\"".to_owned()
            };
            writeln!(text, "{:<39}# {what}", format!("{name} = {value}"))?;
        }
    }
    let has_claims = !scheme.claims().is_empty();
    if scheme.takes_tokens()
        && ((scheme.takes_public_key() && !scheme.fetches_keys()) || has_claims)
    {
        text.push_str("\n[route.jwt]\n");
        if scheme.takes_public_key() {
            writeln!(
                text,
                "jwks = \"file:{id}.jwks\"              # or https://…: the keys that the sender publishes"
            )?;
        }
        for claim in scheme.claims() {
            writeln!(text, "{claim} = []                          # as the sender shows it")?;
        }
    }
    Ok(text)
}

fn next_steps(path: &Path, scheme: &Scheme) -> String {
    let (id, name) = (scheme.id(), path.display());
    let key = match (scheme.takes_public_key(), scheme.takes_tokens()) {
        _ if scheme.fetches_keys() => {
            format!("\"${{EDITOR:-vi}}\" {name}          # complete [route.settings]")
        }
        (false, _) => {
            format!("(umask 077; cat > {id}.secret)      # paste the secret, then Ctrl-D")
        }
        (true, false) => {
            format!("cat > {id}.key                    # paste the public key, then Ctrl-D")
        }
        (true, true) => format!("\"${{EDITOR:-vi}}\" {name}          # complete [route.jwt]"),
    };
    let option = if path == Path::new(super::DEFAULT_CONFIG) {
        String::new()
    } else {
        format!(" --config {name}")
    };
    format!("{name} is written. Next:\n\n  {key}\n  sealgate check{option}\n  sealgate{option}\n")
}
