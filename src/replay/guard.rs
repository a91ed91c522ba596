//! The guard: the claim map, and the store behind it where there is one.
//!
//! A success is recorded in the store, then in the claim map, and only then reported to the copies
//! that wait, so all who learn of it can rely on it.

use std::{fmt, sync::Arc, time::Duration};

use prometheus::Histogram;
use tokio::time::{Instant, timeout_at};

use crate::{
    metrics::{ReplayStoreDurations, timed},
    reject::Reject,
    replay::{
        claims::Claims,
        clock::Clock,
        in_flight::ClaimState,
        options::OnStoreFailure,
        record::{Arrival, EventKey, Identities, LeaseToken, Record, RequestIdentity, State},
        store::{
            Store,
            disk::{entry::Entry, queue::OnWritten},
            lease::{Attempt, ForgetReply, Renewal, STORE_TIMEOUT, Unreachable},
        },
        write_behind::{PendingUpdate, WriteBehind},
    },
};

/// The interval between attempts to record a success in a shared store.
const RETRY: Duration = Duration::from_millis(50);

pub(crate) struct Guard {
    pub(crate) claims: Arc<Claims>,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) on_store_failure: OnStoreFailure,
    /// The first half of this process's lease tokens, different in every process.
    process: [u8; 8],
    pub(crate) write_behind: WriteBehind,
    /// How long requests wait for the store; not for `memory`.
    pub(crate) durations: Option<ReplayStoreDurations>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guard({} entries)", self.claims.used())
    }
}

impl Guard {
    pub(crate) fn new(
        claims: Arc<Claims>,
        store: Store,
        clock: Clock,
        on_store_failure: OnStoreFailure,
        process: [u8; 8],
    ) -> Self {
        let write_behind = WriteBehind::default();
        let durations = None;
        Guard { claims, store, clock, on_store_failure, process, write_behind, durations }
    }

    /// Waits for an operation of the store, and measures how long that takes.
    pub(crate) async fn timed<T>(
        &self,
        duration: fn(&ReplayStoreDurations) -> &Histogram,
        operation: impl Future<Output = T>,
    ) -> T {
        match &self.durations {
            Some(durations) => timed(duration(durations), operation).await,
            None => operation.await,
        }
    }

    /// Returns the token of the lease for the claim with this ticket.
    pub(crate) fn token(&self, ticket: u64) -> LeaseToken {
        let mut token = [0; 16];
        token[..8].copy_from_slice(&self.process);
        token[8..].copy_from_slice(&ticket.to_le_bytes());
        LeaseToken(token)
    }

    /// Records a success in the store; returns `false` if it has to be written behind, because the
    /// store did not accept it until shortly before `answer_by`. Nobody waits for a success that
    /// comes later than that.
    pub(crate) async fn record_done(
        &self,
        arrival: &Arrival,
        lease: Option<LeaseToken>,
        status: u16,
        answer_by: Instant,
    ) -> bool {
        let now = Instant::now();
        let waits = answer_by > now;
        let until = if waits { response_deadline(answer_by) } else { now + STORE_TIMEOUT };
        match &self.store {
            Store::Memory => true,
            Store::Disk(disk) => {
                if self.on_store_failure == OnStoreFailure::Local && !disk.is_up() {
                    return false;
                }
                let record = Record::new(State::Done { status }, arrival, self.clock.now());
                let put = disk.put_durably(arrival.key, Entry::of(&record, arrival.terms));
                let put = self.timed(|durations| &durations.done, timeout_at(until, put));
                put.await.unwrap_or(false)
            }
            Store::Shared(store) => {
                // Without a lease, the event was done before and is so in the store.
                let Some(token) = lease else { return true };
                loop {
                    let attempt = until.min(Instant::now() + STORE_TIMEOUT);
                    let done = store.done(arrival, token, status, None, attempt);
                    if self.timed(|durations| &durations.done, done).await.is_ok() {
                        return true;
                    }
                    let again = waits && Instant::now() + RETRY < until;
                    if !again || self.on_store_failure == OnStoreFailure::Local {
                        return false;
                    }
                    self.clock.sleep(RETRY).await;
                }
            }
        }
    }

    /// Records the end of a claim in the store, later: a success if the record here says so by
    /// then, `attempt` otherwise.
    pub(crate) fn record_behind(
        &self,
        arrival: &Arrival,
        lease: Option<LeaseToken>,
        attempt: Attempt,
        status: u16,
    ) {
        match &self.store {
            Store::Memory => {}
            Store::Disk(disk) => {
                if let Some(record) = self.claims.record(&arrival.key) {
                    let on_written = match record.state {
                        State::Done { .. } => OnWritten::MarkStored,
                        State::Failed { .. } => OnWritten::Nothing,
                    };
                    disk.put(arrival.key, Entry::of(&record, arrival.terms), on_written);
                }
            }
            Store::Shared(_) => {
                if let Some(token) = lease {
                    let (tokens, answered) = (vec![token], Identities::default());
                    let arrival = *arrival;
                    self.write_behind.push(PendingUpdate {
                        arrival,
                        tokens,
                        attempt,
                        status,
                        answered,
                    });
                }
            }
        }
    }

    /// Records a failure in a shared store; returns `true` if the store has the pin and the mark
    /// from now on.
    pub(crate) async fn record_failed(
        &self,
        arrival: &Arrival,
        lease: Option<LeaseToken>,
        attempt: Attempt,
        status: u16,
        answer_by: Instant,
    ) -> bool {
        let (Store::Shared(store), Some(token)) = (&self.store, lease) else { return false };
        let now = Instant::now();
        let limit = now + STORE_TIMEOUT;
        let until = if answer_by > now { response_deadline(answer_by).min(limit) } else { limit };
        store.failed(arrival, token, attempt, status, until).await.is_ok()
    }

    /// Records that the 2xx was written out for a request.
    pub(crate) fn record_answered(&self, arrival: &Arrival, identity: RequestIdentity) {
        let changed = self.claims.mark_answered(&arrival.key, identity);
        match (&self.store, changed) {
            (Store::Memory, _) | (Store::Disk(_), None) => {}
            (Store::Disk(disk), Some(record)) => {
                let entry = Entry::of(&record, arrival.terms);
                disk.put(arrival.key, entry, OnWritten::Nothing);
            }
            // The record need not be here: another process may have forwarded the event.
            (Store::Shared(_), _) => self.write_behind.push(PendingUpdate {
                arrival: *arrival,
                tokens: Vec::new(),
                attempt: Attempt::None,
                status: 200,
                answered: Identities::from(identity),
            }),
        }
    }

    /// Forgets an event, so that its next copy counts as new. Waits until it is not in flight.
    ///
    /// # Errors
    /// [`Reject::InFlight`] or [`Reject::StoreUnavailable`] at `until` at the latest.
    pub(crate) async fn forget(&self, key: &EventKey, until: Instant) -> Result<(), Reject> {
        if let Store::Shared(store) = &self.store {
            let mut is_busy = false;
            loop {
                match store.forget(key, until).await {
                    Ok(ForgetReply::Forgotten) => break,
                    Ok(ForgetReply::Busy) if Instant::now() + RETRY < until => is_busy = true,
                    Ok(ForgetReply::Busy) => return Err(Reject::InFlight),
                    Err(Unreachable) if is_busy && Instant::now() >= until => {
                        return Err(Reject::InFlight);
                    }
                    Err(Unreachable) => return Err(Reject::StoreUnavailable),
                }
                self.clock.sleep(RETRY).await;
            }
        }
        while let Some(mut claim) = self.claims.forget(key) {
            let ended = claim.wait_for(|state| {
                matches!(state, ClaimState::Withdrawn(_) | ClaimState::Settled(_))
            });
            // An error means that the claim has ended.
            let _ = timeout_at(until, ended).await.map_err(|_| Reject::InFlight)?;
        }
        if let Store::Disk(disk) = &self.store {
            let written = timeout_at(until, disk.flush()).await;
            written.map_err(|_| Reject::StoreUnavailable)?;
        }
        Ok(())
    }

    /// Renews the leases that were not renewed for a renewal interval in one call, starting with
    /// those that expire first. Leases that could not be renewed are due again at once.
    pub(crate) async fn renew(&self) -> Result<(), Unreachable> {
        let Store::Shared(store) = &self.store else { return Ok(()) };
        let renewed = self.clock.now();
        let leases = self.claims.leases_due(renewed);
        if leases.is_empty() {
            return Ok(());
        }
        let renewals = store.renew(&leases, Instant::now() + STORE_TIMEOUT).await;
        let mut lost = 0;
        let mut reached = true;
        for (lease, renewal) in leases.iter().zip(renewals) {
            match renewal {
                Renewal::Renewed => self.claims.mark_renewed(lease, renewed),
                Renewal::Lost => {
                    lost += 1;
                    self.claims.mark_renewed(lease, renewed);
                }
                Renewal::Unreachable => reached = false,
            }
        }
        if lost > 0 {
            tracing::warn!(lost, "leases of events in flight were lost to other replicas");
        }
        if reached { Ok(()) } else { Err(Unreachable) }
    }

    /// Returns whether the store writes updates of many events together.
    pub(crate) fn writes_behind_together(&self) -> bool {
        matches!(&self.store, Store::Shared(store) if store.answered_together() > 1)
    }

    /// Writes one update behind, or several together; returns `None` if none is queued.
    pub(crate) async fn write_behind(&self) -> Option<Result<(), Unreachable>> {
        let Store::Shared(store) = &self.store else { return None };
        self.write_behind.write_next(store, &self.claims).await
    }
}

/// Returns the time until which the store may delay an outcome. The rest, at most 100 ms, is for
/// the response.
fn response_deadline(answer_by: Instant) -> Instant {
    let left = answer_by.saturating_duration_since(Instant::now());
    answer_by - (left / 4).min(Duration::from_millis(100))
}
