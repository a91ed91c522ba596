//! What all connections share, and the call of the gate.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;

use super::{options::Limits, shutdown::Shutdown};
use crate::{
    capacity::{Capacity, ConnectionSlot},
    gate::{Gate, WireFacts},
    metrics::HandshakeFailures,
    reject::{Reject, Shed},
    replay::Receipt,
    upstream::Peer,
};

/// What all connections share.
pub(super) struct Shared {
    pub(super) gate: Arc<Gate>,
    pub(super) shutdown: Shutdown,
    pub(super) limits: Limits,
    pub(super) proxy_protocol: bool,
    pub(super) handshake_failures: HandshakeFailures,
    capacity: Capacity,
}

/// Who the requests of a connection come from, and its part of the capacity.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) peer: Peer,
    pub(super) slot: Arc<ConnectionSlot>,
}

impl Shared {
    pub(super) fn new(
        (gate, capacity): (Arc<Gate>, Capacity),
        limits: Limits,
        proxy_protocol: bool,
        handshake_failures: HandshakeFailures,
    ) -> Self {
        let shutdown = Shutdown::default();
        Shared { gate, shutdown, limits, proxy_protocol, handshake_failures, capacity }
    }

    /// Returns whether `address` is one of the trusted proxies.
    pub(super) fn is_proxy(&self, address: IpAddr) -> bool {
        self.gate.site.load().trusted_proxies.contains(address.to_canonical())
    }

    /// Admits a connection from an address; `None` if there is no capacity for it.
    pub(super) fn admit(&self, address: IpAddr) -> Option<ConnectionSlot> {
        self.capacity.connect(self.capacity.account(address), self.is_proxy(address))
    }

    /// Admits a connection again as one of the client that a trusted proxy names.
    pub(super) fn readmit(&self, slot: &ConnectionSlot, address: IpAddr) -> Option<ConnectionSlot> {
        slot.transfer(self.capacity.account(address))
    }

    /// Passes a request, whose head has waited for the worker for some time, to the gate. The
    /// receipt, if there is one, is to be confirmed when the response was written.
    pub(super) async fn handle<B>(
        &self,
        request: Request<B>,
        mut wire: WireFacts,
        waited: Duration,
        client: &Client,
    ) -> (Response<Full<Bytes>>, Option<Receipt>)
    where
        B: Body<Data = Bytes>,
    {
        if waited > self.limits.queue_time {
            wire.rejection.get_or_insert(Reject::Overloaded(Shed::Waited));
        }
        self.gate.handle(request, wire, client.peer.clone(), &client.slot).await
    }
}
