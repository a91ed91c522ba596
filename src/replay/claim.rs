//! What a request holds on to after it asked: a claim, a place among those who wait, a receipt.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use tokio::{sync::watch, time::Instant};

use crate::{
    reject::{Reason, Reject},
    replay::{
        Claimed,
        clock::millis,
        flight::{End, Flight},
        guard::{Backend, Guard, PATIENCE},
        record::{Arrival, Identities, Identity, Token},
        shared::{Attempt, Shared, Standing, Unreachable},
    },
    response::SanitizedResponse,
};

/// How often a copy asks how the event stands that another process forwards.
const POLL: Duration = Duration::from_millis(50);

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was sent, or the upstream answered in full.
    Known,
    /// Something was sent and no whole answer came: the upstream may have acted.
    Unknown,
}

/// The right to forward an event, held by one request at a time.
///
/// It ends by [`Claim::done`] or [`Claim::failed`]; dropped without either, it is released as an
/// attempt with an unknown outcome, and the copies that joined are asked to come again.
#[derive(Debug)]
#[must_use = "dropping a claim releases it"]
pub struct Claim(Option<Box<Holding>>);

/// A claim that the claim map knows.
#[derive(Debug)]
pub(crate) struct Holding {
    guard: Arc<Guard>,
    pub(crate) arrival: Arrival,
    /// 0 when the claim has ended.
    ticket: u64,
    pub(crate) unknown: bool,
    /// The name under which a shared store holds a lease for it, or may hold one.
    pub(crate) lease: Option<Token>,
    pub(crate) answer_by: Instant,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// A shared store is being asked for it.
    Asking,
    Held,
    /// The upstream answered 2xx.
    Succeeded(SanitizedResponse),
}

impl Holding {
    pub(crate) fn new(
        guard: &Arc<Guard>,
        arrival: Arrival,
        ticket: u64,
        unknown: bool,
        answer_by: Instant,
    ) -> Self {
        Holding {
            guard: Arc::clone(guard),
            arrival,
            ticket,
            unknown,
            lease: None,
            answer_by,
            stage: Stage::Asking,
        }
    }

    pub(crate) fn ticket(&self) -> u64 {
        self.ticket
    }

    /// Gives the claim back as if it had never been; those who wait for the store's answer get `why`, or
    /// look again.
    pub(crate) fn withdraw(&mut self, why: Option<Reject>) {
        self.guard.local.withdraw(&self.arrival, self.ticket, why);
        self.ticket = 0;
        self.guard.record_behind(self, Attempt::None, 503);
    }

    /// Ends the claim here.
    pub(crate) fn end(
        &mut self,
        end: End,
        outcome: impl FnOnce() -> Result<SanitizedResponse, Reject>,
    ) {
        let now = self.guard.clock.now();
        self.guard.local.end(&self.arrival, self.ticket, end, outcome, now);
        self.ticket = 0;
    }

    fn succeed(&mut self, answer: &SanitizedResponse, behind: bool, answered: Option<Identity>) {
        let status = answer.status.as_u16();
        let answered = answered.map(Identities::from).unwrap_or_default();
        let lasts = millis(self.arrival.terms.ttl);
        self.end(End::Done { status, behind, answered, lasts }, || Ok(answer.clone()));
        if behind {
            self.guard.record_behind(self, Attempt::Unknown, status);
        }
    }

    fn fail(
        &mut self,
        unknown: bool,
        status: u16,
        outcome: Result<SanitizedResponse, Reject>,
        told: bool,
    ) {
        let unknown = unknown || self.unknown;
        let behind = !told && matches!(self.guard.backend, Backend::Shared(_));
        self.end(End::Failed { unknown, behind }, || outcome);
        if !told {
            self.guard.record_behind(self, Attempt::failed(unknown), status);
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        if self.ticket == 0 {
            return;
        }
        match std::mem::replace(&mut self.stage, Stage::Held) {
            Stage::Asking => self.withdraw(None),
            Stage::Held => self.fail(true, 503, Err(Reject::InFlight), false),
            Stage::Succeeded(answer) => self.succeed(&answer, true, None),
        }
    }
}

impl Claim {
    /// A claim on nothing: for deliveries that are alike on purpose, and for routes that only observe.
    pub fn unrecorded() -> Self {
        Claim(None)
    }

    pub(crate) fn holding(mut holding: Holding) -> Self {
        holding.stage = Stage::Held;
        Claim(Some(Box::new(holding)))
    }

    /// Whether an earlier attempt may have reached the upstream.
    pub fn possible_duplicate(&self) -> bool {
        self.0.as_ref().is_some_and(|holding| holding.unknown)
    }

    /// The upstream answered 2xx: the event is done, and recorded so when this returns; durably, if
    /// the store is and can be written, else that is made up for later. The copies that joined get the
    /// answer. If the sender `waits`, it has its answer in the same step in which this returns; that is
    /// noted in advance where the record and the step end together, with the process.
    pub async fn done(self, answer: &SanitizedResponse, waits: bool) -> Receipt {
        let Some(mut holding) = self.0 else { return Receipt(None) };
        let behind = match &holding.guard.backend {
            Backend::None if waits => {
                holding.succeed(answer, false, holding.arrival.identity);
                return Receipt(None);
            }
            Backend::None => false,
            Backend::Disk(_) | Backend::Shared(_) => {
                // What the upstream did stays true if this task is cancelled while it waits.
                holding.stage = Stage::Succeeded(answer.clone());
                let guard = Arc::clone(&holding.guard);
                !guard.record_done(&holding, answer.status.as_u16()).await
            }
        };
        holding.succeed(answer, behind, None);
        Receipt::new(&holding.guard, &holding.arrival)
    }

    /// The attempt failed: the next copy may try. The copies that joined get `outcome`, which is
    /// the upstream's answer or what became of it.
    pub async fn failed(self, how: Failure, outcome: Result<SanitizedResponse, Reject>) {
        let Some(mut holding) = self.0 else { return };
        let unknown = how == Failure::Unknown || holding.unknown;
        let status = match &outcome {
            Ok(answer) => answer.status,
            Err(reject) => reject.status(StatusCode::UNAUTHORIZED),
        }
        .as_u16();
        let guard = Arc::clone(&holding.guard);
        let told = guard.record_failed(&holding, unknown, status).await;
        holding.fail(unknown, status, outcome, told);
    }
}

/// A copy of an event in flight.
#[derive(Debug)]
pub struct Joined {
    place: Place,
    receipt: Receipt,
}

#[derive(Debug)]
enum Place {
    /// A request of this process forwards the event.
    Here(watch::Receiver<Flight>),
    /// A request of another process does; until then the sender waits for an answer.
    Elsewhere(Arc<Guard>, Arrival, Instant),
}

/// What came of waiting for a copy.
#[derive(Debug)]
pub enum Ended {
    /// What became of it.
    Settled(Settled),
    /// It was given back, or its process is gone: what a claim of one's own got.
    Released(Claimed),
}

/// What became of the copy that was forwarded.
#[derive(Debug)]
pub struct Settled {
    /// The upstream's answer, or what became of it. Of an answer that another process got, there is
    /// the status only.
    pub outcome: Result<SanitizedResponse, Reject>,
    /// If the outcome is a 2xx: to be told when it is written out.
    pub receipt: Option<Receipt>,
}

impl Joined {
    pub(crate) fn here(
        guard: &Arc<Guard>,
        arrival: &Arrival,
        flight: watch::Receiver<Flight>,
    ) -> Self {
        Joined { place: Place::Here(flight), receipt: Receipt::new(guard, arrival) }
    }

    pub(crate) fn elsewhere(guard: &Arc<Guard>, arrival: &Arrival, answer_by: Instant) -> Self {
        let place = Place::Elsewhere(Arc::clone(guard), *arrival, answer_by);
        Joined { place, receipt: Receipt::new(guard, arrival) }
    }

    /// Waits for the outcome, as long as it takes. A copy elsewhere that ends without one makes the
    /// event free, and it is claimed again.
    ///
    /// # Errors
    /// Those of [`Replay::claim`](super::Replay::claim), where it is claimed again.
    pub async fn outcome(self) -> Result<Ended, Reject> {
        let outcome = match self.place {
            Place::Here(flight) => landed(flight).await,
            Place::Elsewhere(guard, arrival, answer_by) => match &guard.backend {
                Backend::Shared(shared) => match reported(&guard, shared, &arrival).await {
                    Some(outcome) => outcome,
                    None => return guard.admit(arrival, answer_by).await.map(Ended::Released),
                },
                Backend::None | Backend::Disk(_) => Err(Reject::InFlight),
            },
        };
        let success = outcome.as_ref().is_ok_and(|answer| answer.status.is_success());
        Ok(Ended::Settled(Settled { outcome, receipt: success.then_some(self.receipt) }))
    }
}

async fn landed(mut flight: watch::Receiver<Flight>) -> Result<SanitizedResponse, Reject> {
    loop {
        match &*flight.borrow_and_update() {
            Flight::Settled(outcome) => return Result::clone(outcome),
            Flight::Withdrawn(why) => return Err(why.clone().unwrap_or(Reject::InFlight)),
            Flight::Asking | Flight::Held => {}
        }
        if flight.changed().await.is_err() {
            return Err(Reject::InFlight);
        }
    }
}

/// The outcome that another process records; `None` if there will be none.
async fn reported(
    guard: &Guard,
    shared: &Shared,
    arrival: &Arrival,
) -> Option<Result<SanitizedResponse, Reject>> {
    loop {
        let status = match shared.look(arrival, Instant::now() + PATIENCE).await {
            Ok(Standing::Done(done)) => done.status,
            Ok(Standing::Failed(status)) => status,
            Ok(Standing::Mismatch) => return Some(Err(Reason::ContextMismatch.into())),
            Ok(Standing::Open) => return None,
            Ok(Standing::InFlight) => {
                guard.clock.sleep(POLL).await;
                continue;
            }
            Err(Unreachable) => return Some(Err(Reject::StoreUnavailable)),
        };
        let answer = StatusCode::from_u16(status).map(SanitizedResponse::empty);
        return Some(answer.map_err(|_| Reject::StoreUnavailable));
    }
}

/// For telling that a 2xx was written out to the sender: the same request once more is then a replay.
#[derive(Clone, Debug)]
#[must_use = "tell it when the answer was written out"]
pub struct Receipt(Option<(Arc<Guard>, Arrival, Identity)>);

impl Receipt {
    pub(crate) fn new(guard: &Arc<Guard>, arrival: &Arrival) -> Self {
        Receipt(arrival.identity.map(|identity| (Arc::clone(guard), *arrival, identity)))
    }

    /// The 2xx was written out.
    pub fn written(self) {
        if let Some((guard, arrival, identity)) = self.0 {
            guard.written(&arrival, identity);
        }
    }
}
