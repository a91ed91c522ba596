//! The baseline: a proxy built from the same crates as sealgate that verifies nothing.
//!
//! It has the same threads, allocator, TLS settings and HTTP limits as sealgate (`src/server`,
//! `src/tls`). Upstream requests use hyper's client with one pool per thread, and
//! `preserve_header_case` on both sides keeps the case of header names. sealgate has its own code
//! for both (`src/upstream`), which saves part of the cost of verification, replay guard, header
//! rules, deadlines and metrics. Bodies are streamed. With `hash`, they are collected and hashed
//! first, as every verifier must do.

use std::{
    cell::RefCell,
    convert::Infallible,
    hint::black_box,
    net::{SocketAddr, TcpListener, TcpStream},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header::CONNECTION};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Either, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{self as client, SendRequest},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use sha2::{Digest, Sha256};
use tokio::runtime::{Builder, Handle};
use tokio_rustls::TlsAcceptor;

const HEAD_BYTES: usize = 32 << 10;
const READ_BUFFER: usize = 16 * 1024;
const ANSWER_HEAD_BYTES: usize = 64 << 10;
const HEADERS: usize = 100;
const IDLE: Duration = Duration::from_secs(2);

/// Settings of the bare proxy.
pub(crate) struct Options {
    pub(crate) listen: SocketAddr,
    pub(crate) upstream: SocketAddr,
    pub(crate) cert: String,
    pub(crate) key: String,
    pub(crate) hash: bool,
    pub(crate) workers: usize,
}

type Outgoing = Either<Incoming, Full<Bytes>>;
/// Idle upstream connections of this thread, with the time of their last use.
type Pool = RefCell<Vec<(SendRequest<Outgoing>, Instant)>>;

thread_local!(static POOL: Pool = const { RefCell::new(Vec::new()) });

/// Serves until the process is terminated.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(tls(&options.cert, &options.key)?));
    let listener = TcpListener::bind(options.listen)?;
    listener.set_nonblocking(true)?;
    let workers: Vec<_> = (0..options.workers).map(|_| worker()).collect::<anyhow::Result<_>>()?;
    let (upstream, hash) = (options.upstream, options.hash);
    Builder::new_current_thread().enable_all().build()?.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let stream = stream.into_std()?;
            let fewest = workers.iter().min_by_key(|(_, count)| count.load(Ordering::Relaxed));
            let (handle, count) = fewest.context("no worker")?;
            let (acceptor, count) = (acceptor.clone(), Arc::clone(count));
            count.fetch_add(1, Ordering::Relaxed);
            handle.spawn(async move {
                connection(stream, acceptor, upstream, hash).await;
                count.fetch_sub(1, Ordering::Relaxed);
            });
        }
    })
}

fn worker() -> anyhow::Result<(Handle, Arc<AtomicUsize>)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new()
        .name("bare-worker".to_owned())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok((handle, Arc::default()))
}

fn tls(cert: &str, key: &str) -> anyhow::Result<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(cert)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(config)
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, upstream: SocketAddr, hash: bool) {
    let Ok(stream) = tokio::net::TcpStream::from_std(stream) else { return };
    let Ok(stream) = acceptor.accept(stream).await else { return };
    // A connection that the sender closes is not an error.
    let _ = http1::Builder::new()
        .half_close(false)
        .header_read_timeout(None)
        .max_headers(HEADERS)
        .max_header_size(HEAD_BYTES)
        .max_buf_size(HEAD_BYTES + READ_BUFFER)
        .preserve_header_case(true)
        .pipeline_flush(true)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(|request| async move {
                let answered = forward(request, upstream, hash).await;
                Ok::<_, Infallible>(answered.unwrap_or_else(|_| {
                    let mut response = Response::new(Either::Right(Full::default()));
                    *response.status_mut() = StatusCode::BAD_GATEWAY;
                    response
                }))
            }),
        )
        .await;
}

async fn forward(
    mut request: Request<Incoming>,
    upstream: SocketAddr,
    hash: bool,
) -> anyhow::Result<Response<Either<Returning, Full<Bytes>>>> {
    let target = request.uri().path_and_query().context("no path")?.clone();
    *request.uri_mut() = Uri::from(target);
    request.headers_mut().remove(CONNECTION);
    let request = if hash {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        black_box(Sha256::digest(&body));
        Request::from_parts(head, Either::Right(Full::new(body)))
    } else {
        request.map(Either::Left)
    };
    let mut sender = match reuse().await {
        Some(sender) => sender,
        None => connect(upstream).await?,
    };
    let mut response = sender.send_request(request).await?;
    response.headers_mut().remove(CONNECTION);
    Ok(response.map(|body| Either::Left(Returning { body, sender: Some(sender) })))
}

/// Response body of an upstream. Its connection returns to the pool at the end of the body.
struct Returning {
    body: Incoming,
    sender: Option<SendRequest<Outgoing>>,
}

impl Returning {
    fn put_back_at_end(&mut self) {
        if self.body.is_end_stream()
            && let Some(sender) = self.sender.take()
        {
            POOL.with_borrow_mut(|pool| pool.push((sender, Instant::now())));
        }
    }
}

impl Body for Returning {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_ready() {
            self.put_back_at_end();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        self.put_back_at_end();
    }
}

async fn reuse() -> Option<SendRequest<Outgoing>> {
    loop {
        let (mut sender, since) = POOL.with_borrow_mut(Vec::pop)?;
        if since.elapsed() <= IDLE && !sender.is_closed() && sender.ready().await.is_ok() {
            return Some(sender);
        }
    }
}

async fn connect(upstream: SocketAddr) -> anyhow::Result<SendRequest<Outgoing>> {
    let stream = tokio::net::TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = client::Builder::new()
        .max_headers(HEADERS)
        .max_header_size(ANSWER_HEAD_BYTES)
        .preserve_header_case(true)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(connection);
    Ok(sender)
}
