//! The task that sends finished spans to the collector: OTLP over HTTP, as protobuf.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::Full;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{Resource, trace::SpanExporter as _};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::span::Span;
use crate::{
    metrics::SpanCounters,
    tls::{ServerTrust, https_request},
};

/// The most spans in one request to the collector.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const LINGER: Duration = Duration::from_secs(1);
/// How long the collector may take for a batch.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a drain waits for the collector.
const DRAIN: Duration = Duration::from_secs(2);
/// The longest response of the collector.
const MAX_RESPONSE: usize = 64 << 10;
/// The least time between two log lines about spans that were not exported.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Where spans are exported, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracesOptions {
    /// The URL that batches of spans are posted to.
    pub endpoint: String,
    /// PEM file with the root CAs for `endpoint`; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// Additional headers of each request to `endpoint`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The percentage of new traces that is recorded.
    pub sample: u8,
    /// The name of the service in the traces.
    pub service_name: String,
}

/// The running export of spans.
#[derive(Debug)]
pub struct SpanExport {
    closing: CancellationToken,
    task: JoinHandle<()>,
}

impl SpanExport {
    pub(super) fn start(
        options: TracesOptions,
        spans: mpsc::Receiver<Span>,
        counters: SpanCounters,
    ) -> Result<Self, String> {
        let trust = match &options.ca {
            Some(path) => ServerTrust::read(path)?,
            None => ServerTrust::System,
        };
        let client = Collector { trust, headers: options.headers, logged: Mutex::default() };
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(options.endpoint)
            .with_timeout(TIMEOUT)
            // Without retries, a collector that is down does not delay newer spans.
            .with_retry_policy(RetryPolicy::disabled())
            .build()
            .map_err(|error| error.to_string())?;
        let resource = Resource::builder()
            .with_service_name(options.service_name)
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        exporter.set_resource(&resource);
        let closing = CancellationToken::new();
        let task = tokio::spawn(export(spans, exporter, counters, closing.clone()));
        Ok(SpanExport { closing, task })
    }

    /// Exports the spans that are finished, for two seconds at most.
    pub async fn drain(self) {
        self.closing.cancel();
        if timeout(DRAIN, self.task).await.is_err() {
            tracing::warn!("the process ends before all spans are exported");
        }
    }
}

/// Exports spans until all senders are gone or `closing` is cancelled.
async fn export(
    mut spans: mpsc::Receiver<Span>,
    exporter: SpanExporter,
    counters: SpanCounters,
    closing: CancellationToken,
) {
    let scope = InstrumentationScope::builder("sealgate").build();
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        fill(&mut spans, &mut batch, &closing).await;
        if batch.is_empty() {
            return;
        }
        let count = batch.len() as u64;
        let data = batch.drain(..).map(|span| span.into_data(&scope)).collect();
        match timeout(TIMEOUT, exporter.export(data)).await {
            Ok(Ok(())) => counters.exported.inc_by(count),
            Ok(Err(_)) | Err(_) => counters.failed.inc_by(count),
        }
    }
}

/// Receives a batch. It stays empty only if there will be no more spans.
async fn fill(
    spans: &mut mpsc::Receiver<Span>,
    batch: &mut Vec<Span>,
    closing: &CancellationToken,
) {
    tokio::select! {
        _ = spans.recv_many(batch, BATCH) => {}
        () = closing.cancelled() => spans.close(),
    }
    let is_open = !spans.is_closed();
    let rest = async {
        while batch.len() < BATCH && spans.recv_many(batch, BATCH - batch.len()).await > 0 {}
    };
    tokio::select! {
        _ = timeout(LINGER, rest) => {}
        () = closing.cancelled(), if is_open => {}
    }
}

/// The HTTP client of the exporter. It logs failures, because the exporter does not keep their
/// causes.
#[derive(Debug)]
struct Collector {
    trust: ServerTrust,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// When a failure was logged.
    logged: Mutex<Option<Instant>>,
}

impl Collector {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
        let mut request = request.map(Full::new);
        for (name, value) in &self.headers {
            request.headers_mut().insert(name, value.clone());
        }
        let sent = timeout(TIMEOUT, https_request(request, &self.trust, MAX_RESPONSE)).await;
        sent.map_err(|_| format!("no response within {} s", TIMEOUT.as_secs()))?
    }

    /// Logs that spans were not exported, at most once in [`LOG_INTERVAL`].
    fn log(&self, error: &str) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.is_some_and(|last| last.elapsed() < LOG_INTERVAL) {
            return;
        }
        *logged = Some(Instant::now());
        tracing::warn!(error, "cannot export spans to the collector");
    }
}

impl HttpClient for Collector {
    fn send_bytes<'c, 'f>(
        &'c self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>
    where
        'c: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let response = self.send(request).await;
            match &response {
                Ok(response) if response.status().is_success() => {}
                Ok(response) => self.log(&format!("status {}", response.status().as_u16())),
                Err(error) => self.log(error),
            }
            Ok(response?)
        })
    }
}
