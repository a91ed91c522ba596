//! Addresses and logins of Redis servers.

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    RedisConnectionInfo, RedisResult, TlsCertificates, aio::MultiplexedConnection,
};

/// The host and port of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    /// Parses the `host:port` of a redirection. An empty host is that of the server itself, and an
    /// IPv6 address has no brackets.
    pub(super) fn redirected(text: &str, own: &Address) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = if host.is_empty() { &own.host } else { host };
        Some(Address { host: host.to_owned(), port: port.parse().ok()? })
    }
}

/// Credentials, database and TLS, which are the same for every server of the store.
#[derive(Clone)]
pub(super) struct Login {
    info: ConnectionInfo,
    ca: Option<TlsCertificates>,
}

impl Login {
    /// Parses a URL into its address and the login for this and every other server. `ca` contains
    /// the root CAs that replace the system's, as PEM.
    pub(super) fn from_url(url: &str, ca: Option<&[u8]>) -> Option<(Self, Address)> {
        let info = url.into_connection_info().ok()?;
        let address = match info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                Address { host: host.clone(), port: *port }
            }
            _ => return None,
        };
        let ca = ca.map(|ca| TlsCertificates { client_tls: None, root_cert: Some(ca.to_vec()) });
        let login = Login { info, ca };
        // Fails if a certificate cannot be used.
        login.client(&address).ok()?;
        Some((login, address))
    }

    /// Returns whether both have the same credentials, database and transport.
    pub(super) fn is_same_as(&self, other: &Login) -> bool {
        let parts = |login: &Login| {
            let settings = login.info.redis_settings();
            let transport = match login.info.addr() {
                ConnectionAddr::TcpTls { insecure, .. } => Some(*insecure),
                _ => None,
            };
            let user = settings.username().map(str::to_owned);
            (user, settings.password().map(str::to_owned), settings.db(), transport)
        };
        parts(self) == parts(other)
    }

    /// Returns the number of the database.
    pub(super) fn database(&self) -> i64 {
        self.info.redis_settings().db()
    }

    /// Returns whether a user or a password is sent.
    pub(super) fn has_credentials(&self) -> bool {
        let settings = self.info.redis_settings();
        settings.password().is_some() || settings.username().is_some()
    }

    /// Returns the login for sentinels, which have no databases: with credentials or without.
    pub(super) fn for_sentinel(&self, credentials: bool) -> Self {
        let settings = if credentials {
            self.info.redis_settings().clone().set_db(0)
        } else {
            RedisConnectionInfo::default()
        };
        Login { info: self.info.clone().set_redis_settings(settings), ca: self.ca.clone() }
    }

    /// Connects to a server and logs in. No timeout applies, neither here nor to replies.
    pub(super) async fn connect(&self, address: &Address) -> RedisResult<MultiplexedConnection> {
        let unbounded =
            AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        self.client(address)?.get_multiplexed_async_connection_with_config(&unbounded).await
    }

    fn client(&self, address: &Address) -> RedisResult<Client> {
        let (host, port) = (address.host.clone(), address.port);
        let addr = match self.info.addr() {
            ConnectionAddr::TcpTls { insecure, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: None }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        let info = self.info.clone().set_addr(addr);
        match &self.ca {
            Some(ca) => Client::build_with_tls(info, ca.clone()),
            None => Client::open(info),
        }
    }
}
