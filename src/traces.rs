//! Traces: spans of requests, of their steps and of attempts to deliver stored events, exported
//! over OTLP.
//!
//! Spans are plain records. They are built only for sampled traces, and a bounded queue hands them
//! to the task that exports them: a request never waits for the collector. Without `[traces]` there
//! is no [`Traces`], and no step reads a clock or allocates for them.
//!
//! Anyone can send `traceparent`, and no sender signs it. The trace of a request is therefore
//! continued only if a trusted proxy sent it. From any other client, the gateway starts a new trace
//! and links the client's: a client can neither add spans to a trace of its choice nor decide that
//! its requests are recorded.

mod context;
mod export;
mod root;
mod span;

use std::{sync::Arc, time::SystemTime};

use http::HeaderValue;
use opentelemetry::trace::{SpanId, SpanKind, TraceId};
use tokio::sync::mpsc;

pub(crate) use self::context::{TRACEPARENT, TRACESTATE};
pub use self::{
    context::TraceContext,
    export::{SpanExport, TracesOptions},
    root::{RootSpan, TracedStep, UpstreamSpan},
};
use self::{context::digits, span::Span};
use crate::metrics::SpanCounters;

/// The most finished spans that wait for their export.
const QUEUE: usize = 4096;

/// Creates the spans of a gateway. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Traces(Arc<SpanQueue>);

#[derive(Debug)]
struct SpanQueue {
    queue: mpsc::Sender<Span>,
    counters: SpanCounters,
    /// The highest number that is sampled, of all 64-bit numbers; `None` samples nothing.
    threshold: Option<u64>,
}

impl Traces {
    /// Starts the export of spans; must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// The options cannot be used, or a variable of the exporter's own (`OTEL_…`) is invalid.
    pub fn start(
        options: TracesOptions,
        counters: SpanCounters,
    ) -> Result<(Self, SpanExport), String> {
        let (queue, spans) = mpsc::channel(QUEUE);
        let threshold = threshold(options.sample);
        let export = SpanExport::start(options, spans, counters.clone())?;
        Ok((Traces(Arc::new(SpanQueue { queue, counters, threshold })), export))
    }

    /// Begins the span of a request. `sent` is the context that it came with, from a trusted proxy
    /// or from any other client.
    pub fn request(
        &self,
        request_id: &HeaderValue,
        (sent, is_trusted): (Option<TraceContext>, bool),
    ) -> Option<RootSpan> {
        let context = self.context(request_id, (sent, is_trusted))?;
        let (parent, link) = if is_trusted { (sent, None) } else { (None, sent) };
        Some(RootSpan::new(
            self.clone(),
            Span::begin("request", SpanKind::Server, context, now(context)),
            (parent, link),
        ))
    }

    /// Begins the span of an attempt to deliver a stored event: a new trace that links the request
    /// with which the event was accepted, and is sampled if that was.
    pub fn attempt(
        &self,
        request_id: &HeaderValue,
        (sent, is_trusted): (Option<TraceContext>, bool),
        number: u32,
    ) -> Option<RootSpan> {
        let accepted = self.context(request_id, (sent, is_trusted))?;
        let mut random = [0; 24];
        getrandom::fill(&mut random).ok()?;
        let (trace, span) = random.split_first_chunk::<16>()?;
        let context = TraceContext {
            trace: TraceId::from_bytes(*trace),
            span: SpanId::from_bytes(span.try_into().ok()?),
            is_sampled: accepted.is_sampled,
        };
        let mut span = Span::begin("attempt", SpanKind::Internal, context, now(context));
        span.attempt = Some(number);
        Some(RootSpan::new(self.clone(), span, (None, Some(accepted))))
    }

    /// Returns the context of the span of a request. It follows from the request ID and from what
    /// the request came with, so that it need not be stored with an event. The ID of a new trace is
    /// the request ID.
    fn context(
        &self,
        request_id: &HeaderValue,
        (sent, is_trusted): (Option<TraceContext>, bool),
    ) -> Option<TraceContext> {
        let id: [u8; 16] = digits(request_id.as_bytes())?;
        let number = u128::from_be_bytes(id);
        let span = SpanId::from_bytes((((number >> 64) ^ number) as u64).to_be_bytes());
        if let Some(parent) = sent.filter(|_| is_trusted) {
            return Some(TraceContext { span, ..parent });
        }
        let is_sampled = self.0.threshold.is_some_and(|threshold| number as u64 <= threshold);
        Some(TraceContext { trace: TraceId::from_bytes(id), span, is_sampled })
    }

    /// Hands a finished span to the export, or drops it if the queue is full.
    fn submit(&self, span: Span) {
        if self.0.queue.try_send(span).is_err() {
            self.0.counters.dropped.inc();
        }
    }
}

/// Returns the current time if it is needed.
fn now(context: TraceContext) -> SystemTime {
    if context.is_sampled { SystemTime::now() } else { SystemTime::UNIX_EPOCH }
}

/// Returns the highest of all 64-bit numbers if `percent` of them are sampled.
fn threshold(percent: u8) -> Option<u64> {
    match percent {
        0 => None,
        1..100 => Some(u64::MAX / 100 * u64::from(percent)),
        100.. => Some(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn traces(queue: usize, percent: u8) -> (Traces, mpsc::Receiver<Span>, SpanCounters) {
        let counters = Metrics::new().expect("metrics").spans;
        let (queue, spans) = mpsc::channel(queue);
        let threshold = threshold(percent);
        let shared = SpanQueue { queue, counters: counters.clone(), threshold };
        (Traces(Arc::new(shared)), spans, counters)
    }

    fn id(number: u64) -> HeaderValue {
        // As random as a request ID.
        let low = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        HeaderValue::from_str(&format!("{:016x}{low:016x}", u64::MAX - number)).expect("hex")
    }

    #[test]
    fn drops_and_counts_what_the_queue_does_not_take() {
        let (traces, mut spans, counters) = traces(2, 100);
        for number in 1..=5 {
            let span = traces.request(&id(number), (None, false)).expect("a span");
            span.end(Some(200), "forwarded", None, false);
        }
        assert_eq!(counters.dropped.get(), 3);
        assert!(spans.try_recv().is_ok() && spans.try_recv().is_ok() && spans.try_recv().is_err());
    }

    #[test]
    fn samples_the_configured_share_of_new_traces() {
        for (percent, expected) in
            [(0, 0..=0), (10, 900..=1100), (50, 4800..=5200), (100, 10_000..=10_000)]
        {
            let (traces, ..) = traces(1, percent);
            let sampled = (1..=10_000).filter(|number| {
                let context = traces.context(&id(*number), (None, false)).expect("a context");
                context.is_sampled
            });
            let count = sampled.count();
            assert!(expected.contains(&count), "{percent}%: {count}");
        }
    }

    #[test]
    fn an_attempt_links_the_request_as_it_was_traced() {
        let (traces, mut spans, _) = traces(8, 100);
        let sent = TraceContext {
            trace: TraceId::from_bytes([1; 16]),
            span: SpanId::from_bytes([2; 8]),
            is_sampled: true,
        };
        for accepted in [(None, false), (Some(sent), false), (Some(sent), true)] {
            let request = traces.request(&id(7), accepted).expect("a span");
            let context = request.context();
            drop(request);
            drop(traces.attempt(&id(7), accepted, 3).expect("a span"));
            let (request, attempt) = (spans.try_recv().unwrap(), spans.try_recv().unwrap());
            assert_eq!(request.outcome, Some("disconnected"));
            assert_eq!((attempt.link, attempt.attempt), (Some(context), Some(3)));
            assert_ne!(attempt.context.trace, context.trace);
            assert_eq!(context.trace == sent.trace, accepted == (Some(sent), true));
        }
    }

    #[test]
    fn a_trace_that_is_not_sampled_has_no_spans() {
        let (traces, mut spans, counters) = traces(8, 0);
        let mut span = traces.request(&id(1), (None, false)).expect("a context to pass on");
        assert_eq!(span.begin_step(), None);
        span.set_route("a".into());
        let upstream = span.upstream();
        assert!(upstream.header().ends_with(b"-00"));
        upstream.end(Some(200), None);
        span.end(Some(200), "forwarded", None, false);
        drop(traces.attempt(&id(1), (None, false), 1));
        assert!(spans.try_recv().is_err() && counters.dropped.get() == 0);
    }
}
