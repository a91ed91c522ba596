//! TLS of the public listener.

use std::{path::Path, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};

use super::{
    certificates::Certificates,
    challenges::ACME_TLS_ALPN,
    pem::{self, TlsError},
};

/// The authorities that sign client certificates.
#[derive(Clone, Debug)]
pub struct ClientAuthority(Arc<dyn ClientCertVerifier>);

impl ClientAuthority {
    /// Loads the authorities of a PEM file. A client must present a certificate that chains to one
    /// of them, is valid now and allows client authentication (RFC 5280).
    ///
    /// # Errors
    /// The file cannot be read or holds no usable certificate.
    pub fn load(path: &Path) -> Result<Self, TlsError> {
        let roots = Arc::new(pem::authorities(path)?);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
        verifier.map(ClientAuthority).map_err(|error| TlsError::content(path, error.to_string()))
    }
}

/// Returns whether a handshake was an ACME validation, after which the connection is closed (RFC
/// 8737 section 3).
pub fn is_acme_validation(connection: &rustls::ServerConnection) -> bool {
    connection.alpn_protocol() == Some(ACME_TLS_ALPN)
}

/// Returns the TLS configuration of a public listener, which selects from `certificates`. Listeners
/// that require client certificates do not resume sessions: each handshake verifies the client's
/// certificate.
///
/// # Errors
/// Never in practice: the provider supports both protocol versions.
pub fn server_config(
    certificates: Arc<Certificates>,
    clients: Option<ClientAuthority>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let mut config = match clients {
        None => {
            let mut config = builder.with_no_client_auth().with_cert_resolver(certificates);
            config.ticketer = aws_lc_rs::Ticketer::new()?;
            config
        }
        Some(ClientAuthority(verifier)) => {
            let builder = builder.with_client_cert_verifier(verifier);
            let mut config = builder.with_cert_resolver(certificates);
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            config
        }
    };
    config.alpn_protocols =
        [b"h2".as_slice(), b"http/1.1", ACME_TLS_ALPN].map(<[u8]>::to_vec).into();
    config.max_early_data_size = 0;
    Ok(config)
}
