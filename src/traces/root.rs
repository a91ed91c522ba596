//! Spans while they last.

use std::{sync::Arc, time::SystemTime};

use opentelemetry::trace::{SpanId, SpanKind};

use super::{Traces, context::TraceContext, span::Span};

/// A step of a request that has a separate span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TracedStep {
    /// Whether the request is authentic.
    Verify,
    /// What the replay guard knows about the event.
    Claim,
}

/// The first span of this process in a trace: that of a request or of an attempt. It ends when it
/// is dropped, for example because the sender hung up.
#[derive(Debug)]
pub struct RootSpan {
    traces: Traces,
    /// `None` once it has ended.
    span: Option<Span>,
    context: TraceContext,
    route: Option<Arc<str>>,
    /// Whether the trace is not the client's.
    is_new_trace: bool,
    steps: [Option<Span>; 2],
}

/// The span of an exchange with an upstream.
#[derive(Debug)]
pub struct UpstreamSpan {
    traces: Traces,
    context: TraceContext,
    /// Whether the trace is not the one in the request.
    pub(crate) is_new_trace: bool,
    /// `None` if it is not sampled.
    span: Option<Span>,
}

impl RootSpan {
    pub(super) fn new(
        traces: Traces,
        mut span: Span,
        (parent, link): (Option<TraceContext>, Option<TraceContext>),
    ) -> Self {
        span.parent = parent.map(|parent| parent.span);
        span.has_remote_parent = parent.is_some();
        span.link = link;
        RootSpan {
            traces,
            context: span.context,
            span: Some(span),
            route: None,
            is_new_trace: parent.is_none(),
            steps: [const { None }; 2],
        }
    }

    /// Returns the position of the span.
    pub fn context(&self) -> TraceContext {
        self.context
    }

    /// Notes the route.
    pub fn set_route(&mut self, route: Arc<str>) {
        self.route = Some(route);
    }

    /// Returns the time at which a step begins, if its span is recorded.
    pub fn begin_step(&self) -> Option<SystemTime> {
        self.context.is_sampled.then(SystemTime::now)
    }

    /// Ends a step that began at `started`.
    pub fn end_step(&mut self, step: TracedStep, started: SystemTime, failed: bool) {
        let (name, number) = match step {
            TracedStep::Verify => ("verify", 1),
            TracedStep::Claim => ("claim", 2),
        };
        let mut span = self.child(name, SpanKind::Internal, number, started);
        span.ended = SystemTime::now();
        span.failed = failed;
        self.steps[step as usize] = Some(span);
    }

    /// Begins the exchange with the upstream.
    pub fn upstream(&self) -> UpstreamSpan {
        let begin = || self.child("upstream", SpanKind::Client, 3, SystemTime::now());
        UpstreamSpan {
            traces: self.traces.clone(),
            context: TraceContext { span: self.child_id(3), ..self.context },
            is_new_trace: self.is_new_trace,
            span: self.context.is_sampled.then(begin),
        }
    }

    fn child(&self, name: &'static str, kind: SpanKind, number: u64, started: SystemTime) -> Span {
        let context = TraceContext { span: self.child_id(number), ..self.context };
        let mut span = Span::begin(name, kind, context, started);
        span.parent = Some(self.context.span);
        span.route.clone_from(&self.route);
        span
    }

    /// Returns the ID of a child. IDs of roots are random, so these are unique in their trace too.
    fn child_id(&self, number: u64) -> SpanId {
        let root = u64::from_be_bytes(self.context.span.to_bytes());
        SpanId::from_bytes(root.wrapping_add(number).to_be_bytes())
    }

    /// Ends the span with its result.
    pub fn end(
        mut self,
        status: Option<u16>,
        outcome: &'static str,
        reason: Option<&'static str>,
        failed: bool,
    ) {
        if let Some(span) = &mut self.span {
            (span.status, span.outcome, span.reason, span.failed) =
                (status, Some(outcome), reason, failed);
        }
    }

    /// Drops the span and those of its steps without exporting them.
    pub fn discard(mut self) {
        self.span = None;
    }
}

impl Drop for RootSpan {
    fn drop(&mut self) {
        let Some(mut span) = self.span.take().filter(|_| self.context.is_sampled) else { return };
        span.ended = SystemTime::now();
        span.route = self.route.take();
        span.outcome = span.outcome.or(Some("disconnected"));
        for step in self.steps.iter_mut().filter_map(Option::take) {
            self.traces.submit(step);
        }
        self.traces.submit(span);
    }
}

impl UpstreamSpan {
    /// Returns the value of `traceparent` for the upstream.
    pub(crate) fn header(&self) -> [u8; 55] {
        self.context.header()
    }

    /// Ends the span with the status of the response, or with the reason why there is none.
    pub(crate) fn end(mut self, status: Option<u16>, reason: Option<&'static str>) {
        let Some(mut span) = self.span.take() else { return };
        span.ended = SystemTime::now();
        (span.status, span.reason) = (status, reason);
        span.failed = status.is_none_or(|status| status >= 400);
        self.traces.submit(span);
    }
}
