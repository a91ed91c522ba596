//! The life of one public connection: PROXY header, TLS handshake, protocol, end.

use std::{net::IpAddr, sync::Arc};

use tokio::{io::AsyncRead, net::TcpStream};

use super::{
    deadlines::{Deadlines, Requests},
    handshake, http1, http2,
    options::Handshake,
    proxy_protocol,
    service::{Client, Shared},
    worker::ConnectionCount,
};
use crate::{capacity::ConnectionSlot, tls, upstream::Peer};

/// The protocol of a public listener.
#[derive(Clone)]
pub(super) enum Transport {
    Tls(Handshake),
    Plain,
}

/// A connection that was accepted: its stream, the other end, its part of the capacity.
type Accepted = (std::net::TcpStream, IpAddr, Arc<ConnectionSlot>);

/// Serves a connection until it ends, is too slow, or the server drains.
pub(super) async fn serve(
    connection: Accepted,
    transport: Transport,
    shared: Arc<Shared>,
    count: ConnectionCount,
) {
    let requests = Arc::new(Requests::default());
    let serving = serve_requests(connection, transport, &shared, &requests);
    shared.shutdown.drive(serving, || requests.are_open()).await;
    drop(count);
}

async fn serve_requests(
    (stream, address, mut slot): Accepted,
    transport: Transport,
    shared: &Arc<Shared>,
    requests: &Arc<Requests>,
) {
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    let mut stream = Deadlines::new(stream, shared.limits, Arc::clone(requests));
    let mut peer = Peer::new(address, matches!(transport, Transport::Tls(_)));
    if shared.proxy_protocol {
        match Box::pin(proxied(&mut stream, &peer, shared)).await {
            Some(client) => peer = client,
            None => return,
        }
        if peer.address != address.to_canonical() {
            let Some(readmitted) = shared.readmit(&slot, peer.address) else { return };
            slot = Arc::new(readmitted);
        }
    }
    let client = Client { peer, slot };
    let config = match transport {
        Transport::Plain => return http1::serve(stream, client, requests, shared).await,
        Transport::Tls(config) => config,
    };
    let accepting = handshake::accept(stream, config.load_full(), client.peer.address, shared);
    match Box::pin(accepting).await {
        Some(mut stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
            stream.get_mut().0.set_multiplexed();
            let serving = Box::pin(http2::serve(stream, &client, requests, shared));
            if let Err(error) = serving.await {
                tracing::debug!(peer = %client.peer.address, %error, "connection ended");
            }
        }
        Some(stream) if tls::is_acme_validation(stream.get_ref().1) => {}
        // In a box, since a future has space for each name that a value is moved to.
        Some(stream) => http1::serve(Box::new(stream), client, requests, shared).await,
        None => {}
    }
}

/// Returns the peer that a trusted proxy names in its PROXY header; `None` closes the connection.
async fn proxied(
    stream: &mut (impl AsyncRead + Unpin),
    proxy: &Peer,
    shared: &Shared,
) -> Option<Peer> {
    if !shared.is_proxy(proxy.address) {
        tracing::debug!(peer = %proxy.address, "not a trusted proxy: connection closed");
        return None;
    }
    match proxy_protocol::read(stream).await {
        Ok(client) => {
            Some(Peer::new(client.address.unwrap_or(proxy.address), proxy.tls || client.tls))
        }
        Err(error) => {
            tracing::warn!(peer = %proxy.address, %error, "a trusted proxy sent no valid PROXY header");
            None
        }
    }
}
