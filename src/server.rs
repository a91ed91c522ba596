//! The public listeners.
//!
//! One thread accepts and hands each connection to the worker with the fewest; each worker is a
//! separate runtime, so a request never changes threads. A connection's whole life (TLS handshake,
//! protocol, deadlines) happens in its own task.

mod alarm;
mod connection;
mod deadlines;
mod frame_limit;
mod handshake;
mod http1;
mod http2;
mod listener;
mod options;
mod proxy_protocol;
mod service;
mod shutdown;
mod wire;
mod worker;

use std::{io, net::TcpListener, sync::Arc, time::Duration};

use prometheus::IntGauge;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use self::{
    connection::Transport,
    service::Shared,
    worker::{Worker, WorkerHandle},
};
pub use self::{
    listener::{Addresses, Bound, bind},
    options::{Handshake, Limits, ServerOptions, TlsListener},
    wire::check_head,
    worker::Liveness,
};
use crate::{
    admin::{Admin, AdminOptions},
    capacity::Capacity,
    gate::Gate,
    metrics::Metrics,
};

/// A running server.
pub struct Server {
    shared: Arc<Shared>,
    admin: Arc<Admin>,
    accepting: CancellationToken,
    /// Cancelled when the server is dropped.
    admin_open: CancellationToken,
    drain_delay: Duration,
    drain: Duration,
    workers: Vec<Worker>,
}

impl Server {
    /// Serves `gate` on the bound listeners, the TLS ones with a handshake each, on worker threads.
    /// Call within a runtime, which accepts and serves the admin listeners.
    ///
    /// # Errors
    /// Those of creating threads and of registering listeners.
    pub fn start(
        bound: Bound,
        options: &ServerOptions,
        admin: &AdminOptions,
        (gate, capacity): (Arc<Gate>, Capacity),
        metrics: Arc<Metrics>,
        handshakes: &[Handshake],
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(
            (Arc::clone(&gate), capacity),
            options.limits,
            options.proxy_protocol,
            metrics.handshake_failures(),
        ));
        let workers =
            (0..options.workers.max(1)).map(|_| Worker::start()).collect::<io::Result<Vec<_>>>()?;
        let server = Server {
            shared,
            admin: Admin::new(admin, gate, Arc::clone(&metrics)),
            accepting: CancellationToken::new(),
            admin_open: CancellationToken::new(),
            drain_delay: options.drain_delay,
            drain: options.drain,
            workers,
        };
        let gauge = metrics.connections("https");
        for (listener, handshake) in bound.https.into_iter().zip(handshakes) {
            server.serve(listener, &gauge, Transport::Tls(Arc::clone(handshake)))?;
        }
        let gauge = metrics.connections("http");
        for listener in bound.http {
            server.serve(listener, &gauge, Transport::Plain)?;
        }
        for listener in bound.admin {
            let admin = Arc::clone(&server.admin);
            let stop = server.admin_open.clone();
            let on_loopback = listener.local_addr()?.ip().is_loopback();
            listener::accept(listener, stop, move |stream, address| {
                admin.accept(stream, address.ip(), on_loopback);
            })?;
        }
        Ok(server)
    }

    /// Replaces the tokens and hosts of the admin API.
    pub fn set_admin_access(&self, options: &AdminOptions) {
        self.admin.set_access(options);
    }

    fn serve(
        &self,
        listener: TcpListener,
        gauge: &IntGauge,
        transport: Transport,
    ) -> io::Result<()> {
        let (shared, gauge) = (Arc::clone(&self.shared), gauge.clone());
        let workers: Vec<WorkerHandle> = self.workers.iter().map(Worker::handle).collect();
        let stop = self.accepting.clone();
        listener::accept(listener, stop, move |stream, address| {
            // Closed if there is no capacity for it.
            let Some(slot) = shared.admit(address.ip()) else { return };
            let Some(worker) = WorkerHandle::least_loaded(&workers) else { return };
            let (slot, count) = (Arc::new(slot), worker.count(&gauge));
            let (shared, transport) = (Arc::clone(&shared), transport.clone());
            let tasks = shared.shutdown.connections.clone();
            let connection = (stream, address.ip(), Arc::clone(&slot));
            let serving = connection::serve(connection, transport, shared, count);
            slot.set_task(worker.spawn(tasks.track_future(serving)));
        })
    }

    /// Returns a check of whether the workers run.
    pub fn liveness(&self) -> Liveness {
        Liveness::new(self.workers.iter().map(Worker::handle).collect())
    }

    /// Drains: unready at once, accepting until `drain_delay` has passed, then finishing what is in
    /// flight for at most `drain`. The admin listeners respond until the server is dropped.
    pub async fn drain(&self) {
        self.admin.set_draining();
        tokio::time::sleep(self.drain_delay).await;
        self.accepting.cancel();
        let Shared { shutdown, gate, .. } = &*self.shared;
        shutdown.begin();
        let deadline = Instant::now() + self.drain;
        let senders = timeout_at(deadline, shutdown.connections.wait()).await;
        gate.flights.close();
        let forwards = timeout_at(deadline, gate.flights.wait()).await;
        if senders.is_err() || forwards.is_err() {
            tracing::warn!(
                connections = shutdown.connections.len(),
                forwards = gate.flights.len(),
                "the drain timed out; what is left is aborted"
            );
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.admin_open.cancel();
    }
}
