//! The ACME options of a configuration.

use std::path::PathBuf;

use crate::secret::Secret;

/// How certificates are obtained from an ACME directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeOptions {
    /// The names in the certificate, in lower case; at least one.
    pub domains: Vec<String>,
    /// Contact URIs of the account.
    pub contact: Vec<String>,
    /// The URL of the directory.
    pub directory: String,
    /// PEM file with the root CAs of the directory; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// Where the account and the certificates are stored.
    pub path: PathBuf,
    /// How the gateway proves that it controls the domains.
    pub challenge: ChallengeKind,
    /// The certificate profile to request, if the directory offers several.
    pub profile: Option<String>,
    /// The customer account to which the ACME account is bound.
    pub external_account: Option<ExternalAccount>,
}

/// A proof that the gateway controls a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChallengeKind {
    /// In a TLS handshake on the public listener (RFC 8737).
    TlsAlpn01,
    /// In a response of the listener without TLS (RFC 8555 section 8.3).
    Http01,
}

/// An account with the certificate authority that exists outside ACME (RFC 8555 section 7.3.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalAccount {
    /// The ID of its key.
    pub kid: String,
    /// Its key, decoded.
    pub key: Secret,
}
