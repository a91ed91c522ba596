//! When a failed attempt is repeated.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};

use crate::{
    events::model::{EventEntry, NextStep},
    reject::Reject,
    replay::Millis,
    response::SanitizedResponse,
};

/// The exponential backoff of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryOptions {
    /// The first backoff; each further one is twice as long.
    pub first: Duration,
    /// The longest backoff.
    pub max: Duration,
    /// How long an event is retried before it is dead.
    pub lasts: Duration,
}

/// The result of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AttemptResult {
    /// The status, if the handler responded.
    pub(crate) status: Option<u16>,
    /// Why there is no status, in one word.
    pub(crate) error: Option<&'static str>,
    /// Whether the handler may have acted without a response.
    pub(crate) unknown: bool,
    /// The shortest time until the next attempt, if the handler sent `Retry-After`.
    retry_after: Option<Duration>,
}

impl AttemptResult {
    /// Returns the result of an exchange that ended at `now`.
    pub(crate) fn of(outcome: &Result<SanitizedResponse, Reject>, now: Millis) -> Self {
        match outcome {
            Ok(response) => AttemptResult {
                status: Some(response.status.as_u16()),
                error: None,
                unknown: false,
                retry_after: retry_after(&response.headers, now),
            },
            Err(reject) => AttemptResult {
                status: None,
                error: Some(reject.upstream_failure()),
                unknown: !reject.is_known_outcome(),
                retry_after: None,
            },
        }
    }

    /// Returns whether the handler responded 2xx.
    pub(crate) fn is_success(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }

    /// Returns whether the handler responded 410, which ends the event.
    pub(crate) fn is_gone(&self) -> bool {
        self.status == Some(StatusCode::GONE.as_u16())
    }
}

/// Parses `Retry-After`: seconds or an HTTP date (RFC 9110 section 10.2.3).
fn retry_after(headers: &HeaderMap, now: Millis) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    let date = date.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(date.saturating_sub(Duration::from_millis(now)))
}

impl RetryOptions {
    /// Returns what happens to an event after an attempt that ended at `now`. The entry is the one
    /// of the attempt; `jitter` is between 0 and 1.
    pub(crate) fn next(
        &self,
        entry: &EventEntry,
        result: &AttemptResult,
        now: Millis,
        jitter: f64,
    ) -> NextStep {
        let AttemptResult { unknown, .. } = *result;
        if result.is_success() {
            return NextStep::Delivered;
        }
        if result.is_gone() || now >= entry.expires {
            return NextStep::Dead { unknown };
        }
        let began = entry.expires.saturating_sub(millis(self.lasts));
        let failures = entry.log.iter().filter(|attempt| attempt.at >= began).count();
        let at = now.saturating_add(self.backoff(failures, jitter)).min(entry.expires);
        let wanted = result.retry_after.map_or(0, |wait| millis(wait.min(self.max)));
        NextStep::Retry { at: at.max(now.saturating_add(wanted)), unknown }
    }

    /// Returns the backoff after so many earlier failures, ±20%.
    fn backoff(&self, failures: usize, jitter: f64) -> Millis {
        let doublings = u32::try_from(failures).unwrap_or(u32::MAX).min(32);
        let exact = self.first.saturating_mul(1 << doublings.min(31)).min(self.max);
        millis(exact.mul_f64(0.8 + 0.4 * jitter)).max(1)
    }
}

fn millis(time: Duration) -> Millis {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{model::DeliveryAttempt, tests::entry};

    const POLICY: RetryOptions = RetryOptions {
        first: Duration::from_secs(5),
        max: Duration::from_secs(3600),
        lasts: Duration::from_secs(72 * 3600),
    };

    fn failed(status: u16, retry_after: Option<&'static str>) -> AttemptResult {
        let status = StatusCode::from_u16(status).expect("a status");
        let mut response = SanitizedResponse::empty(status);
        if let Some(value) = retry_after {
            response.headers.insert(RETRY_AFTER, value.parse().expect("a value"));
        }
        AttemptResult::of(&Ok(response), 784_111_777_000)
    }

    fn wait(failures: usize, result: &AttemptResult, jitter: f64) -> u64 {
        let now = 784_111_777_000;
        let mut entry = EventEntry { expires: now + 72 * 3_600_000, ..entry("a") };
        let attempt = DeliveryAttempt {
            at: now,
            status: Some(500),
            error: None,
            duration_ms: 1,
            resigned: false,
        };
        // Attempts before the current `for` do not count.
        entry.log = vec![DeliveryAttempt { at: now - 1, ..attempt.clone() }; 3];
        entry.log.extend(vec![attempt; failures]);
        match POLICY.next(&entry, result, now, jitter) {
            NextStep::Retry { at, unknown: false } => at - now,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_backoff_doubles_up_to_its_maximum() {
        let result = failed(500, None);
        let waits: Vec<u64> = (0..12).map(|failures| wait(failures, &result, 0.5)).collect();
        let seconds = [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600];
        assert_eq!(waits, seconds.map(|seconds| seconds * 1000));
        assert_eq!((wait(0, &result, 0.0), wait(0, &result, 1.0)), (4000, 6000));
    }

    #[test]
    fn retry_after_is_honored_up_to_the_maximum() {
        assert_eq!(wait(0, &failed(503, Some("120")), 0.5), 120_000);
        assert_eq!(wait(0, &failed(503, Some("1")), 0.5), 5000, "never shorter than the backoff");
        assert_eq!(wait(0, &failed(503, Some("999999")), 0.5), 3_600_000);
        // A minute after the example of RFC 9110.
        assert_eq!(wait(0, &failed(429, Some("Sun, 06 Nov 1994 08:50:37 GMT")), 0.5), 60_000);
        assert_eq!(wait(0, &failed(429, Some("Sun, 06 Nov 1994 08:40:37 GMT")), 0.5), 5000);
        assert_eq!(wait(0, &failed(429, Some("soon")), 0.5), 5000);
    }

    #[test]
    fn an_event_is_dead_after_its_time_or_at_once_after_410() {
        let now = 1_000_000;
        let entry = EventEntry { expires: now + 1000, ..entry("a") };
        let next = |result: &AttemptResult, now| POLICY.next(&entry, result, now, 0.5);
        assert_eq!(next(&failed(410, None), now), NextStep::Dead { unknown: false });
        let last = NextStep::Retry { at: now + 1000, unknown: false };
        assert_eq!(next(&failed(500, None), now), last, "the last attempt is at the end");
        assert_eq!(next(&failed(500, None), now + 1000), NextStep::Dead { unknown: false });
        assert_eq!(next(&failed(204, None), now + 2000), NextStep::Delivered);
        let unknown = AttemptResult::of(&Err(Reject::UpstreamReset), now);
        assert_eq!(next(&unknown, now + 1000), NextStep::Dead { unknown: true });
        let known = AttemptResult::of(&Err(Reject::UpstreamConnect), now);
        assert!(!known.unknown && unknown.unknown);
    }
}
