//! When a certificate is renewed. All times are relative to its lifetime, so that certificates of a
//! minute and of ninety days follow the same rules.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::tls::certificates::Validity;

/// The wait after the first failure; it doubles with each further one.
const FIRST_RETRY: Duration = Duration::from_secs(10);
/// The longest wait after a failure, and between two readings of the clock, which may be adjusted.
const HOUR: Duration = Duration::from_secs(3600);
/// The longest wait that the directory can ask for.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// The shortest wait between two requests of a kind.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// The period in which the directory asks for a certificate to be renewed (RFC 9773).
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) start: SystemTime,
    pub(super) end: SystemTime,
    /// When to query again.
    pub(super) query_after: Duration,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Wait(Duration),
    QueryRenewalInfo,
    Renew,
}

/// Decides when to renew.
#[derive(Debug)]
pub(super) struct RenewalSchedule {
    /// Of the certificate in service.
    lifetime: Option<Duration>,
    /// Two thirds of the lifetime.
    due: SystemTime,
    /// The start of the directory's window, and the time chosen in it.
    window: Option<(SystemTime, SystemTime)>,
    /// No attempt before this time, whatever is due.
    earliest: SystemTime,
    /// Renewals in succession that the directory's window demanded at once.
    hurried: u32,
    query_at: Option<SystemTime>,
    failures: u32,
}

impl RenewalSchedule {
    /// Returns the schedule for the certificate in service; `covers` is whether it is for all
    /// domains.
    pub(super) fn new(validity: Option<Validity>, covers: bool) -> Self {
        let time = |unix: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(unix).unwrap_or(0));
        let period = validity.map(|v| (time(v.not_before), time(v.not_after)));
        let lifetime = period.map(|(start, end)| end.duration_since(start).unwrap_or_default());
        let due = period.zip(lifetime).map(|((start, _), lifetime)| start + lifetime * 2 / 3);
        RenewalSchedule {
            lifetime,
            due: due.filter(|_| covers).unwrap_or(UNIX_EPOCH),
            window: None,
            earliest: UNIX_EPOCH,
            hurried: 0,
            query_at: validity.map(|_| UNIX_EPOCH),
            failures: 0,
        }
    }

    /// Returns what to do at `now`.
    pub(super) fn next(&self, now: SystemTime) -> Step {
        let chosen = self.window.map_or(self.due, |(_, chosen)| chosen);
        let renew_at = self.due.min(chosen).max(self.earliest);
        if renew_at <= now {
            return Step::Renew;
        }
        if self.query_at.is_some_and(|time| time <= now) {
            return Step::QueryRenewalInfo;
        }
        let next = self.query_at.map_or(renew_at, |time| time.min(renew_at));
        let wait = next.duration_since(now).unwrap_or_default();
        Step::Wait(wait.min(self.share_of_lifetime(HOUR)))
    }

    /// Notes that a new certificate is in service.
    pub(super) fn renewed(&mut self, validity: Option<Validity>, covers: bool, now: SystemTime) {
        let hurried = self.window.is_some_and(|(start, _)| start <= now) && now < self.due;
        let hurried = if hurried { self.hurried.saturating_add(1) } else { 0 };
        *self = RenewalSchedule { hurried, ..RenewalSchedule::new(validity, covers) };
        // Not at once, even if the clock is wrong: that would never end.
        let pause = self.lifetime.map_or(HOUR, |lifetime| (lifetime / 3).min(HOUR));
        self.due = self.due.max(now + pause);
    }

    /// Notes that no certificate was obtained, and returns the wait until the next attempt.
    pub(super) fn failed(&mut self, now: SystemTime, retry_after: Option<SystemTime>) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let wait = self.share_of_lifetime(doubled(self.failures));
        let wait = wait.max(SHORTEST_WAIT).max(asked(now, retry_after));
        self.earliest = now + wait;
        wait
    }

    /// Takes over the window of the directory, or that it has none.
    pub(super) fn set_window(&mut self, window: Option<Window>, now: SystemTime) {
        let Some(Window { start, end, query_after }) = window else {
            (self.window, self.query_at) = (None, Some(now + DAY));
            return;
        };
        self.query_at = Some(now + query_after.clamp(SHORTEST_WAIT, DAY));
        let first = self.window.is_none();
        if self.window.is_none_or(|(known, _)| known != start) {
            self.window = Some((start, random_time(start, end)));
        }
        if start > now {
            self.hurried = 0;
        } else if first && self.hurried > 0 {
            // A directory that asks for every new certificate to be replaced at once must wait.
            self.earliest = self.earliest.max(now + doubled(self.hurried));
        }
    }

    /// Notes that renewal information is not available.
    pub(super) fn query_failed(&mut self, now: SystemTime, retry_after: Option<SystemTime>) {
        let wait = self.share_of_lifetime(HOUR).max(SHORTEST_WAIT);
        self.query_at = Some(now + wait.max(asked(now, retry_after)));
    }

    /// Returns `time`, but at most a twelfth of the lifetime of the certificate in service.
    fn share_of_lifetime(&self, time: Duration) -> Duration {
        self.lifetime.map_or(time, |lifetime| time.min(lifetime / 12))
    }
}

/// Returns the wait after so many failures.
fn doubled(failures: u32) -> Duration {
    let factor = 2_u32.saturating_pow(failures.saturating_sub(1).min(16));
    (FIRST_RETRY * factor).min(HOUR)
}

/// Returns how long the directory asked to wait.
fn asked(now: SystemTime, retry_after: Option<SystemTime>) -> Duration {
    let wait = retry_after.and_then(|time| time.duration_since(now).ok());
    wait.unwrap_or_default().min(DAY)
}

/// Returns a random time in a period. Renewals of many certificates are spread over it.
fn random_time(start: SystemTime, end: SystemTime) -> SystemTime {
    let length = end.duration_since(start).unwrap_or_default();
    let random = u32::try_from(getrandom::u64().unwrap_or_default() >> 32).unwrap_or_default();
    start + length.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000_000 + seconds)
    }

    /// Returns a schedule for a certificate issued at second 0; its renewal information is not
    /// queried.
    fn schedule(lifetime: i64) -> RenewalSchedule {
        let validity = Validity { not_before: 1_000_000_000, not_after: 1_000_000_000 + lifetime };
        let mut schedule = RenewalSchedule::new(Some(validity), true);
        schedule.query_at = None;
        schedule
    }

    fn window(start: u64, end: u64) -> Option<Window> {
        Some(Window { start: at(start), end: at(end), query_after: HOUR })
    }

    /// Returns when the schedule renews, if nothing happens before.
    fn renewal(schedule: &RenewalSchedule, from: SystemTime) -> u64 {
        let mut now = from;
        loop {
            match schedule.next(now) {
                Step::Renew => return now.duration_since(at(0)).expect("later").as_secs(),
                Step::Wait(time) => now += time,
                Step::QueryRenewalInfo => panic!("a query at {now:?}"),
            }
        }
    }

    #[test]
    fn renews_at_two_thirds_of_any_lifetime() {
        for lifetime in [60, 6 * 86_400, 90 * 86_400] {
            let two_thirds = u64::try_from(lifetime).expect("positive") * 2 / 3;
            assert_eq!(renewal(&schedule(lifetime), at(0)), two_thirds);
        }
    }

    #[test]
    fn renews_at_once_without_a_certificate_or_for_other_domains() {
        assert_eq!(RenewalSchedule::new(None, false).next(at(0)), Step::Renew);
        let validity = Validity { not_before: 0, not_after: i64::MAX / 4 };
        assert_eq!(RenewalSchedule::new(Some(validity), false).next(at(0)), Step::Renew);
        assert_eq!(
            RenewalSchedule::new(Some(validity), true).next(UNIX_EPOCH),
            Step::QueryRenewalInfo
        );
    }

    #[test]
    fn backs_off_from_ten_seconds_to_an_hour() {
        let mut schedule = RenewalSchedule::new(None, false);
        let waits: Vec<_> = (0..12).map(|_| schedule.failed(at(0), None).as_secs()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600]);
    }

    #[test]
    fn retries_renewals_of_short_certificates_before_they_expire() {
        let mut schedule = schedule(60);
        for failure in 0..4 {
            let now = at(40 + failure * 5);
            assert_eq!(schedule.next(now), Step::Renew);
            assert_eq!(schedule.failed(now, None), 5 * SECOND);
        }
    }

    #[test]
    fn honors_retry_after_up_to_a_day() {
        let mut schedule = schedule(90 * 86_400);
        let now = at(60 * 86_400);
        assert_eq!(schedule.failed(now, Some(now + HOUR * 2)), HOUR * 2);
        assert_eq!(schedule.failed(now, Some(now + DAY * 30)), DAY);
        assert_eq!(schedule.failed(now, Some(at(0))), SECOND * 40);
        // A window that has begun does not shorten the wait.
        schedule.failed(now, Some(now + HOUR * 2));
        schedule.set_window(window(0, 1), now);
        schedule.query_at = None;
        assert_eq!(renewal(&schedule, now), 60 * 86_400 + 7200);
    }

    #[test]
    fn renews_within_the_window_of_the_directory() {
        let mut schedule = schedule(90 * 86_400);
        schedule.set_window(window(1000, 2000), at(10));
        let chosen = schedule.window;
        schedule.set_window(window(1000, 2000), at(20));
        assert_eq!(schedule.window, chosen, "the chosen time stays");
        schedule.query_at = None;
        assert!((1000..=2000).contains(&renewal(&schedule, at(20))));
        schedule.set_window(window(70 * 86_400, 80 * 86_400), at(30));
        schedule.query_at = None;
        assert_eq!(renewal(&schedule, at(30)), 60 * 86_400, "not later than two thirds");
        schedule.set_window(window(0, 20), at(40));
        assert_eq!(schedule.next(at(40)), Step::Renew);
    }

    #[test]
    fn a_directory_that_always_wants_renewals_gets_them_more_and_more_slowly() {
        let mut schedule = schedule(90 * 86_400);
        let mut now = at(10);
        let mut waits = Vec::new();
        for _ in 0..5 {
            schedule.set_window(window(0, 1), now);
            schedule.query_at = None;
            let renewed = renewal(&schedule, now);
            waits.push(at(renewed).duration_since(now).expect("later").as_secs());
            now = at(renewed);
            let validity = Validity { not_before: 1_000_000_000, not_after: 1_007_776_000 };
            schedule.renewed(Some(validity), true, now);
        }
        assert_eq!(waits, [0, 10, 20, 40, 80]);
    }

    #[test]
    fn a_wrong_clock_does_not_cause_endless_renewals() {
        let mut schedule = schedule(60);
        let validity = Validity { not_before: 1_000_000_000, not_after: 1_000_000_060 };
        let late = at(50);
        schedule.renewed(Some(validity), true, late);
        schedule.query_at = None;
        assert_eq!(renewal(&schedule, late), 70);
    }
}
