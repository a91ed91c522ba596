//! Failures of TLS handshakes, by cause.

use prometheus::{IntCounter, IntCounterVec};

/// Why a TLS handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// The client speaks HTTP without TLS.
    PlainHttp,
    /// The client does not accept the gateway's certificate.
    CertificateRejected,
    /// The client's certificate is absent or not accepted.
    ClientCertificate,
    /// The client supports no common version, cipher suite or protocol.
    Incompatible,
    /// The client does not follow the protocol.
    Malformed,
    /// The client closed the connection.
    Closed,
    /// The client was too slow.
    Timeout,
    /// Anything else.
    Other,
}

impl HandshakeFailure {
    const ALL: [HandshakeFailure; 8] = [
        HandshakeFailure::PlainHttp,
        HandshakeFailure::CertificateRejected,
        HandshakeFailure::ClientCertificate,
        HandshakeFailure::Incompatible,
        HandshakeFailure::Malformed,
        HandshakeFailure::Closed,
        HandshakeFailure::Timeout,
        HandshakeFailure::Other,
    ];

    /// Returns the metric label.
    pub const fn label(self) -> &'static str {
        match self {
            HandshakeFailure::PlainHttp => "plain_http",
            HandshakeFailure::CertificateRejected => "certificate_rejected",
            HandshakeFailure::ClientCertificate => "client_certificate",
            HandshakeFailure::Incompatible => "incompatible",
            HandshakeFailure::Malformed => "malformed",
            HandshakeFailure::Closed => "closed",
            HandshakeFailure::Timeout => "timeout",
            HandshakeFailure::Other => "other",
        }
    }
}

/// Counters of failed handshakes, by cause.
#[derive(Clone, Debug)]
pub struct HandshakeFailures([IntCounter; HandshakeFailure::ALL.len()]);

impl HandshakeFailures {
    /// Resolves the counter of every cause.
    pub(super) fn of(counters: &IntCounterVec) -> Self {
        HandshakeFailures(
            HandshakeFailure::ALL.map(|cause| counters.with_label_values(&[cause.label()])),
        )
    }

    /// Counts one.
    pub fn count(&self, cause: HandshakeFailure) {
        self.0[cause as usize].inc();
    }
}
