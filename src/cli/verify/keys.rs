//! `verify --scheme`: a route of a scheme and its keys, without a configuration file.

use std::{fmt::Write, path::PathBuf};

use anyhow::{anyhow, bail};
use clap::Args;
use http::Uri;

use crate::{
    config::{self, Config},
    scheme::Scheme,
};

/// What a route would configure of a sender.
#[derive(Args)]
pub(super) struct KeyArguments {
    /// Verify without a configuration, as a route with this built-in scheme does; see `sealgate
    /// schemes`.
    #[arg(long, value_name = "ID", conflicts_with = "route")]
    pub(super) scheme: Option<String>,
    /// With --scheme: the file with the sender's secret; may be repeated.
    #[arg(long, value_name = "FILE", requires = "scheme")]
    secret_file: Vec<PathBuf>,
    /// With --scheme: the file with the sender's public key; may be repeated.
    #[arg(long, value_name = "FILE", requires = "scheme")]
    public_key_file: Vec<PathBuf>,
    /// With --scheme: the URL that is registered with the sender, if it signs its URL.
    #[arg(long, value_name = "URL", requires = "scheme")]
    public_url: Option<String>,
}

impl KeyArguments {
    /// Returns a configuration whose only route has the scheme and the keys, and the path of the
    /// request.
    ///
    /// # Errors
    /// Says which argument is missing or wrong, or that the scheme needs more than these arguments
    /// can give.
    pub(super) fn configuration(&self, id: &str, target: &Uri) -> anyhow::Result<Config> {
        let Some(scheme) = Scheme::builtin(id) else {
            let near = Scheme::suggestion(id, std::iter::empty());
            let help = near.map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
            bail!("there is no scheme `{id}`; {help}`sealgate schemes` lists all");
        };
        let configure = "write a route with this scheme and use --route";
        match (scheme.takes_public_key(), &*self.secret_file, &*self.public_key_file) {
            (true, [], []) if scheme.takes_key_set() && scheme.takes_tokens() => {
                bail!("the scheme `{id}` verifies tokens: {configure}")
            }
            (true, [], []) => bail!("the scheme `{id}` needs a public key: --public-key-file FILE"),
            (true, [_, ..], _) => {
                bail!("the scheme `{id}` takes no secret, but a public key: --public-key-file FILE")
            }
            (false, [], _) => bail!("the scheme `{id}` needs a secret: --secret-file FILE"),
            (false, _, [_, ..]) => {
                bail!("the scheme `{id}` takes no public key, but a secret: --secret-file FILE")
            }
            (true, [], [_, ..]) | (false, [_, ..], []) => {}
        }
        if scheme.needs_public_url() && self.public_url.is_none() {
            bail!("the scheme `{id}` signs its URL: --public-url URL, as registered there");
        }
        if let [first, ..] = scheme.claims() {
            bail!("the scheme `{id}` needs `{first}` in [route.jwt]: {configure}");
        }
        // A JSON string is one in TOML as well.
        let toml = |text: &str| serde_json::Value::from(text).to_string();
        let files = |files: &[PathBuf]| -> anyhow::Result<String> {
            let mut listed = Vec::new();
            for file in files {
                let path = std::path::absolute(file)?;
                let path = path.to_str().ok_or_else(|| anyhow!("a path that is not text"))?;
                listed.push(format!("{{ file = {} }}", toml(path)));
            }
            Ok(listed.join(", "))
        };
        let mut text = format!(
            "[server]\nhttp_listen = \"127.0.0.1:0\"\n[[route]]\nname = {name}\nscheme = {name}\n\
             path = {path}\nupstream = \"http://127.0.0.1:1\"\n",
            name = toml(id),
            path = toml(target.path()),
        );
        // Writing to a String cannot fail.
        if !self.secret_file.is_empty() {
            let _ = writeln!(text, "secret = [{}]", files(&self.secret_file)?);
        }
        if !self.public_key_file.is_empty() {
            let _ = writeln!(text, "public_key = [{}]", files(&self.public_key_file)?);
        }
        if let Some(url) = &self.public_url {
            let _ = writeln!(text, "public_url = {}", toml(url));
        }
        let environment = |_: &str| None;
        match config::parse("the arguments", &text, std::path::Path::new("."), &environment) {
            Ok((config, _)) => Ok(config),
            Err(report) => {
                let problems: Vec<_> = report
                    .lines()
                    .map(|(_, line)| {
                        line.splitn(4, ':').last().unwrap_or_default().trim().to_owned()
                    })
                    .collect();
                Err(anyhow!("{}", problems.join("; ")))
            }
        }
    }
}
