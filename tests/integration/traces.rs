//! Traces: what a collector receives, and what the handler gets.

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, status::StatusCode},
};
use prost::Message;

use crate::kit::{Answer, Event, Gateway, Setup, Upstream, free_address, until};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// Returns a setup that traces to `collector`.
fn traced(upstream: &Upstream, collector: &Upstream, lines: &str) -> Setup {
    let endpoint = collector.address();
    Setup::new(upstream)
        .plain()
        .section(&format!("[traces]\nendpoint = \"http://{endpoint}\"\n{lines}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| {
        let value = match pair.value.as_ref()?.value.as_ref()? {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => number.to_string(),
            other => panic!("{other:?}"),
        };
        Some((pair.key.clone(), value))
    };
    attributes.iter().filter_map(text).collect()
}

/// Drains the gateway, and returns the spans that the collector has received.
async fn collected(gateway: &mut Gateway, collector: &Upstream) -> Vec<Span> {
    gateway.drain().await;
    let batches = collector.requests();
    let batch = |body: &[u8]| ExportTraceServiceRequest::decode(body).expect("a batch");
    let resources = batches.iter().flat_map(|request| batch(&request.body).resource_spans);
    resources.flat_map(|spans| spans.scope_spans).flat_map(|spans| spans.spans).collect()
}

/// Returns the only span with this name.
fn only<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    let named: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(named.len(), 1, "{name}: {spans:#?}");
    named[0]
}

#[tokio::test]
async fn exports_the_spans_of_a_request_with_their_parents() {
    let (upstream, collector) = (Upstream::start().await, Upstream::start().await);
    let lines =
        "service_name = \"hooks\"\nheaders = { Authorization = \"Bearer of-this-test-only\" }";
    let mut gateway = traced(&upstream, &collector, lines).start();
    let mut connection = gateway.connect_plain().await;
    let reply = connection.exchange(&Event::default().request()).await;
    let bad = Event::default().with(&["X-Canary: canary"]).request();
    let bad = String::from_utf8(bad).expect("text").replace("\"", "'");
    let rejected = connection.exchange(bad.as_bytes()).await;
    assert_eq!((reply.status, rejected.status), (200, 401));

    let spans = collected(&mut gateway, &collector).await;
    let trace = reply.header("sealgate-request-id").expect("an ID");
    let (accepted, others): (Vec<_>, Vec<_>) =
        spans.into_iter().partition(|span| hex(&span.trace_id) == trace);
    let names: BTreeSet<_> = accepted.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["claim", "request", "upstream", "verify"]));
    let request = only(&accepted, "request");
    assert!(request.parent_span_id.is_empty() && request.links.is_empty());
    for name in ["claim", "upstream", "verify"] {
        let span = only(&accepted, name);
        assert_eq!(span.parent_span_id, request.span_id, "{name}");
        assert!(request.start_time_unix_nano <= span.start_time_unix_nano, "{name}");
        assert!(span.end_time_unix_nano <= request.end_time_unix_nano, "{name}");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{name}");
    }
    let seen = upstream.requests().pop().expect("forwarded");
    let parent = hex(&only(&accepted, "upstream").span_id);
    assert_eq!(seen.header("traceparent"), Some(&*format!("00-{trace}-{parent}-01")));
    let pairs = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let (route, status) = (("sealgate.route", "vivoldi"), ("http.response.status_code", "200"));
    let attributes = texts(&request.attributes);
    assert_eq!(attributes, pairs(&[route, status, ("sealgate.outcome", "forwarded")]));
    assert_eq!(texts(&only(&accepted, "upstream").attributes), pairs(&[route, status]));

    let names: BTreeSet<_> = others.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["request", "verify"]));
    let attributes = texts(&only(&others, "request").attributes);
    let (status, outcome) =
        (("http.response.status_code", "401"), ("sealgate.outcome", "rejected"));
    let reason = ("sealgate.reason", "bad_signature");
    assert_eq!(attributes, pairs(&[route, status, outcome, reason]));
    let failed = only(&others, "verify").status.as_ref().map(|status| status.code());
    assert_eq!(failed, Some(StatusCode::Error));

    let batch = &collector.requests()[0];
    assert_eq!(batch.request_line(), "POST /v1/traces HTTP/1.1");
    assert_eq!(batch.header("content-type"), Some("application/x-protobuf"));
    assert_eq!(batch.header("authorization"), Some("Bearer of-this-test-only"));
    let body = String::from_utf8_lossy(&batch.body);
    assert!(body.contains("hooks") && !body.contains("canary"));
}

#[tokio::test]
async fn links_the_trace_of_a_client_and_continues_that_of_a_trusted_proxy() {
    let sent = format!("00-{TRACE}-{PARENT}-01");
    let unsampled = format!("00-{TRACE}-{PARENT}-00");
    let malformed = format!("00-{TRACE}-{PARENT}-canary");
    for (trusted, header, is_linked, continues, is_recorded) in [
        (false, &sent, true, false, true),
        (false, &unsampled, true, false, true),
        (false, &malformed, false, false, true),
        (true, &sent, false, true, true),
        (true, &unsampled, false, true, false),
        (true, &malformed, false, false, true),
    ] {
        let (upstream, collector) = (Upstream::start().await, Upstream::start().await);
        let mut setup = traced(&upstream, &collector, "");
        if trusted {
            setup = setup.server("trusted_proxies = [\"127.0.0.1\"]");
        }
        let mut gateway = setup.start();
        let line = format!("traceparent: {header}");
        let event = Event::default().with(&[&line, "tracestate: vendor=1"]);
        let reply = gateway.connect_plain().await.exchange(&event.request()).await;
        assert_eq!(reply.status, 200);
        let spans = collected(&mut gateway, &collector).await;
        let id = reply.header("sealgate-request-id").expect("an ID");
        let trace = if continues { TRACE } else { id };
        assert!(spans.iter().all(|span| hex(&span.trace_id) == trace), "{spans:#?}");
        assert_eq!(spans.len(), if is_recorded { 4 } else { 0 }, "{header} {trusted}");
        let seen = upstream.requests().pop().expect("forwarded");
        let context = seen.header("traceparent").expect("a context");
        let flags = if is_recorded { "01" } else { "00" };
        assert!(context.starts_with(&format!("00-{trace}-")) && context.ends_with(flags));
        assert!(!context.contains(PARENT), "{context}");
        assert_eq!(seen.header("tracestate").is_some(), continues, "it belongs to its trace");
        if is_recorded {
            let request = only(&spans, "request");
            let parent = if continues { PARENT } else { "" };
            assert_eq!(hex(&request.parent_span_id), parent);
            let links: Vec<_> = request.links.iter().map(|link| hex(&link.trace_id)).collect();
            assert_eq!(links, if is_linked { vec![TRACE.to_owned()] } else { Vec::new() });
        }
    }
}

#[tokio::test]
async fn traces_each_attempt_of_a_stored_event() {
    let (upstream, collector) = (Upstream::start().await, Upstream::start().await);
    let mut gateway = traced(&upstream, &collector, "")
        .section("[events]\npath = \"events\"")
        .route("delivery = \"async\"\n[route.retry]\nfirst = \"50ms\"")
        .start();
    upstream.answer([Answer::Status(500)]);
    let sent = format!("traceparent: 00-{TRACE}-{PARENT}-01");
    let event = Event::default().with(&[&sent]);
    let reply = gateway.connect_plain().await.exchange(&event.request()).await;
    assert_eq!(reply.header("sealgate-answer"), Some("queued"));
    let delivered = "sealgate_delivery_attempts_total{result=\"delivered\",route=\"vivoldi\"}";
    until("the event is delivered", || async { gateway.metric(delivered).await == 1.0 }).await;

    let spans = collected(&mut gateway, &collector).await;
    let request = only(&spans, "request");
    assert_eq!(texts(&request.attributes)["sealgate.outcome"], "queued");
    for (number, outcome, status) in [("1", "failed", "500"), ("2", "delivered", "200")] {
        let attempt: Vec<Span> = spans
            .iter()
            .filter(|span| {
                texts(&span.attributes).get("sealgate.attempt").is_some_and(|n| n == number)
            })
            .cloned()
            .collect();
        let attempt = only(&attempt, "attempt");
        let attributes = texts(&attempt.attributes);
        assert_eq!(attributes["sealgate.outcome"], outcome);
        assert_eq!(attributes["http.response.status_code"], status);
        assert!(attempt.parent_span_id.is_empty() && attempt.trace_id != request.trace_id);
        let link = attempt.links.first().expect("a link");
        assert_eq!((&link.trace_id, &link.span_id), (&request.trace_id, &request.span_id));
        let own: Vec<_> =
            spans.iter().filter(|span| span.trace_id == attempt.trace_id).cloned().collect();
        let exchange = only(&own, "upstream");
        assert_eq!(exchange.parent_span_id, attempt.span_id);
        let context = format!("00-{}-{}-01", hex(&attempt.trace_id), hex(&exchange.span_id));
        let seen = upstream.requests();
        let seen = seen.iter().find(|request| request.header("sealgate-attempt") == Some(number));
        assert_eq!(seen.expect("sent").header("traceparent"), Some(&*context));
    }
}

#[tokio::test]
async fn a_collector_that_fails_or_does_not_respond_changes_nothing() {
    for (answer, is_reachable) in
        [(Answer::Status(200), false), (Answer::Status(503), true), (Answer::Silence, true)]
    {
        let (upstream, collector) = (Upstream::start().await, Upstream::start().await);
        let is_silent = matches!(answer, Answer::Silence);
        collector.answer([answer]);
        let address = if is_reachable { collector.address() } else { free_address() };
        let section = format!("[traces]\nendpoint = \"http://{address}\"");
        let mut gateway = Setup::new(&upstream).plain().section(&section).start();
        let mut connection = gateway.connect_plain().await;
        for number in 0..20 {
            let body = format!("{{\"a\":{number}}}");
            let reply = connection.exchange(&Event::new(body.as_bytes()).request()).await;
            assert_eq!(reply.status, 200);
        }
        if !is_silent {
            let failed = "sealgate_trace_spans_total{result=\"failed\"}";
            until("the spans are counted", || async { gateway.metric(failed).await >= 80.0 }).await;
        }
        gateway.drain().await;
    }
}
