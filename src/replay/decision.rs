//! What a request may do: forward its event, wait for the copy that does, or nothing.
//!
//! The claim map decides among the copies in this process. A shared store then decides among the
//! processes, and only for the copy that won here.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use tokio::{sync::watch, time::Instant};

use crate::{
    reject::{Reason, Reject},
    replay::{
        claim::{Claim, HeldClaim, PendingClaim, Receipt},
        guard::Guard,
        in_flight::{ClaimEnd, ClaimState, Found},
        options::OnStoreFailure,
        record::{Arrival, Record, State},
        store::{
            SharedStore, Store,
            disk::{
                Disk,
                entry::{Entry, Stage},
                queue::OnWritten,
            },
            lease::{ClaimReply, DoneEvent, EventStatus, STORE_TIMEOUT, Unreachable},
        },
    },
    response::SanitizedResponse,
};

/// How often a copy queries the state of an event that another process forwards.
const POLL: Duration = Duration::from_millis(50);

/// What a request may do.
#[derive(Debug)]
pub enum Claimed {
    /// Forward the event.
    Won(Claim),
    /// Wait for the outcome of the copy that forwards it.
    InFlight(Joined),
    /// Nothing: the event is done.
    Done(Repeat),
}

/// What the claim map decides about a request.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "the large variant is the usual one")]
pub enum LocalDecision {
    /// What the request may do.
    Decided(Claimed),
    /// The event is free in this process, and the shared store decides.
    Pending(PendingClaim),
}

/// How a request repeats a done event.
#[derive(Debug)]
pub enum Repeat {
    /// Another request for it, or one that did not get its response. It is acknowledged; the
    /// receipt records that the acknowledgement was written out.
    Retry(Receipt),
    /// The same request again, after its 2xx was written out.
    Replay,
}

/// A copy of an event in flight.
#[derive(Debug)]
pub struct Joined {
    source: OutcomeSource,
    receipt: Receipt,
}

#[derive(Debug)]
enum OutcomeSource {
    /// A request of this process forwards the event.
    ThisProcess(watch::Receiver<ClaimState>),
    /// A request of another process does; the sender waits for a response until the deadline.
    SharedStore(Arc<Guard>, Arrival, Instant),
}

/// The result of waiting for a copy.
#[derive(Debug)]
pub enum Ended {
    /// The outcome of the copy.
    Settled(Settled),
    /// The copy was given back or its process died; this is the result of claiming the event again.
    Released(Claimed),
}

/// The outcome of the copy that was forwarded.
#[derive(Debug)]
pub struct Settled {
    /// The upstream's response, or the reason why there is none. Of a response that another process
    /// got, only the status is known.
    pub outcome: Result<SanitizedResponse, Reject>,
    /// With a 2xx: records that it was written out.
    pub receipt: Option<Receipt>,
}

/// Decides what a request may do.
pub(crate) async fn admit(
    guard: &Arc<Guard>,
    arrival: Arrival,
    answer_by: Instant,
) -> Result<Claimed, Reject> {
    match admit_here(guard, arrival, answer_by).await? {
        LocalDecision::Decided(claimed) => Ok(claimed),
        LocalDecision::Pending(pending) => pending.claim().await,
    }
}

/// Decides what a request may do as far as this process can.
pub(crate) async fn admit_here(
    guard: &Arc<Guard>,
    arrival: Arrival,
    answer_by: Instant,
) -> Result<LocalDecision, Reject> {
    let shared = matches!(guard.store, Store::Shared(_));
    loop {
        match guard.claims.claim(&arrival, shared, guard.clock.now())? {
            Found::Done { answered } => {
                if let Some(repeat) = repeat(guard, &arrival, answered, answer_by).await {
                    return Ok(LocalDecision::Decided(Claimed::Done(repeat)));
                }
            }
            Found::InFlight(claim) => {
                let receipt = Receipt::new(guard, &arrival);
                let source = OutcomeSource::ThisProcess(claim);
                return Ok(LocalDecision::Decided(Claimed::InFlight(Joined { source, receipt })));
            }
            Found::Requested(claim) => requested(claim, answer_by).await?,
            Found::Free { ticket, unknown, known, mismatch } => {
                let held = HeldClaim::new(guard, arrival, ticket, unknown, answer_by);
                let held = Box::new(held);
                let claim = match &guard.store {
                    Store::Memory => Claim::held(held),
                    Store::Disk(disk) => note_claim(guard, disk, held)?,
                    Store::Shared(_) => {
                        return Ok(LocalDecision::Pending(PendingClaim::new(
                            held, known, mismatch,
                        )));
                    }
                };
                return Ok(LocalDecision::Decided(Claimed::Won(claim)));
            }
        }
    }
}

/// Writes the claim to the disk without waiting; rejects a new event while it cannot be recorded.
fn note_claim(guard: &Guard, disk: &Disk, mut held: Box<HeldClaim>) -> Result<Claim, Reject> {
    if !disk.is_up() && guard.on_store_failure == OnStoreFailure::Refuse {
        held.withdraw(Some(Reject::StoreUnavailable));
        return Err(Reject::StoreUnavailable);
    }
    let arrival = &held.arrival;
    let record = Record::new(State::Failed { unknown: true }, arrival, guard.clock.now());
    let entry = Entry { stage: Stage::Claimed, ..Entry::of(&record, arrival.terms) };
    disk.put(arrival.key, entry, OnWritten::Nothing);
    Ok(Claim::held(held))
}

impl PendingClaim {
    /// Claims the event in the shared store.
    ///
    /// # Errors
    /// The store rejects the request, or is unavailable.
    pub async fn claim(self) -> Result<Claimed, Reject> {
        let guard = Arc::clone(&self.held.guard);
        let reply = match &guard.store {
            Store::Shared(store) => {
                let until = self.held.answer_by.min(Instant::now() + STORE_TIMEOUT);
                let claim = store.claim(&self.held.arrival, self.token, until);
                guard.timed(|durations| &durations.claim, claim).await
            }
            Store::Memory | Store::Disk(_) => Err(Unreachable),
        };
        match reply {
            Ok(reply) => self.decided(reply),
            Err(Unreachable) => self.undecided(),
        }
    }

    /// Returns what the request may do after the store's decision.
    ///
    /// # Errors
    /// The store rejects the request.
    pub(crate) fn decided(self, reply: ClaimReply) -> Result<Claimed, Reject> {
        let PendingClaim { mut held, token, since, .. } = self;
        let (guard, arrival) = (Arc::clone(&held.guard), held.arrival);
        match reply {
            ClaimReply::Won { unknown } => {
                held.unknown |= unknown;
                guard.claims.confirm(&arrival.key, held.ticket(), token, since);
                Ok(Claimed::Won(Claim::held(held)))
            }
            ClaimReply::Busy => {
                held.lease = None;
                held.withdraw(None);
                let receipt = Receipt::new(&guard, &arrival);
                let source = OutcomeSource::SharedStore(guard, arrival, held.answer_by);
                Ok(Claimed::InFlight(Joined { source, receipt }))
            }
            ClaimReply::Done(DoneEvent { status, answered, lasts }) => {
                held.lease = None;
                let replay = arrival.identity.is_some_and(|id| answered.contains(&id));
                if !replay && arrival.terms.forwards_repeats {
                    held.unknown = true;
                    guard.claims.confirm_without_lease(&arrival.key, held.ticket());
                    return Ok(Claimed::Won(Claim::held(held)));
                }
                let status_only = StatusCode::from_u16(status)
                    .map(SanitizedResponse::empty)
                    .map_err(|_| Reject::InFlight);
                held.end(ClaimEnd::Done { status, behind: false, answered, lasts }, || status_only);
                Ok(Claimed::Done(if replay {
                    Repeat::Replay
                } else {
                    Repeat::Retry(Receipt::new(&guard, &arrival))
                }))
            }
            ClaimReply::Rejected(reason) => {
                held.lease = None;
                held.withdraw(None);
                Err(reason.into())
            }
        }
    }

    /// Returns what the request may do although the store did not decide.
    fn undecided(self) -> Result<Claimed, Reject> {
        let PendingClaim { mut held, token, since, known, mismatch } = self;
        let (guard, arrival) = (Arc::clone(&held.guard), held.arrival);
        // This process would reject a stale request without a record as not authentic, but the
        // store may well have its record.
        let stale_unknown = arrival.stale && !known;
        if guard.on_store_failure == OnStoreFailure::Refuse || stale_unknown {
            held.withdraw(Some(Reject::StoreUnavailable));
            return Err(Reject::StoreUnavailable);
        }
        if mismatch {
            held.withdraw(None);
            return Err(Reason::ContextMismatch.into());
        }
        guard.claims.confirm(&arrival.key, held.ticket(), token, since);
        Ok(Claimed::Won(Claim::held(held)))
    }
}

/// Returns how a request repeats a done event: another process may know more than this one. Returns
/// `None` if the event was forgotten there; it is then forgotten here too.
async fn repeat(
    guard: &Arc<Guard>,
    arrival: &Arrival,
    mut answered: bool,
    answer_by: Instant,
) -> Option<Repeat> {
    if let Store::Shared(store) = &guard.store {
        let until = answer_by.min(Instant::now() + STORE_TIMEOUT);
        match store.status(arrival, until).await {
            Ok(EventStatus::Forgotten) => {
                guard.claims.forget(&arrival.key);
                return None;
            }
            Ok(EventStatus::Done(done)) => {
                if let Some(identity) = arrival.identity
                    && done.answered.contains(&identity)
                {
                    guard.claims.mark_answered(&arrival.key, identity);
                    answered = true;
                }
            }
            Ok(
                EventStatus::Open
                | EventStatus::InFlight
                | EventStatus::Failed(_)
                | EventStatus::Mismatch,
            )
            | Err(Unreachable) => {}
        }
    }
    Some(if answered { Repeat::Replay } else { Repeat::Retry(Receipt::new(guard, arrival)) })
}

/// Waits until the shared store has replied to another copy's claim; then this one is decided
/// again.
async fn requested(
    mut claim: watch::Receiver<ClaimState>,
    answer_by: Instant,
) -> Result<(), Reject> {
    let replied = claim.wait_for(|state| !matches!(state, ClaimState::Requested));
    match tokio::time::timeout_at(answer_by, replied).await {
        Ok(Ok(state)) => match &*state {
            ClaimState::Withdrawn(Some(reason)) => Err(reason.clone()),
            ClaimState::Withdrawn(None)
            | ClaimState::Requested
            | ClaimState::Held
            | ClaimState::Settled(_) => Ok(()),
        },
        // An error means that the claim is gone.
        Ok(Err(_)) => Ok(()),
        Err(_) => Err(Reject::InFlight),
    }
}

impl Joined {
    /// Waits for the outcome without a timeout. If the copy was forwarded by another process and
    /// ended without an outcome, the event is claimed again.
    ///
    /// # Errors
    /// Those of [`Replay::claim`](super::Replay::claim), where the event is claimed again.
    pub async fn outcome(self) -> Result<Ended, Reject> {
        let outcome = match self.source {
            OutcomeSource::ThisProcess(claim) => local_outcome(claim).await,
            OutcomeSource::SharedStore(guard, arrival, answer_by) => match &guard.store {
                Store::Shared(store) => match shared_outcome(&guard, store, &arrival).await {
                    Some(outcome) => outcome,
                    None => {
                        let claimed = Box::pin(admit(&guard, arrival, answer_by)).await;
                        return claimed.map(Ended::Released);
                    }
                },
                Store::Memory | Store::Disk(_) => Err(Reject::InFlight),
            },
        };
        let success = outcome.as_ref().is_ok_and(|response| response.status.is_success());
        Ok(Ended::Settled(Settled { outcome, receipt: success.then_some(self.receipt) }))
    }
}

async fn local_outcome(
    mut claim: watch::Receiver<ClaimState>,
) -> Result<SanitizedResponse, Reject> {
    loop {
        match &*claim.borrow_and_update() {
            ClaimState::Settled(outcome) => return Result::clone(outcome),
            ClaimState::Withdrawn(reason) => {
                return Err(reason.clone().unwrap_or(Reject::InFlight));
            }
            ClaimState::Requested | ClaimState::Held => {}
        }
        if claim.changed().await.is_err() {
            return Err(Reject::InFlight);
        }
    }
}

/// Waits for the outcome that another process records; returns `None` if there will be none.
async fn shared_outcome(
    guard: &Guard,
    store: &SharedStore,
    arrival: &Arrival,
) -> Option<Result<SanitizedResponse, Reject>> {
    loop {
        let status = match store.status(arrival, Instant::now() + STORE_TIMEOUT).await {
            Ok(EventStatus::Done(done)) => done.status,
            Ok(EventStatus::Failed(status)) => status,
            Ok(EventStatus::Mismatch) => return Some(Err(Reason::ContextMismatch.into())),
            Ok(EventStatus::Open | EventStatus::Forgotten) => return None,
            Ok(EventStatus::InFlight) => {
                guard.clock.sleep(POLL).await;
                continue;
            }
            Err(Unreachable) => return Some(Err(Reject::StoreUnavailable)),
        };
        let response = StatusCode::from_u16(status).map(SanitizedResponse::empty);
        return Some(response.map_err(|_| Reject::StoreUnavailable));
    }
}
