//! TLS handshakes: why they fail, and the response to clients that speak HTTP without TLS.

use std::{io, net::IpAddr, sync::Arc};

use rustls::{AlertDescription, Error, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{deadlines::Deadlines, service::Shared};
use crate::metrics::HandshakeFailure;

/// The response to HTTP without TLS.
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\
    Content-Length: 36\r\nConnection: close\r\n\r\nThis port speaks TLS: use https://.\n";

/// Performs the handshake of a connection from `peer`. A failure is counted and logged.
pub(super) async fn accept(
    mut stream: Deadlines,
    config: Arc<ServerConfig>,
    peer: IpAddr,
    shared: &Shared,
) -> Option<TlsStream<Deadlines>> {
    let error = match stream.first_byte().await {
        // Many load balancers open connections only to see whether the port is open.
        Ok(None) => {
            tracing::debug!(client = %peer, "connection closed before the TLS handshake");
            return None;
        }
        Ok(Some(first)) if first.is_ascii_uppercase() => {
            note(HandshakeFailure::PlainHttp, "the client speaks HTTP without TLS", peer, shared);
            respond(&mut stream).await;
            return None;
        }
        Ok(Some(_)) => match TlsAcceptor::from(config).accept(stream).await {
            Ok(stream) => return Some(stream),
            Err(error) => error,
        },
        Err(error) => error,
    };
    note(cause(&error), &error.to_string(), peer, shared);
    None
}

async fn respond(stream: &mut Deadlines) {
    if stream.write_all(NOT_TLS).await.is_ok() {
        // The client may be gone.
        let _ = stream.shutdown().await;
    }
}

/// Counts a failure, and logs it unless its network has caused too many lines.
fn note(cause: HandshakeFailure, error: &str, peer: IpAddr, shared: &Shared) {
    shared.handshake_failures.count(cause);
    if !shared.gate.admits_line(peer) {
        return;
    }
    let (client, cause) = (peer, cause.label());
    if cause == HandshakeFailure::CertificateRejected.label() {
        tracing::warn!(
            %client,
            cause,
            error,
            "TLS handshake failed: the client does not accept the gateway's certificate"
        );
    } else {
        tracing::info!(%client, cause, error, "TLS handshake failed");
    }
}

/// Returns the cause of an error during a handshake.
fn cause(error: &io::Error) -> HandshakeFailure {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return match error.kind() {
            io::ErrorKind::TimedOut => HandshakeFailure::Timeout,
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => HandshakeFailure::Closed,
            _ => HandshakeFailure::Other,
        };
    };
    match tls {
        Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            // The client knows another certificate with the name of the issuer.
            | AlertDescription::DecryptError,
        ) => HandshakeFailure::CertificateRejected,
        Error::NoCertificatesPresented | Error::InvalidCertificate(_) => {
            HandshakeFailure::ClientCertificate
        }
        Error::PeerIncompatible(_)
        | Error::NoApplicationProtocol
        | Error::AlertReceived(
            AlertDescription::ProtocolVersion
            | AlertDescription::HandshakeFailure
            | AlertDescription::InsufficientSecurity,
        ) => HandshakeFailure::Incompatible,
        Error::InvalidMessage(_) | Error::PeerMisbehaved(_) | Error::DecryptError => {
            HandshakeFailure::Malformed
        }
        _ => HandshakeFailure::Other,
    }
}
