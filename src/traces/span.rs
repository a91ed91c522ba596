//! A finished span as a record, and as the exporter's type.

use std::{sync::Arc, time::SystemTime};

use opentelemetry::{
    InstrumentationScope, KeyValue, TraceFlags,
    trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::context::TraceContext;

/// A span. Its attributes come from the configuration and from fixed lists, never from a request.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) context: TraceContext,
    pub(super) parent: Option<SpanId>,
    /// Whether the parent is a span of another process.
    pub(super) has_remote_parent: bool,
    pub(super) link: Option<TraceContext>,
    pub(super) name: &'static str,
    pub(super) kind: SpanKind,
    pub(super) started: SystemTime,
    pub(super) ended: SystemTime,
    pub(super) failed: bool,
    pub(super) route: Option<Arc<str>>,
    pub(super) status: Option<u16>,
    pub(super) outcome: Option<&'static str>,
    pub(super) reason: Option<&'static str>,
    pub(super) attempt: Option<u32>,
}

impl Span {
    /// Returns a span that has just begun.
    pub(super) fn begin(
        name: &'static str,
        kind: SpanKind,
        context: TraceContext,
        started: SystemTime,
    ) -> Self {
        Span {
            context,
            parent: None,
            has_remote_parent: false,
            link: None,
            name,
            kind,
            started,
            ended: started,
            failed: false,
            route: None,
            status: None,
            outcome: None,
            reason: None,
            attempt: None,
        }
    }

    /// Returns the span as the exporter takes it.
    pub(super) fn into_data(self, scope: &InstrumentationScope) -> SpanData {
        let mut links = SpanLinks::default();
        links.links.extend(self.link.map(|link| Link::with_context(remote(link, true))));
        let text = |key, value: Option<&'static str>| Some(KeyValue::new(key, value?));
        let number = |key, value: Option<i64>| Some(KeyValue::new(key, value?));
        let attributes = [
            self.route.map(|route| KeyValue::new("sealgate.route", route)),
            number("http.response.status_code", self.status.map(i64::from)),
            text("sealgate.outcome", self.outcome),
            text("sealgate.reason", self.reason),
            number("sealgate.attempt", self.attempt.map(i64::from)),
        ];
        SpanData {
            span_context: remote(self.context, false),
            parent_span_id: self.parent.unwrap_or(SpanId::INVALID),
            parent_span_is_remote: self.has_remote_parent,
            span_kind: self.kind,
            name: self.name.into(),
            start_time: self.started,
            // The system clock can go backwards.
            end_time: self.ended.max(self.started),
            attributes: attributes.into_iter().flatten().collect(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: if self.failed { Status::error("") } else { Status::Unset },
            instrumentation_scope: scope.clone(),
        }
    }
}

fn remote(context: TraceContext, is_remote: bool) -> SpanContext {
    let TraceContext { trace, span, is_sampled } = context;
    let flags = TraceFlags::default().with_sampled(is_sampled);
    SpanContext::new(trace, span, flags, is_remote, TraceState::default())
}
