use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use anyhow::{Context, bail};

use super::{Status, invalid, out};
use crate::config::DEFAULT_ADMIN;

const TIMEOUT: Duration = Duration::from_secs(3);

/// `sealgate health`: queries `/readyz` on the first admin listener. Only `[admin] listen` is read
/// from the configuration: the running gateway may have rejected the rest of the file.
pub(super) fn health(path: &Path) -> anyhow::Result<Status> {
    let mut address = match std::fs::read_to_string(path)
        .with_context(|| format!("{} cannot be read", path.display()))
        .and_then(|text| admin_address(&text))
    {
        Ok(address) => address,
        Err(error) => return Ok(invalid(&error)),
    };
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        });
    }
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)
        .with_context(|| format!("nothing listens on {address}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut response = Vec::new();
    let read = stream.take(4096).read_to_end(&mut response);
    read.with_context(|| format!("{address} does not respond"))?;
    if response.get(8..12) == Some(b" 200") {
        out!("ready\n")?;
        Ok(Status::Success)
    } else {
        out!("not ready\n")?;
        Ok(Status::Failed)
    }
}

/// Returns the first address of `[admin] listen`. In a file with a syntax error, only the lines of
/// that section count.
fn admin_address(text: &str) -> anyhow::Result<SocketAddr> {
    let table = text.parse::<toml::Table>().or_else(|_| admin_section(text).parse());
    let table = table.context("[admin] is not valid TOML")?;
    let Some(listen) = table.get("admin").and_then(|admin| admin.get("listen")) else {
        return Ok(DEFAULT_ADMIN);
    };
    let first = match listen {
        toml::Value::Array(addresses) => addresses.first(),
        other => Some(other),
    };
    let Some(first) = first else {
        bail!("the admin listener is disabled: `admin.listen` is empty")
    };
    let address = first.as_str().and_then(|text| text.parse().ok());
    address.context("`admin.listen` is not an address such as 127.0.0.1:9464")
}

/// Returns the lines of `[admin]`, up to the next section.
fn admin_section(text: &str) -> String {
    let is_heading = |line: &&str| line.trim_start().starts_with('[');
    let mut lines = text.lines().skip_while(|line| line.trim() != "[admin]");
    let heading = lines.next().into_iter();
    heading.chain(lines.take_while(|line| !is_heading(line))).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_admin_listener_is_read() {
        let address = |text: &str| admin_address(text).ok().map(|address| address.to_string());
        let cases = [
            ("[admin]\nlisten = \"127.0.0.1:1\"\n[server]\nlisen = 3\n", Some("127.0.0.1:1")),
            ("[server]\nlisten = [\"x\n[admin]\nlisten = \"127.0.0.1:1\"\n", Some("127.0.0.1:1")),
            ("[admin]\nlisten = [\"[::1]:2\", \"127.0.0.1:1\"]\n", Some("[::1]:2")),
            ("nonsense", Some("127.0.0.1:9464")),
            ("", Some("127.0.0.1:9464")),
            ("[admin]\nlisten = []\n", None),
            ("[admin]\nlisten = \"here\"\n", None),
        ];
        for (text, expected) in cases {
            assert_eq!(address(text).as_deref(), expected, "{text}");
        }
    }
}
