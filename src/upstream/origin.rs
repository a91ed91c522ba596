//! The address of an upstream, and the request target that it receives.

use std::{borrow::Cow, fmt, path::PathBuf, str::FromStr};

use http::{Uri, uri::PathAndQuery};

use crate::{reject::Reject, target};

/// The longest path of a socket, its final zero byte included (`sun_path`, unix(7)).
const SOCKET_PATH: usize = 108;

/// The forms of an address, for error messages.
const FORMS: &str = "http://host:port, https://host:port or unix:/path/of.sock";

/// The address of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginAddress {
    /// `http://host:port`.
    Http {
        /// Host name or address, without brackets.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// `https://host:port`.
    Https {
        /// Host name or address, without brackets.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// `unix:/run/app.sock`.
    Unix(PathBuf),
}

/// An upstream, as configured: its address and possibly a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The address.
    pub address: OriginAddress,
    /// The path that replaces the sender's.
    pub path: Option<String>,
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("unix:") {
            return unix(text, rest);
        }
        let uri: Uri = text.parse().map_err(|_| format!("`{text}` is not a URL"))?;
        let (Some(scheme @ ("http" | "https")), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return Err(format!("`{text}` must be {FORMS}"));
        };
        if uri.query().is_some() || uri.authority().is_some_and(|a| a.as_str().contains('@')) {
            return Err(format!("`{text}` may have neither a query nor a user"));
        }
        let host = host.trim_matches(['[', ']']).to_owned();
        let address = match (scheme, uri.port_u16()) {
            ("http", port) => OriginAddress::Http { host, port: port.unwrap_or(80) },
            (_, port) => OriginAddress::Https { host, port: port.unwrap_or(443) },
        };
        Ok(Origin { address, path: own_path(uri.path()) })
    }
}

/// Parses a socket and, after a second colon, the path: `unix:/run/app.sock:/hook`.
fn unix(text: &str, rest: &str) -> Result<Origin, String> {
    let (socket, path) = match rest.split_once(":/") {
        Some((socket, path)) => (socket, format!("/{path}")),
        None => (rest, "/".to_owned()),
    };
    if !socket.starts_with('/') || socket.ends_with('/') || socket.len() >= SOCKET_PATH {
        return Err(format!("`{text}` must be the absolute path of a socket, at most 107 bytes"));
    }
    if path.contains(['?', '#']) || !path.parse::<PathAndQuery>().is_ok_and(|p| p == *path) {
        return Err(format!(
            "`{text}` has a path with characters that are not allowed in a request"
        ));
    }
    Ok(Origin { address: OriginAddress::Unix(socket.into()), path: own_path(&path) })
}

fn own_path(path: &str) -> Option<String> {
    Some(path).filter(|path| !matches!(*path, "" | "/")).map(str::to_owned)
}

impl Origin {
    /// Returns the upstream's own `Host`: without the scheme's default port, and `localhost` for a
    /// socket.
    pub fn authority(&self) -> String {
        let (host, port, usual) = match &self.address {
            OriginAddress::Http { host, port } => (host, port, 80),
            OriginAddress::Https { host, port } => (host, port, 443),
            OriginAddress::Unix(_) => return "localhost".to_owned(),
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        if *port == usual { host } else { format!("{host}:{port}") }
    }

    /// Returns the request target: the sender's path and query, or this origin's path and the
    /// sender's query. On a wildcard route, the rest of the sender's path is appended to the
    /// origin's.
    ///
    /// # Errors
    /// [`Reject::BadRequest`] if the sender's URI has no path and query.
    pub(super) fn target<'u>(
        &self,
        uri: &'u Uri,
        matched: Option<usize>,
    ) -> Result<Cow<'u, str>, Reject> {
        let kept = target::path_and_query(uri).ok_or(Reject::BadRequest("request target"))?;
        let Some(path) = &self.path else {
            // An absolute target may have a query and no path.
            return Ok(if kept.starts_with('?') { format!("/{kept}").into() } else { kept });
        };
        let mut text = path.clone();
        if let Some(rest) = matched.and_then(|matched| uri.path().get(matched..)) {
            if !text.ends_with('/') {
                text.push('/');
            }
            text.push_str(rest);
        }
        if let Some(query) = target::query(uri) {
            text.push('?');
            text.push_str(&query);
        }
        Ok(text.into())
    }
}

/// For the log: as configured, without the path.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            OriginAddress::Http { .. } => write!(f, "http://{}", self.authority()),
            OriginAddress::Https { .. } => write!(f, "https://{}", self.authority()),
            OriginAddress::Unix(socket) => write!(f, "unix:{}", socket.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(host: &str, port: u16) -> OriginAddress {
        OriginAddress::Http { host: host.to_owned(), port }
    }

    #[test]
    fn parses_origins_with_their_defaults() {
        let secure = |port| OriginAddress::Https { host: "app".to_owned(), port };
        let socket = || OriginAddress::Unix("/run/app.sock".into());
        for (text, address, path, authority, shown) in [
            ("http://app:8080", http("app", 8080), None, "app:8080", "http://app:8080"),
            ("http://app:8080/", http("app", 8080), None, "app:8080", "http://app:8080"),
            ("http://app:8080/in", http("app", 8080), Some("/in"), "app:8080", "http://app:8080"),
            ("http://app", http("app", 80), None, "app", "http://app"),
            ("http://[::1]", http("::1", 80), None, "[::1]", "http://[::1]"),
            ("https://app/in", secure(443), Some("/in"), "app", "https://app"),
            ("https://app:80", secure(80), None, "app:80", "https://app:80"),
            ("unix:/run/app.sock", socket(), None, "localhost", "unix:/run/app.sock"),
            ("unix:/run/app.sock:/", socket(), None, "localhost", "unix:/run/app.sock"),
            ("unix:/run/app.sock:/in", socket(), Some("/in"), "localhost", "unix:/run/app.sock"),
        ] {
            let origin: Origin = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(origin, Origin { address, path: path.map(str::to_owned) }, "{text}");
            assert_eq!((origin.authority().as_str(), &*origin.to_string()), (authority, shown));
        }
    }

    #[test]
    fn rejects_invalid_origins() {
        let long = format!("unix:/{}", "s".repeat(SOCKET_PATH));
        for wrong in [
            "app:8080",
            "ftp://app",
            "http://app/?q",
            "https://app/?q",
            "http://u:p@app",
            "",
            "unix:app.sock",
            "unix:/run/",
            "unix:/run/app.sock:/a b",
            "unix:/run/app.sock:/a?b",
            &long,
        ] {
            let origin = wrong.parse::<Origin>();
            assert!(origin.is_err(), "{wrong}: {origin:?}");
        }
    }

    #[test]
    fn targets_keep_the_senders_path_and_query() {
        let uri: Uri = "/hooks/a/b?q=1".parse().expect("a target");
        let at = |path: Option<&str>, matched| {
            let origin = Origin { address: http("app", 80), path: path.map(str::to_owned) };
            origin.target(&uri, matched).expect("a target").to_string()
        };
        assert_eq!(at(None, None), "/hooks/a/b?q=1");
        assert_eq!(at(None, Some(7)), "/hooks/a/b?q=1");
        assert_eq!(at(Some("/in"), None), "/in?q=1");
        assert_eq!(at(Some("/in"), Some(7)), "/in/a/b?q=1");
        assert_eq!(at(Some("/in/"), Some(7)), "/in/a/b?q=1");
    }
}
