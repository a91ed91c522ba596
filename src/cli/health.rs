use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    time::Duration,
};

use anyhow::Context;

use super::Status;
use crate::config;

const PATIENCE: Duration = Duration::from_secs(3);

/// `sealgate health`: queries `/readyz` on the first admin listener.
pub(super) fn health(path: &Path) -> anyhow::Result<Status> {
    let config = match config::load(path) {
        Ok((config, _)) => config,
        Err(report) => {
            eprint!("{report}");
            return Ok(Status::Invalid);
        }
    };
    let mut address = *config.admin.first().context("the admin listener is disabled")?;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("nothing listens on {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).context("no answer")?;
    if answer.get(8..12) == Some(b" 200") {
        println!("ready");
        Ok(Status::Success)
    } else {
        println!("not ready");
        Ok(Status::Failed)
    }
}
