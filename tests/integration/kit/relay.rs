//! A TCP relay that delays replies, closes or mutes connections, and switches to another server: a
//! slow network, a firewall and a failover for tests.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};

/// Running relay; closed with all its connections when dropped.
pub(crate) struct Relay {
    address: SocketAddr,
    settings: Arc<watch::Sender<Settings>>,
    serving: JoinHandle<()>,
}

#[derive(Clone, Copy)]
struct Settings {
    to: SocketAddr,
    /// Connections of earlier generations are closed, or muted if below `muted`.
    generation: u64,
    muted: u64,
}

impl Relay {
    /// Starts a relay to a server whose replies arrive after `delay`.
    pub(crate) async fn start(to: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let settings = Arc::new(watch::Sender::new(Settings { to, generation: 0, muted: 0 }));
        let current = Arc::clone(&settings);
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(connect(client, current.subscribe(), delay));
            }
        });
        Relay { address, settings, serving }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Relays new connections to another server; open ones do not change.
    pub(crate) fn lead_to(&self, to: SocketAddr) {
        self.settings.send_modify(|settings| settings.to = to);
    }

    /// Closes every connection.
    pub(crate) fn close(&self) {
        self.settings.send_modify(|settings| settings.generation += 1);
    }

    /// Relays nothing more on the open connections, without closing them.
    pub(crate) fn mute(&self) {
        self.settings.send_modify(|settings| {
            settings.muted = settings.generation + 1;
            settings.generation += 1;
        });
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn connect(mut client: TcpStream, mut settings: watch::Receiver<Settings>, delay: Duration) {
    let Settings { to, generation, .. } = *settings.borrow();
    let Ok(mut server) = TcpStream::connect(to).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let muted = {
        let (mut from_client, to_client) = client.split();
        let (from_server, mut to_server) = server.split();
        tokio::select! {
            _ = tokio::io::copy(&mut from_client, &mut to_server) => false,
            () = carry_late(from_server, to_client, delay) => false,
            ended = settings.wait_for(|settings| settings.generation != generation) => {
                ended.is_ok_and(|settings| settings.muted > generation)
            }
        }
    };
    if muted {
        // Both connections stay open until the relay ends.
        std::future::pending::<()>().await;
    }
}

async fn carry_late(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, delay: Duration) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let reading = async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let due = Instant::now() + delay;
            if sender.send((due, buffer[..length].to_vec())).is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((due, bytes)) = receiver.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}
