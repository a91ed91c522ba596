//! The upstreams of a route, as configured.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use super::origin::Origin;
use crate::tls::Validity;

/// The `Host` that the upstream receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPolicy {
    /// The sender's.
    Preserve,
    /// The upstream's own host and port.
    Upstream,
    /// A fixed name.
    Name(HeaderValue),
}

/// TLS settings for `https://` upstreams.
#[derive(Clone, Debug)]
pub struct UpstreamTls {
    /// The trusted authorities and the client certificate.
    pub client: Arc<ClientConfig>,
    /// The name that the upstream's certificate must have, instead of the host of its address.
    pub name: Option<ServerName<'static>>,
    /// The file of the client certificate, if there is one, and its validity.
    pub client_certificate: Option<(String, Validity)>,
}

/// The upstreams of one route, as configured.
#[derive(Clone, Debug)]
pub struct UpstreamOptions {
    /// One or more; requests take them in turn.
    pub origins: Vec<Origin>,
    /// Required if an origin is `https://`.
    pub tls: Option<UpstreamTls>,
    /// The `Host` that the origins receive.
    pub host: HostPolicy,
    /// Headers added to every request, marked as sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the sender's trace context is passed on unchanged, because the scheme reads it or
    /// the operator sets another.
    pub keeps_trace: bool,
    /// The most concurrent requests; 0 is unlimited.
    pub concurrency: usize,
    /// The most requests that wait for a permit.
    pub queue: usize,
    /// The timeout of a whole exchange.
    pub timeout: Duration,
    /// How long an idle connection is kept.
    pub idle: Duration,
    /// The longest response body that is passed on.
    pub response_body_bytes: u64,
    /// The longest response head.
    pub response_head_bytes: usize,
}
