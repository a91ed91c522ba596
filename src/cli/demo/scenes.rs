use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};

use super::stage::{DemoStage, SignedRequest};

const EVENT_ID: HeaderName = HeaderName::from_static("x-vivoldi-event-id");
const SIGNATURE: HeaderName = HeaderName::from_static("x-vivoldi-signature");
const ACTION: HeaderName = HeaderName::from_static("x-vivoldi-action-type");
const COUPON: &str = r#"{"cpnNo":"ZJLF0399WQBEQZJM","grpIdx":574,"useCnt":1}"#;
const STAMP: &str = r#"{"stampIdx":16,"cardIdx":1,"stamps":10}"#;
const BROKEN: &str = r#"{"cpnNo":"ZJLF0399WQBEQZJM","grpIdx":574,"fail_once":1}"#;
/// How long the events of an outage may take to arrive.
const DELIVERY: Duration = Duration::from_secs(20);
const SIX_MINUTES: i64 = 6 * 60 * 1000;

/// The result of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fate {
    status: u16,
    outcome: String,
    reason: String,
    forwarded: usize,
}

/// One row of the table.
pub(super) struct Row {
    what: &'static str,
    must: Fate,
    was: Fate,
}

impl Row {
    pub(super) fn is_as_it_must_be(&self) -> bool {
        self.must == self.was
    }
}

fn must(status: u16, outcome: &str, reason: &str, forwarded: usize) -> Fate {
    Fate { status, outcome: outcome.to_owned(), reason: reason.to_owned(), forwarded }
}

/// Sends the requests one after the other, and returns the rows.
pub(super) async fn play(stage: &DemoStage) -> anyhow::Result<Vec<Row>> {
    let fresh = HeaderMap::new;
    let event = stage.sign("global", fresh(), COUPON, 0)?;
    let retry = stage.sign("global", same_event(&event), COUPON, 1)?;
    let tampered = SignedRequest {
        body: Bytes::from_static(br#"{"cpnNo":"ZJLF0399WQBEQZJM","grpIdx":574,"useCnt":0}"#),
        ..stage.sign("global", fresh(), COUPON, 0)?
    };
    let mut unsigned = stage.sign("global", fresh(), COUPON, 0)?;
    unsigned.headers.remove(SIGNATURE);
    let mut foreign = stage.sign("global", fresh(), COUPON, 0)?;
    let other = stage.sign("coupon/574", same_event(&foreign), COUPON, 0)?;
    foreign.headers.insert(SIGNATURE, other.headers[SIGNATURE].clone());
    let stamp = stage.sign("stamp/1", fresh(), STAMP, 0)?;
    let mut relabelled = stage.sign("stamp/1", same_event(&stamp), STAMP, 1)?;
    relabelled.headers.insert(ACTION, HeaderValue::from_static("REMOVE"));
    let mut unknown = stage.sign("stamp/1", fresh(), STAMP, 0)?;
    unknown.body = Bytes::from_static(br#"{"stampIdx":16,"cardIdx":2,"stamps":10}"#);
    let old = stage.sign("global", fresh(), COUPON, -SIX_MINUTES)?;
    let broken = stage.sign("global", fresh(), BROKEN, 0)?;
    let fixed = stage.sign("global", same_event(&broken), BROKEN, 1)?;
    let group = stage.sign("coupon/574", fresh(), COUPON, 0)?;

    let scenes = [
        ("an authentic event", &event, must(200, "forwarded", "", 1)),
        ("the sender's retry of it", &retry, must(200, "duplicate", "", 0)),
        ("the same request, replayed", &event, must(409, "replay", "", 0)),
        ("an event of a coupon group, with its key", &group, must(200, "forwarded", "", 1)),
        ("an event of a stamp card, with its key", &stamp, must(200, "forwarded", "", 1)),
        (
            "… once more, as another action",
            &relabelled,
            must(409, "rejected", "context_mismatch", 0),
        ),
        ("an event on which the handler fails", &broken, must(500, "forwarded", "", 1)),
        ("… and its retry", &fixed, must(200, "forwarded", "", 1)),
        (
            "a body that was changed in transit",
            &tampered,
            must(401, "rejected", "bad_signature", 0),
        ),
        ("a group's key for a global event", &foreign, must(401, "rejected", "bad_signature", 0)),
        ("a stamp card without a key here", &unknown, must(401, "rejected", "unknown_key", 0)),
        ("no signature", &unsigned, must(401, "rejected", "missing_header", 0)),
        ("a request signed six minutes ago", &old, must(401, "rejected", "stale", 0)),
    ];
    let mut rows = Vec::new();
    for (what, signed, must) in scenes {
        let was = fate(stage, stage.send(signed)).await?;
        rows.push(Row { what, must, was });
    }
    rows.extend(outage(stage).await?);
    Ok(rows)
}

/// Sends events while the handler is down, to a route that stores them, and waits until they are
/// delivered.
async fn outage(stage: &DemoStage) -> anyhow::Result<Vec<Row>> {
    let what = [
        "the handler goes down: an event",
        "… a second one of the same stamp card",
        "… and a third one",
    ];
    let bodies = [
        r#"{"stampIdx":17,"cardIdx":1,"stamps":1}"#,
        r#"{"stampIdx":18,"cardIdx":1,"stamps":2}"#,
        r#"{"stampIdx":19,"cardIdx":1,"stamps":3}"#,
    ];
    stage.upstream().stop().await;
    let (seen, mut rows) = (stage.forwarded(), Vec::new());
    for (what, body) in what.into_iter().zip(bodies) {
        let signed = stage.sign("global", HeaderMap::new(), body, 0)?;
        let was = fate(stage, stage.send_stored(&signed)).await?;
        rows.push(Row { what, must: must(200, "queued", "", 0), was });
    }
    stage.upstream().resume().await?;
    let end = Instant::now() + DELIVERY;
    while stage.forwarded() < seen + bodies.len() && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let arrived = stage.upstream().after(seen);
    let in_order = arrived.iter().map(|body| &**body).eq(bodies.iter().map(|body| body.as_bytes()));
    let outcome = if in_order { "delivered" } else { "disordered" };
    rows.push(Row {
        what: "… the handler is back: they arrive in order",
        must: must(0, "delivered", "", bodies.len()),
        was: must(0, outcome, "", arrived.len()),
    });
    Ok(rows)
}

/// Returns the headers that a retry shares with the first request: the event ID and its context.
fn same_event(first: &SignedRequest) -> HeaderMap {
    let mut headers = first.headers.clone();
    for fresh in ["x-vivoldi-request-id", "x-vivoldi-timestamp", "x-content-sha256"] {
        headers.remove(fresh);
    }
    headers.remove(SIGNATURE);
    debug_assert!(headers.contains_key(EVENT_ID));
    headers
}

/// Sends a request, and reads its result from the response, the counters and the upstream.
async fn fate(
    stage: &DemoStage,
    sending: impl Future<Output = anyhow::Result<Response<Bytes>>>,
) -> anyhow::Result<Fate> {
    let (before, seen) = (stage.metrics()?, stage.forwarded());
    let response = sending.await?;
    let after = stage.metrics()?;
    Ok(Fate {
        status: response.status().as_u16(),
        outcome: counted(&before, &after, "sealgate_requests_total", "outcome"),
        reason: counted(&before, &after, "sealgate_rejections_total", "reason"),
        forwarded: stage.forwarded() - seen,
    })
}

/// Returns the label value of a counter that changed between two scrapes.
fn counted(before: &str, after: &str, counter: &str, label: &str) -> String {
    after
        .lines()
        .filter(|line| line.starts_with(counter) && !before.lines().any(|known| known == *line))
        .filter_map(|line| line.split_once(&format!("{label}=\""))?.1.split_once('"'))
        .map(|(value, _)| value.to_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Formats the table.
pub(super) fn render(rows: &[Row]) -> String {
    let mut table = format!(
        "  {:<42} {:>6}  {:<10} {:<17} {}\n",
        "what the sender sends", "status", "outcome", "reason", "upstream"
    );
    for Row { what, was, must } in rows {
        let mark = if was == must { "✓" } else { "✗" };
        let upstream = match was.forwarded {
            0 => "–".to_owned(),
            1 => "sees it".to_owned(),
            count => format!("sees {count}"),
        };
        let Fate { status, outcome, reason, .. } = was;
        let status = if *status == 0 { "–".to_owned() } else { status.to_string() };
        writeln!(table, "{mark} {what:<42} {status:>6}  {outcome:<10} {reason:<17} {upstream}")
            .expect("writing to a string cannot fail");
        if was != must {
            writeln!(table, "    expected: {must:?}").expect("writing to a string cannot fail");
        }
    }
    table
}
