//! The event store at the boundary: what senders and handlers see.

mod attempts;
mod history;
mod kills;
mod modes;
mod replicas;
mod states;

use crate::kit::{Front, Gateway, Setup, Upstream, until};

/// A handler whose port can be closed and opened again.
struct Handler {
    upstream: Upstream,
    front: Option<Front>,
    address: std::net::SocketAddr,
}

impl Handler {
    async fn start() -> Self {
        let upstream = Upstream::start().await;
        let any = "127.0.0.1:0".parse().expect("an address");
        let front = Front::tcp(any, &upstream).await;
        Handler { address: front.address(), front: Some(front), upstream }
    }

    /// Closes the port.
    async fn stop(&mut self) {
        self.front.take().expect("it is open").die().await;
    }

    /// Opens the port again.
    async fn resume(&mut self) {
        self.front = Some(Front::tcp(self.address, &self.upstream).await);
    }

    /// Returns a gateway in front of this handler, with an event store and these lines of the
    /// route.
    fn setup(&self, route: &str) -> Setup {
        Setup::new(&self.upstream)
            .plain()
            .upstream(&format!("\"http://{}\"", self.address))
            .section("[events]\npath = \"events\"")
            .route(route)
    }
}

/// Waits until the store has this number of events of the route in this state.
async fn stored(gateway: &Gateway, state: &str, count: f64) {
    let gauge = format!("sealgate_events{{route=\"vivoldi\",state=\"{state}\"}}");
    let counted = || async { gateway.metric(&gauge).await == count };
    until(&format!("{count} events are {state}"), counted).await;
}

/// Waits until this number of attempts had this result.
async fn attempted(gateway: &Gateway, result: &str, count: f64) {
    let counter =
        format!("sealgate_delivery_attempts_total{{result=\"{result}\",route=\"vivoldi\"}}");
    let counted = || async { gateway.metric(&counter).await == count };
    until(&format!("{count} attempts are {result}"), counted).await;
}
