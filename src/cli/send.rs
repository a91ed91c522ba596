mod repeat;

use anyhow::Context;
use clap::Args;
use http::{Request, Uri};

use super::{
    Status,
    client::SenderClient,
    invalid,
    sign::{SignArguments, inputs, signed},
};
use crate::config::{self, Config};

/// Options of `sealgate send`.
#[derive(Args)]
pub(super) struct SendArguments {
    /// The URL to send to; default: the first listener in the configuration.
    #[arg(long, value_name = "URL")]
    to: Option<Uri>,
    /// Send this many events, each with a new signature, and report response times.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    repeat: Option<u64>,
    /// With --repeat: send at most this many events per second.
    #[arg(long, value_name = "R", requires = "repeat",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    #[command(flatten)]
    sign: SignArguments,
}

/// `sealgate send`: signs one event, sends it and prints the response. Fails unless it is a 2xx.
pub(super) fn send(arguments: &SendArguments) -> anyhow::Result<Status> {
    let prepared = inputs(&arguments.sign).and_then(|(route, body)| {
        let (config, _) = config::load(&arguments.sign.config)?;
        Ok((route, body, config))
    });
    let (route, body, config) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Ok(invalid(&error)),
    };
    let sign = |body| signed(&arguments.sign, &route, body);
    let signed = sign(body.clone())?;
    let url = match &arguments.to {
        Some(url) => url.clone(),
        None => local(&config, &signed.path)?,
    };
    let roots = roots(&config);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut client = SenderClient::connect(&url, &roots).await?;
        if let Some(count) = arguments.repeat {
            let tally = repeat::repeat(count, arguments.rate, async || {
                let signed = sign(body.clone())?;
                let mut request = Request::post(url.clone()).body(signed.body)?;
                *request.headers_mut() = signed.headers;
                Ok(client.send(request).await?.status())
            });
            let tally = tally.await?;
            let status = if tally.is_success() { Status::Success } else { Status::Failed };
            print!("{}", tally.summary());
            return Ok(status);
        }
        let mut request = Request::post(url.clone()).body(signed.body)?;
        *request.headers_mut() = signed.headers;
        let response = client.send(request).await?;
        println!("{}", response.status());
        for (name, value) in response.headers() {
            println!("{name}: {}", String::from_utf8_lossy(value.as_bytes()));
        }
        println!("\n{}", String::from_utf8_lossy(response.body()));
        Ok(if response.status().is_success() { Status::Success } else { Status::Failed })
    })
}

/// Returns the URL of the gateway that runs with this configuration on this machine.
fn local(config: &Config, path: &str) -> anyhow::Result<Uri> {
    let plain = config.server.http_listen.first().map(|address| ("http", address));
    let tls = config.server.listen.first().map(|listener| ("https", &listener.address));
    let (scheme, address) = plain.or(tls).context("the configuration has no listener")?;
    let host = if address.ip().is_unspecified() || scheme == "https" {
        "localhost".to_owned()
    } else if address.is_ipv6() {
        format!("[{}]", address.ip())
    } else {
        address.ip().to_string()
    };
    let url = format!("{scheme}://{host}:{}{path}", address.port());
    url.parse().with_context(|| format!("{url} is not a URL; use --to"))
}

/// Returns the certificates to trust: those of the configuration and of the system.
fn roots(config: &Config) -> Vec<u8> {
    let own = config.server.tls.iter().map(|pair| pair.cert.clone());
    let system = std::env::var_os("SSL_CERT_FILE")
        .map_or_else(|| "/etc/ssl/certs/ca-certificates.crt".into(), std::path::PathBuf::from);
    own.chain([system]).filter_map(|path| std::fs::read(path).ok()).collect::<Vec<_>>().concat()
}
