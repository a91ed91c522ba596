mod destination;
mod repeat;

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header::HOST};

use self::destination::destination;
use super::{
    Status,
    client::{Destination, SenderClient},
    err, invalid, now, out,
    sign::{SignArguments, Signed, inputs, signed_with},
};
use crate::{config::Config, response::ANSWER};

/// How long a gateway that does not listen yet may take to start.
const STARTING: Duration = Duration::from_secs(3);

/// Where `send` and `rehearse` send requests.
#[derive(Args)]
pub(super) struct DestinationArguments {
    /// The URL to send to; default: the listener in the configuration, by the name in its
    /// certificate.
    #[arg(long, value_name = "URL")]
    to: Option<Uri>,
    /// Connect to this address instead of the URL's.
    #[arg(long, value_name = "HOST:PORT")]
    connect: Option<String>,
    /// Accept the certificates in this PEM file, and those that they have signed; default: the
    /// configuration's and the system's.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    cacert: Option<PathBuf>,
    /// Accept any certificate.
    #[arg(long)]
    insecure: bool,
}

/// Options of `sealgate send`.
#[derive(Args)]
pub(super) struct SendArguments {
    #[command(flatten)]
    destination: DestinationArguments,
    /// Send this many events, each with a fresh ID and signature, and report response times.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    repeat: Option<u64>,
    /// With --repeat: send at most this many events per second.
    #[arg(long, value_name = "R", requires = "repeat",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// Change the body after it was signed, to see how the gateway rejects it.
    #[arg(long, conflicts_with = "repeat")]
    tamper: bool,
    #[command(flatten)]
    sign: SignArguments,
}

/// `sealgate send`: signs one event, sends it and prints the response. Fails unless it is a 2xx.
pub(super) fn send(config: &Path, arguments: &SendArguments) -> anyhow::Result<Status> {
    let prepared = inputs(config, &arguments.sign).and_then(|(config, body)| {
        let to = destination(&config, &arguments.sign.route, &arguments.destination)?;
        Ok((to, config, body))
    });
    let (to, config, body) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Ok(invalid(&error)),
    };
    let url = to.url.clone();
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let connect = async || connected(&config, arguments, to).await;
    let route = config.routes.iter().find(|route| route.name == arguments.sign.route);
    let route = route.context("no such route")?;
    let sign = |body: Vec<u8>| {
        let mut headers: HeaderMap = arguments.sign.headers.iter().cloned().collect();
        if route.verifier.signs_authority()
            && let (None, Some(authority)) = (headers.get(HOST), url.authority())
        {
            headers.insert(HOST, authority.as_str().parse()?);
        }
        let at = arguments.sign.at.unwrap_or_else(now);
        signed_with(&arguments.sign, route, target, headers, Bytes::from(body), at)
    };
    let completed = route.verifier.completed_body(&body).map_err(|problem| anyhow!(problem))?;
    if completed != body {
        err!("note: the body has no event ID, so one was added\n");
    }
    let request = |signed: Signed| -> anyhow::Result<_> {
        let mut request = Request::builder().method(signed.method).uri(target).body(signed.body)?;
        *request.headers_mut() = signed.headers;
        Ok(request)
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut client = connect().await?;
        if let Some(count) = arguments.repeat {
            let tally = repeat::repeat(count, arguments.rate, async || {
                let fresh = route.verifier.fresh_body(&body, arguments.sign.at.unwrap_or_else(now));
                let signed = sign(fresh.map_err(|problem| anyhow!(problem))?)?;
                Ok(client.send(request(signed)?).await?.status())
            });
            let tally = tally.await?;
            let status = if tally.is_success() { Status::Success } else { Status::Failed };
            out!("{}", tally.summary())?;
            return Ok(status);
        }
        let mut signed = sign(completed)?;
        if arguments.tamper {
            signed.body = tampered(&signed.body);
        }
        let response = client.send(request(signed)?).await?;
        out!("{}\n", response.status())?;
        for (name, value) in response.headers() {
            out!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()))?;
        }
        out!("\n{}\n", String::from_utf8_lossy(response.body()))?;
        if let Some(hint) = hint(&response, arguments.tamper) {
            err!("{hint}\n");
        }
        Ok(if response.status().is_success() { Status::Success } else { Status::Failed })
    })
}

/// Connects to the gateway. One that has just been started may not listen yet, or may have created
/// its certificate after the configuration was read.
async fn connected(
    config: &Config,
    arguments: &SendArguments,
    mut to: Destination,
) -> anyhow::Result<SenderClient> {
    let deadline = Instant::now() + STARTING;
    loop {
        let error = match SenderClient::connect(&to).await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        let refused = error.downcast_ref::<io::Error>().map(io::Error::kind)
            == Some(io::ErrorKind::ConnectionRefused);
        let fresh = destination(config, &arguments.sign.route, &arguments.destination)?;
        let may_listen_soon = refused && arguments.destination.to.is_none();
        if (fresh == to && !may_listen_soon) || Instant::now() >= deadline {
            let advice = if refused { "; is the gateway running?" } else { "" };
            return Err(anyhow!("{error:#}{advice}"));
        }
        if refused {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        to = fresh;
    }
}

/// Returns the body with another last digit or letter, or with one byte more if it has none.
fn tampered(body: &[u8]) -> Bytes {
    let mut body = body.to_vec();
    match body.iter().rposition(u8::is_ascii_alphanumeric) {
        Some(at) => body[at] = if body[at] == b'1' { b'2' } else { b'1' },
        None => body.push(b'1'),
    }
    body.into()
}

/// Returns what to do about a response that is not a 2xx.
fn hint(response: &Response<Bytes>, tampered: bool) -> Option<String> {
    let status = response.status();
    if status.is_success() {
        return None;
    }
    if !response.headers().contains_key(ANSWER) {
        let path = match status {
            StatusCode::NOT_FOUND => "; if it expects another path, write its URL in `upstream`",
            _ => "",
        };
        return Some(format!("hint: this {status} is the handler's own response{path}"));
    }
    let cause = match status {
        _ if tampered => "the body differs from what was signed, as --tamper requests",
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "the running gateway does not accept what this configuration signs: reload the \
             gateway (SIGHUP) if its secrets have changed"
        }
        StatusCode::NOT_FOUND => "the running gateway has no route for this host and path",
        StatusCode::CONFLICT => {
            "the gateway has the same request, or the event with other headers, on record"
        }
        StatusCode::BAD_GATEWAY => {
            "the gateway got no usable response from the handler: it does not run at the route's \
             `upstream`, redirects, closes the connection, or expects https://; the log has the cause"
        }
        StatusCode::GATEWAY_TIMEOUT => {
            "the handler did not respond within `answer_within`; the gateway logs its response \
             when it arrives"
        }
        _ => "the gateway rejected the request",
    };
    let id = response.headers().get("sealgate-request-id");
    let id = id.and_then(|id| id.to_str().ok()).unwrap_or("");
    Some(format!("hint: {cause}; the gateway's log line with request_id={id} has the details"))
}
