//! TLS: the public listener's certificates, and the client side.
//!
//! One rustls `ServerConfig` per listener lives as long as the process, because a new one would
//! forget its sessions. A reload replaces the table behind its certificate resolver. Both sides use
//! TLS 1.2 and 1.3 with aws-lc-rs. 0-RTT stays off: anyone on the path can replay early data.

mod acme;
mod certificates;
mod challenges;
mod client;
mod files;
mod https;
mod pem;
mod server;

pub use self::{
    acme::{Acme, AcmeOptions, ChallengeKind, ExternalAccount},
    certificates::{CertificatePair, Certificates, Validity},
    challenges::Challenges,
    client::{advice, client_config, is_rejected_certificate},
    https::{ServerTrust, https_request},
    pem::{TlsError, authorities_pem},
    server::{ClientAuthority, is_acme_validation, server_config},
};
