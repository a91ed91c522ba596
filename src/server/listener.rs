//! Listening sockets: binding them all before anything is served, and accepting from each.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::sync::CancellationToken;

use super::options::ServerOptions;

/// How many connections the kernel queues until they are accepted.
const BACKLOG: i32 = 4096;
/// Pause after an accept that failed for lack of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Listeners that are bound and not yet served.
pub struct Bound {
    pub(super) https: Vec<TcpListener>,
    pub(super) http: Vec<TcpListener>,
    pub(super) admin: Vec<TcpListener>,
}

/// The addresses of a server.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// TLS listeners.
    pub https: Vec<SocketAddr>,
    /// Listeners without TLS.
    pub http: Vec<SocketAddr>,
    /// Admin listeners.
    pub admin: Vec<SocketAddr>,
}

/// Binds every listener.
///
/// # Errors
/// The first address that cannot be bound, with the address in the message.
pub fn bind(options: &ServerOptions, admin: &[SocketAddr]) -> io::Result<Bound> {
    let all = |addresses: &[SocketAddr]| -> io::Result<Vec<TcpListener>> {
        addresses.iter().copied().map(listener).collect()
    };
    let tls: Vec<SocketAddr> = options.listen.iter().map(|listener| listener.address).collect();
    Ok(Bound { https: all(&tls)?, http: all(&options.http_listen)?, admin: all(admin)? })
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let attempt = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    attempt().map_err(|error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })
}

impl Bound {
    /// Returns the addresses, with the ports that the kernel chose.
    ///
    /// # Errors
    /// Those of the system.
    pub fn addresses(&self) -> io::Result<Addresses> {
        let all = |listeners: &[TcpListener]| -> io::Result<Vec<SocketAddr>> {
            listeners.iter().map(TcpListener::local_addr).collect()
        };
        Ok(Addresses { https: all(&self.https)?, http: all(&self.http)?, admin: all(&self.admin)? })
    }
}

/// Accepts on `listener` until `stop`, in a task of the current runtime. `serve` gets streams that
/// belong to no runtime yet.
///
/// # Errors
/// Those of registering the listener with the runtime.
pub(super) fn accept(
    listener: TcpListener,
    stop: CancellationToken,
    serve: impl Fn(TcpStream, SocketAddr) + Send + 'static,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let accepting = async move {
        loop {
            match accept_one(&listener).await {
                Ok((stream, address)) => serve(stream, address),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::spawn(async move { stop.run_until_cancelled(accepting).await });
    Ok(())
}

async fn accept_one(listener: &tokio::net::TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, address) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream.into_std()?, address))
}
