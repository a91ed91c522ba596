//! The right to forward an event, and the receipt for its response.

use std::sync::Arc;

use http::StatusCode;
use tokio::time::Instant;

use crate::{
    reject::Reject,
    replay::{
        clock::{Millis, millis},
        guard::Guard,
        in_flight::ClaimEnd,
        record::{Arrival, Identities, LeaseToken, ReplayRecord, RequestIdentity},
        store::{Store, lease::Attempt},
    },
    response::SanitizedResponse,
};

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was sent, or the upstream responded in full.
    Known,
    /// Bytes were sent and no complete response came: the upstream may have acted.
    Unknown,
}

/// The right to forward an event, held by one request at a time.
///
/// It ends by [`Claim::done`] or [`Claim::failed`]. If it is dropped without either, it is released
/// as an attempt with an unknown outcome, and the copies that joined get 503 and `Retry-After`.
#[derive(Debug)]
#[must_use = "dropping a claim releases it"]
pub struct Claim(Option<Box<HeldClaim>>);

/// A claim that is in the claim map.
#[derive(Debug)]
pub(crate) struct HeldClaim {
    pub(crate) guard: Arc<Guard>,
    pub(crate) arrival: Arrival,
    /// 0 when the claim has ended.
    ticket: u64,
    pub(crate) unknown: bool,
    /// The token under which a shared store holds, or may hold, a lease for it.
    pub(crate) lease: Option<LeaseToken>,
    pub(crate) answer_by: Instant,
    stage: ClaimStage,
}

#[derive(Debug)]
enum ClaimStage {
    /// The reply of a shared store is awaited.
    Requested,
    Held,
    /// The upstream responded 2xx.
    Succeeded(SanitizedResponse),
}

impl HeldClaim {
    pub(crate) fn new(
        guard: &Arc<Guard>,
        arrival: Arrival,
        ticket: u64,
        unknown: bool,
        answer_by: Instant,
    ) -> Self {
        HeldClaim {
            guard: Arc::clone(guard),
            arrival,
            ticket,
            unknown,
            lease: None,
            answer_by,
            stage: ClaimStage::Requested,
        }
    }

    pub(crate) fn ticket(&self) -> u64 {
        self.ticket
    }

    /// Gives the claim back as if it had never existed. Copies that wait get `reason`, or claim
    /// again if there is none.
    pub(crate) fn withdraw(&mut self, reason: Option<Reject>) {
        self.guard.claims.withdraw(&self.arrival, self.ticket, reason);
        self.ticket = 0;
        self.guard.record_behind(&self.arrival, self.lease, Attempt::None, 503);
    }

    /// Ends the claim in the claim map.
    pub(crate) fn end(
        &mut self,
        end: ClaimEnd,
        outcome: impl FnOnce() -> Result<SanitizedResponse, Reject>,
    ) {
        let now = self.guard.clock.now();
        self.guard.claims.end(&self.arrival, self.ticket, end, outcome, now);
        self.ticket = 0;
    }

    fn succeed(
        &mut self,
        response: &SanitizedResponse,
        behind: bool,
        answered: Option<RequestIdentity>,
    ) {
        let status = response.status.as_u16();
        let answered = answered.map(Identities::from).unwrap_or_default();
        let lasts = millis(self.arrival.terms.ttl);
        self.end(ClaimEnd::Done { status, behind, answered, lasts }, || Ok(response.clone()));
        if behind {
            self.guard.record_behind(&self.arrival, self.lease, Attempt::Unknown, status);
        }
    }

    /// `stored`: a shared store has the failure already.
    fn fail(
        &mut self,
        unknown: bool,
        status: u16,
        outcome: Result<SanitizedResponse, Reject>,
        stored: bool,
    ) {
        let unknown = unknown || self.unknown;
        let is_shared = matches!(self.guard.store, Store::Shared(_));
        let behind = !stored && is_shared && self.lease.is_some();
        self.end(ClaimEnd::Failed { unknown, behind }, || outcome);
        if !stored {
            let attempt = Attempt::failed(unknown);
            self.guard.record_behind(&self.arrival, self.lease, attempt, status);
        }
    }
}

impl Drop for HeldClaim {
    fn drop(&mut self) {
        if self.ticket == 0 {
            return;
        }
        match std::mem::replace(&mut self.stage, ClaimStage::Held) {
            ClaimStage::Requested => self.withdraw(None),
            ClaimStage::Held => self.fail(true, 503, Err(Reject::InFlight), false),
            ClaimStage::Succeeded(response) => self.succeed(&response, true, None),
        }
    }
}

impl Claim {
    /// Returns a claim without a record: for deliveries that are identical on purpose, and for
    /// routes that only observe.
    pub fn unrecorded() -> Self {
        Claim(None)
    }

    pub(crate) fn held(mut held: Box<HeldClaim>) -> Self {
        held.stage = ClaimStage::Held;
        Claim(Some(held))
    }

    /// Returns whether an earlier attempt may have reached the upstream.
    pub fn possible_duplicate(&self) -> bool {
        self.0.as_ref().is_some_and(|held| held.unknown)
    }

    /// Records that the upstream responded 2xx, and gives the response to the copies that joined.
    /// When this returns, the record is durable if the store is; if the store does not accept it in
    /// time, it is written behind.
    ///
    /// If the sender `waits`, it gets its response in the same step in which this returns. With the
    /// memory store that is recorded in advance, because the record ends with the process anyway.
    pub async fn done(self, response: &SanitizedResponse, waits: bool) -> Receipt {
        let Some(mut held) = self.0 else { return Receipt(None) };
        let behind = match &held.guard.store {
            Store::Memory if waits => {
                held.succeed(response, false, held.arrival.identity);
                return Receipt(None);
            }
            Store::Memory => false,
            Store::Disk(_) | Store::Shared(_) => {
                // The upstream's success stays true if this task is cancelled while it waits.
                held.stage = ClaimStage::Succeeded(response.clone());
                let (guard, status) = (Arc::clone(&held.guard), response.status.as_u16());
                let (arrival, lease) = (&held.arrival, held.lease);
                !guard.record_done(arrival, lease, status, held.answer_by).await
            }
        };
        held.succeed(response, behind, None);
        Receipt::new(&held.guard, &held.arrival)
    }

    /// Records that the attempt failed, so that the next copy may try. The copies that joined get
    /// `outcome`: the upstream's response, or the reason why there is none.
    pub async fn failed(self, how: Failure, outcome: Result<SanitizedResponse, Reject>) {
        let Some(mut held) = self.0 else { return };
        let unknown = how == Failure::Unknown || held.unknown;
        let status = match &outcome {
            Ok(response) => response.status,
            Err(reject) => reject.status(StatusCode::UNAUTHORIZED),
        }
        .as_u16();
        let guard = Arc::clone(&held.guard);
        let (arrival, attempt) = (&held.arrival, Attempt::failed(unknown));
        let stored =
            guard.record_failed(arrival, held.lease, attempt, status, held.answer_by).await;
        held.fail(unknown, status, outcome, stored);
    }
}

/// A claim that a shared store has yet to decide about. If it is dropped, it is given back.
#[derive(Debug)]
#[must_use = "dropping a claim releases it"]
pub struct PendingClaim {
    pub(crate) held: Box<HeldClaim>,
    pub(crate) token: LeaseToken,
    /// When the lease begins at the earliest.
    pub(crate) since: Millis,
    /// Whether the event is on record here.
    pub(crate) known: bool,
    /// Whether it is on record here with another context.
    pub(crate) mismatch: bool,
}

impl PendingClaim {
    /// Returns a claim that the store is about to decide about. From here on the store may hold its
    /// lease, whether or not its reply arrives.
    pub(crate) fn new(mut held: Box<HeldClaim>, known: bool, mismatch: bool) -> Self {
        let token = held.guard.token(held.ticket());
        held.lease = Some(token);
        let since = held.guard.clock.now();
        PendingClaim { held, token, since, known, mismatch }
    }

    /// Returns what the event store records about the event when it stores it.
    pub(crate) fn record(&self) -> ReplayRecord {
        let Arrival { key, pin, stale, terms, .. } = self.held.arrival;
        ReplayRecord { key, token: self.token, pin, stale, lifetime: millis(terms.ttl) }
    }

    /// Returns whether an earlier attempt may have reached the upstream, as far as this process
    /// knows.
    pub(crate) fn possible_duplicate(&self) -> bool {
        self.held.unknown
    }

    /// Notes that the store has recorded the claim and its success, and gives the response to the
    /// copies that wait.
    pub(crate) fn recorded(mut self, response: &SanitizedResponse) -> Receipt {
        let receipt = Receipt::new(&self.held.guard, &self.held.arrival);
        self.held.succeed(response, false, None);
        receipt
    }

    /// Gives the claim back because the store did not decide.
    pub(crate) fn withdraw(mut self, reason: Reject) {
        self.held.withdraw(Some(reason));
    }
}

/// Records, once a 2xx was written out to the sender, that the same request is a replay from then
/// on.
#[derive(Clone, Debug)]
#[must_use = "call `written` when the response was written out"]
pub struct Receipt(Option<(Arc<Guard>, Arrival, RequestIdentity)>);

impl Receipt {
    pub(crate) fn new(guard: &Arc<Guard>, arrival: &Arrival) -> Self {
        Receipt(arrival.identity.map(|identity| (Arc::clone(guard), *arrival, identity)))
    }

    /// Records that the 2xx was written out.
    pub fn written(self) {
        if let Some((guard, arrival, identity)) = self.0 {
            guard.record_answered(&arrival, identity);
        }
    }
}
