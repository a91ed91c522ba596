//! An ACME directory: Pebble, the test server of Let's Encrypt, with a separate resolver, behind
//! a relay that adds renewal information and can be unavailable.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use super::{Authority, Program, client_config, free_address, tool};

/// Options of a directory.
pub(crate) struct PebbleOptions {
    /// Where validations over TLS connect to.
    pub(crate) tls: SocketAddr,
    /// Where validations over HTTP connect to; must have the same IP address.
    pub(crate) http: SocketAddr,
    /// The lifetime of certificates.
    pub(crate) lifetime: Duration,
    /// Whether accounts must be bound to the external account `kid-1` with the key
    /// [`EXTERNAL_KEY`].
    pub(crate) external_account: bool,
}

/// The key of the external account.
pub(crate) const EXTERNAL_KEY: &str =
    "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

/// Running directory.
pub(crate) struct Pebble {
    program: Option<Program>,
    relay: SocketAddr,
    address: SocketAddr,
    management: SocketAddr,
    resolver: SocketAddr,
    state: Arc<Mutex<RelayState>>,
    dir: TempDir,
}

#[derive(Default)]
struct RelayState {
    is_unavailable: bool,
    /// The suggested window for each certificate, and `Retry-After`.
    renewal_window: Option<(SystemTime, SystemTime)>,
    renewal_queries: usize,
}

impl Pebble {
    /// Starts a directory; `None` if Pebble is not installed and tests may be skipped.
    pub(crate) async fn start(options: &PebbleOptions) -> Option<Self> {
        let program = tool("pebble")?;
        let dir = tempfile::tempdir().expect("a directory");
        let authority = Authority::new();
        authority.write(&dir.path().join("ca.pem"));
        authority.write_pair(dir.path(), "localhost");
        let (address, management) = (free_address(), free_address());
        let external = if options.external_account {
            format!(
                ", \"externalAccountBindingRequired\": true, \
                 \"externalAccountMACKeys\": {{ \"kid-1\": \"{EXTERNAL_KEY}\" }}"
            )
        } else {
            String::new()
        };
        let config = format!(
            "{{ \"pebble\": {{ \"listenAddress\": \"{address}\", \
             \"managementListenAddress\": \"{management}\", \
             \"certificate\": \"localhost.pem\", \"privateKey\": \"localhost.key\", \
             \"httpPort\": {}, \"tlsPort\": {}, \"ocspResponderURL\": \"\", \
             \"certificateValidityPeriod\": {}{external} }} }}",
            options.http.port(),
            options.tls.port(),
            options.lifetime.as_secs(),
        );
        std::fs::write(dir.path().join("pebble.json"), config).expect("written");
        let SocketAddr::V4(target) = options.tls else { panic!("{}", options.tls) };
        let resolver = resolver(*target.ip()).await;
        let state = Arc::<Mutex<RelayState>>::default();
        let trusted = std::fs::read(dir.path().join("ca.pem")).expect("written above");
        let acceptor = TlsAcceptor::from(Arc::new(authority.server("localhost", None)));
        let relay = relay(address, acceptor, trusted, Arc::clone(&state)).await;
        let mut pebble = Pebble { program: None, relay, address, management, resolver, state, dir };
        pebble.run(program).await;
        Some(pebble)
    }

    /// Restarts Pebble, which forgets all accounts and orders.
    pub(crate) async fn lose_state(&mut self) {
        self.program = None;
        self.run(tool("pebble").expect("it was found before")).await;
    }

    async fn run(&mut self, mut command: Command) {
        let log = File::options().create(true).append(true).open(self.log_file()).expect("a log");
        command
            .args(["-config", "pebble.json", "-dnsserver", &self.resolver.to_string()])
            .current_dir(self.dir.path())
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "10")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log);
        let mut program = Program::logging(&mut command);
        program.listens(self.address).await;
        self.program = Some(program);
    }

    /// Returns the lines of `[server.acme]` that name this directory.
    pub(crate) fn toml(&self) -> String {
        format!(
            "directory = \"https://localhost:{}/dir\"\nca = \"{}\"\n",
            self.relay.port(),
            self.dir.path().join("ca.pem").display()
        )
    }

    /// Makes the directory respond 503 to every request, or normally again.
    pub(crate) fn set_unavailable(&self, unavailable: bool) {
        self.state.lock().expect("not poisoned").is_unavailable = unavailable;
    }

    /// Sets the window in which certificates should be renewed.
    pub(crate) fn set_renewal_window(&self, start: SystemTime, end: SystemTime) {
        self.state.lock().expect("not poisoned").renewal_window = Some((start, end));
    }

    /// Returns how often renewal information was queried.
    pub(crate) fn renewal_queries(&self) -> usize {
        self.state.lock().expect("not poisoned").renewal_queries
    }

    /// Returns how many orders were created.
    pub(crate) fn orders(&self) -> usize {
        self.log().matches("Added order").count()
    }

    /// Returns how many certificates were issued.
    pub(crate) fn issued(&self) -> usize {
        self.log().matches("Issued certificate serial").count()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).expect("a log")
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("pebble.log")
    }

    /// Returns the root CA of the issued certificates, as PEM. It changes with a restart.
    pub(crate) async fn root(&self) -> Vec<u8> {
        let trusted = std::fs::read(self.dir.path().join("ca.pem")).expect("written at start");
        let request = b"GET /roots/0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let response = exchange(self.management, &trusted, request).await.expect("a response");
        let text = String::from_utf8(response).expect("text");
        let begin = text.find("-----BEGIN").expect("PEM");
        text.as_bytes()[begin..].to_vec()
    }
}

/// Starts a resolver that returns one address for every name.
async fn resolver(address: Ipv4Addr) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let own = socket.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut query).await {
            let _ = socket.send_to(&resolve(&query[..length], address), client).await;
        }
    });
    own
}

/// Returns the response to a query with one question (RFC 1035 section 4.1).
fn resolve(query: &[u8], address: Ipv4Addr) -> Vec<u8> {
    let name = query[12..].iter().position(|byte| *byte == 0).expect("a name") + 13;
    let question = &query[12..name + 4];
    let wants_ipv4 = query[name..name + 2] == [0, 1];
    let mut response = query[..2].to_vec();
    response.extend([0x81, 0x80, 0, 1, 0, u8::from(wants_ipv4), 0, 0, 0, 0]);
    response.extend(question);
    if wants_ipv4 {
        response.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        response.extend(address.octets());
    }
    response
}

/// Starts the relay, and returns its address.
async fn relay(
    to: SocketAddr,
    acceptor: TlsAcceptor,
    trusted: Vec<u8>,
    state: Arc<Mutex<RelayState>>,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let own = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, trusted) = (acceptor.clone(), trusted.clone());
            let state = Arc::clone(&state);
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(stream).await else { return };
                let Some(request) = read_request(&mut client).await else { return };
                let response = respond(to, &trusted, &request, &state).await;
                let _ = client.write_all(&response).await;
                let _ = client.shutdown().await;
            });
        }
    });
    own
}

async fn respond(
    to: SocketAddr,
    trusted: &[u8],
    request: &str,
    state: &Mutex<RelayState>,
) -> Vec<u8> {
    let path = request.split(' ').nth(1).expect("a request line");
    let window = {
        let mut state = state.lock().expect("not poisoned");
        if state.is_unavailable {
            return b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\
                Content-Length: 0\r\n\r\n"
                .to_vec();
        }
        state.renewal_queries += usize::from(path.starts_with("/renewal-info/"));
        state.renewal_window
    };
    if let (Some((start, end)), true) = (window, path.starts_with("/renewal-info/")) {
        let time = |time: SystemTime| {
            let format = &time::format_description::well_known::Rfc3339;
            time::OffsetDateTime::from(time).format(format).expect("a time")
        };
        let (start, end) = (time(start), time(end));
        return json(
            "Retry-After: 1\r\n",
            &format!("{{\"suggestedWindow\":{{\"start\":\"{start}\",\"end\":\"{end}\"}}}}"),
        );
    }
    let request = request.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let Ok(response) = exchange(to, trusted, request.as_bytes()).await else { return Vec::new() };
    if path != "/dir" || window.is_none() {
        return response;
    }
    let text = String::from_utf8(response).expect("text");
    let (_, body) = text.split_once("\r\n\r\n").expect("a head");
    let host = request
        .lines()
        .find_map(|line| line.to_lowercase().strip_prefix("host: ").map(str::to_owned));
    let url = format!("https://{}/renewal-info", host.expect("a host"));
    json("", &body.replacen('{', &format!("{{\"renewalInfo\":\"{url}\","), 1))
}

fn json(headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// Reads a request with a `Content-Length`, or without a body.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |n| n.parse().expect("a length")) {
                return Some(text);
            }
        }
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}

/// Sends a request and reads until the server closes the connection.
async fn exchange(address: SocketAddr, trusted: &[u8], request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = connect(address, trusted, "localhost").await?;
    stream.write_all(request).await?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await?;
    Ok(response)
}

/// Opens a TLS connection to a server that must have a certificate for `name`.
pub(crate) async fn connect(
    address: SocketAddr,
    trusted: &[u8],
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let config = Arc::new(client_config(trusted, &[b"http/1.1"], false));
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    TlsConnector::from(config).connect(name, stream).await
}
