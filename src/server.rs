//! The public listeners.
//!
//! One thread accepts and hands each connection to the worker with the fewest; each worker is a
//! runtime of its own, so a request never changes threads. A connection's whole life (TLS handshake,
//! protocol, deadlines) happens in its own task.

mod connection;
mod deadlines;
mod listener;
mod options;
mod proxy_protocol;
mod shutdown;
mod wire;
mod worker;

use std::{io, net::TcpListener, sync::Arc, time::Duration};

use prometheus::IntGauge;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use self::{
    connection::{Shared, Transport},
    shutdown::Shutdown,
    worker::{Worker, WorkerHandle},
};
pub use self::{
    listener::{Addresses, Bound, bind},
    options::{Handshake, Limits, ServerOptions, TlsListener},
};
use crate::{
    admin::{self, Admin},
    gate::Gate,
    metrics::Metrics,
};

/// A running server.
pub struct Server {
    shared: Arc<Shared>,
    admin: Arc<Admin>,
    accepting: CancellationToken,
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
        gate: Arc<Gate>,
        metrics: Arc<Metrics>,
        handshakes: &[Handshake],
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(
            Arc::clone(&gate),
            options.limits,
            options.proxy_protocol,
            Shutdown::default(),
        ));
        let workers =
            (0..options.workers.max(1)).map(|_| Worker::start()).collect::<io::Result<Vec<_>>>()?;
        let server = Server {
            shared,
            admin: Admin::new(gate, Arc::clone(&metrics)),
            accepting: CancellationToken::new(),
            drain_delay: options.drain_delay,
            drain: options.drain,
            workers,
        };
        let permits = Arc::new(Semaphore::new(options.limits.connections));
        let gauge = metrics.connections("https");
        for (listener, handshake) in bound.https.into_iter().zip(handshakes) {
            server.serve(listener, &gauge, &permits, Transport::Tls(Arc::clone(handshake)))?;
        }
        let gauge = metrics.connections("http");
        for listener in bound.http {
            server.serve(listener, &gauge, &permits, Transport::Plain)?;
        }
        for listener in bound.admin {
            let admin = Arc::clone(&server.admin);
            let permits = Arc::new(Semaphore::new(admin::CONNECTIONS));
            let stop = server.shared.shutdown.token();
            listener::accept(listener, permits, stop, move |stream, _, permit| {
                tokio::spawn(Arc::clone(&admin).serve(stream, permit));
            })?;
        }
        Ok(server)
    }

    fn serve(
        &self,
        listener: TcpListener,
        gauge: &IntGauge,
        permits: &Arc<Semaphore>,
        transport: Transport,
    ) -> io::Result<()> {
        let (shared, gauge) = (Arc::clone(&self.shared), gauge.clone());
        let workers: Vec<WorkerHandle> = self.workers.iter().map(Worker::handle).collect();
        let (permits, stop) = (Arc::clone(permits), self.accepting.clone());
        listener::accept(listener, permits, stop, move |stream, address, permit| {
            let Some(worker) = WorkerHandle::least_loaded(&workers) else { return };
            let permit = worker.admit(permit, &gauge);
            let (shared, transport) = (Arc::clone(&shared), transport.clone());
            let tasks = shared.shutdown.connections.clone();
            let serving = connection::serve(stream, address.ip(), transport, shared, permit);
            worker.spawn(tasks.track_future(serving));
        })
    }

    /// Drains: unready at once, accepting until `drain_delay` has passed, then finishing what is in
    /// flight for at most `drain`.
    pub async fn drain(self) {
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
