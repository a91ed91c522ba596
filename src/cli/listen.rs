//! `sealgate listen`: a gateway for development, without a configuration file.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;

use super::{Status, invalid, out, run::Signals, schemes};
use crate::{
    config::{self, Config},
    gateway::Gateway,
    scheme::Scheme,
};

/// The variable that contains the secret.
const SECRET: &str = "SEALGATE_SECRET";

/// Arguments of `sealgate listen`.
#[derive(Args)]
pub(super) struct ListenArguments {
    /// The sender's scheme; `sealgate schemes` lists them.
    #[arg(long, value_name = "ID")]
    scheme: String,
    /// The handler: its address, or its whole URL.
    #[arg(long, value_name = "URL")]
    forward_to: String,
    /// The address to listen on, without TLS.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8787")]
    listen: SocketAddr,
    /// A file with the secret; by default, the variable SEALGATE_SECRET contains it, and without
    /// that, one is made up and printed.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// A file with the sender's public key, for schemes that use one.
    #[arg(long, value_name = "FILE")]
    public_key_file: Option<PathBuf>,
    /// The URL that is registered with the sender, for schemes that sign it.
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
}

/// Runs the gateway until it is stopped. The log has one line for each request, with a diagnosis of
/// those that were rejected.
pub(super) fn listen(arguments: &ListenArguments) -> anyhow::Result<Status> {
    let Some(scheme) = Scheme::builtin(&arguments.scheme) else {
        schemes::report_unknown(&arguments.scheme);
        return Ok(Status::Invalid);
    };
    let secret = SecretSource::find(arguments, &scheme)?;
    let config = match configuration(arguments, &scheme, &secret) {
        Ok(config) => config,
        Err(error) => return Ok(invalid(&error)),
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(serve(config, arguments, &secret))?;
    Ok(Status::Success)
}

/// Where the secret comes from.
enum SecretSource {
    File(PathBuf),
    Environment(String),
    MadeUp(String),
    /// The scheme has public keys.
    None,
}

impl SecretSource {
    fn find(arguments: &ListenArguments, scheme: &Scheme) -> anyhow::Result<Self> {
        if scheme.takes_public_key() {
            return Ok(SecretSource::None);
        }
        if let Some(path) = &arguments.secret_file {
            return Ok(SecretSource::File(std::path::absolute(path)?));
        }
        if let Ok(secret) = std::env::var(SECRET) {
            return Ok(SecretSource::Environment(secret));
        }
        // In hexadecimal: it is valid in every form of a key.
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)
            .map_err(|error| anyhow!("the system provides no random bytes: {error}"))?;
        Ok(SecretSource::MadeUp(data_encoding::HEXLOWER.encode(&bytes)))
    }
}

fn configuration(
    arguments: &ListenArguments,
    scheme: &Scheme,
    secret: &SecretSource,
) -> anyhow::Result<Config> {
    let string = |text: &str| format!("{text:?}");
    let mut text = format!(
        "[server]\nhttp_listen = \"{}\"\nworkers = 1\n[admin]\nlisten = []\n[[route]]\n\
         name = \"{}\"\npath = \"/*\"\nscheme = \"{}\"\nupstream = {}\n",
        arguments.listen,
        scheme.id(),
        scheme.id(),
        string(&arguments.forward_to),
    );
    match secret {
        SecretSource::File(path) => {
            text += &format!("secret = {{ file = {} }}\n", string(&path.to_string_lossy()));
        }
        SecretSource::Environment(_) | SecretSource::MadeUp(_) => {
            text += &format!("secret = {{ env = \"{SECRET}\" }}\n");
        }
        SecretSource::None => {}
    }
    if let Some(path) = &arguments.public_key_file {
        let path = std::path::absolute(path)?;
        text += &format!("public_key = {{ file = {} }}\n", string(&path.to_string_lossy()));
    }
    if let Some(url) = &arguments.public_url {
        text += &format!("public_url = {}\n", string(url));
    }
    let environment = |name: &str| match secret {
        SecretSource::Environment(value) | SecretSource::MadeUp(value) if name == SECRET => {
            Some(value.clone())
        }
        _ => None,
    };
    let base = std::env::current_dir()?;
    Ok(config::parse("the command line", &text, &base, &environment).map(|(config, _)| config)?)
}

async fn serve(
    config: Config,
    arguments: &ListenArguments,
    secret: &SecretSource,
) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let gateway = Gateway::start(config).context("cannot start")?;
    let address = gateway.addresses().http.first().context("there is a listener")?;
    out!("Listening on http://{address}, any path. Forwarding to {}.\n", arguments.forward_to)?;
    match secret {
        SecretSource::MadeUp(secret) => {
            out!("Give this secret to the sender, or set {SECRET} to the sender's:\n  {secret}\n")?
        }
        SecretSource::File(_) | SecretSource::Environment(_) | SecretSource::None => {}
    }
    out!("Press Ctrl-C to stop.\n")?;
    signals.stop().await;
    gateway.drain().await;
    Ok(())
}
