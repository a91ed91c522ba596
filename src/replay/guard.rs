//! The guard itself: the claim map, and the store behind it where there is one.
//!
//! The order of things: the claim map decides among the copies in this process; then, and only for
//! the one that won there, a shared store decides among the processes. A success is told to the
//! store, then to the claim map, then to those who wait; whoever hears of it can rely on it.

mod write_behind;

use std::{fmt, sync::Arc, time::Duration};

use http::StatusCode;
use tokio::{sync::watch, time::Instant};

use self::write_behind::{Debt, Debts};
use crate::{
    reject::{Reason, Reject},
    replay::{
        Claimed, OnStoreFailure, Repeat,
        claim::{Claim, Holding, Joined, Receipt},
        clock::Clock,
        disk::{
            self, Disk,
            entry::{Entry, Stage},
        },
        flight::{End, Flight, Found},
        local::Local,
        record::{Arrival, Identities, Identity, Record, State, Token},
        shared::{Attempt, Done, Shared, Standing, Unreachable, Verdict},
    },
    response::SanitizedResponse,
};

/// The longest that a request waits for the store to take a record or a claim.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// Where records are kept besides this process' memory.
#[derive(Debug)]
pub(crate) enum Backend {
    None,
    Disk(Disk),
    Shared(Shared),
}

pub(crate) struct Guard {
    pub(crate) local: Arc<Local>,
    pub(crate) backend: Backend,
    pub(crate) clock: Clock,
    on_store_failure: OnStoreFailure,
    /// Different in every process: the first half of its leases' names.
    process: [u8; 8],
    debts: Debts,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guard({} entries)", self.local.used())
    }
}

impl Guard {
    pub(crate) fn new(
        local: Arc<Local>,
        backend: Backend,
        clock: Clock,
        on_store_failure: OnStoreFailure,
        process: [u8; 8],
    ) -> Self {
        Guard { local, backend, clock, on_store_failure, process, debts: Debts::default() }
    }

    /// What the request may do.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        arrival: Arrival,
        answer_by: Instant,
    ) -> Result<Claimed, Reject> {
        let asking = matches!(self.backend, Backend::Shared(_));
        loop {
            match self.local.claim(&arrival, asking, self.clock.now())? {
                Found::Done { answered: true } => return Ok(Claimed::Done(Repeat::Replay)),
                Found::Done { answered: false } => {
                    return Ok(Claimed::Done(self.repeat(&arrival, answer_by).await));
                }
                Found::Taken(flight) => {
                    return Ok(Claimed::InFlight(Joined::here(self, &arrival, flight)));
                }
                Found::Asked(flight) => asked(flight, answer_by).await?,
                Found::Free { ticket, unknown, known, mismatch } => {
                    let holding = Holding::new(self, arrival, ticket, unknown, answer_by);
                    return match &self.backend {
                        Backend::None => Ok(Claimed::Won(Claim::holding(holding))),
                        Backend::Disk(disk) => self.note_claim(disk, holding),
                        Backend::Shared(shared) => self.ask(shared, holding, known, mismatch).await,
                    };
                }
            }
        }
    }

    /// With a disk behind: a new event is refused while it could not be recorded; else the claim is
    /// noted, and nobody waits for that.
    fn note_claim(&self, disk: &Disk, mut holding: Holding) -> Result<Claimed, Reject> {
        if !disk.is_up() && self.on_store_failure == OnStoreFailure::Refuse {
            holding.withdraw(Some(Reject::StoreUnavailable));
            return Err(Reject::StoreUnavailable);
        }
        let arrival = &holding.arrival;
        let record = Record::new(State::Failed { unknown: true }, arrival, self.clock.now());
        let entry = Entry { stage: Stage::Claimed, ..Entry::of(&record, arrival.terms) };
        disk.put(arrival.key, entry, disk::Receipt::Unasked);
        Ok(Claimed::Won(Claim::holding(holding)))
    }

    /// Asks a shared store for the claim that was won in this process.
    async fn ask(
        self: &Arc<Self>,
        shared: &Shared,
        mut holding: Holding,
        known: bool,
        mismatch: bool,
    ) -> Result<Claimed, Reject> {
        let arrival = holding.arrival;
        let token = self.token(holding.ticket());
        // From here on the store may hold a lease of this name, whether or not its answer arrives.
        holding.lease = Some(token);
        let until = holding.answer_by.min(Instant::now() + PATIENCE);
        let verdict = shared.claim(&arrival, token, until).await;
        match verdict {
            Ok(Verdict::Won { unknown }) => {
                holding.unknown |= unknown;
                self.local.confirm(&arrival.key, holding.ticket(), Some(token));
                Ok(Claimed::Won(Claim::holding(holding)))
            }
            Ok(Verdict::Busy) => {
                holding.lease = None;
                holding.withdraw(None);
                Ok(Claimed::InFlight(Joined::elsewhere(self, &arrival, holding.answer_by)))
            }
            Ok(Verdict::Done(Done { status, answered, lasts })) => {
                holding.lease = None;
                let replay = arrival.identity.is_some_and(|id| answered.contains(&id));
                let status_only = StatusCode::from_u16(status)
                    .map(SanitizedResponse::empty)
                    .map_err(|_| Reject::InFlight);
                let end = End::Done { status, behind: false, answered, lasts };
                holding.end(end, || status_only);
                Ok(Claimed::Done(if replay {
                    Repeat::Replay
                } else {
                    Repeat::Retry(Receipt::new(self, &arrival))
                }))
            }
            Ok(Verdict::Refused(reason)) => {
                holding.lease = None;
                holding.withdraw(None);
                Err(reason.into())
            }
            Err(Unreachable) => {
                // By what this process knows, a stale request of an event that it has no record of
                // would be refused as not authentic; but there may well be a record.
                let blind = arrival.stale && !known;
                if self.on_store_failure == OnStoreFailure::Refuse || blind {
                    holding.withdraw(Some(Reject::StoreUnavailable));
                    return Err(Reject::StoreUnavailable);
                }
                if mismatch {
                    holding.withdraw(None);
                    return Err(Reason::ContextMismatch.into());
                }
                self.local.confirm(&arrival.key, holding.ticket(), Some(token));
                Ok(Claimed::Won(Claim::holding(holding)))
            }
        }
    }

    /// Which repetition it is, where this process does not know it as a replay: another process may.
    async fn repeat(self: &Arc<Self>, arrival: &Arrival, answer_by: Instant) -> Repeat {
        if let (Backend::Shared(shared), Some(identity)) = (&self.backend, arrival.identity) {
            let until = answer_by.min(Instant::now() + PATIENCE);
            if let Ok(Standing::Done(done)) = shared.look(arrival, until).await
                && done.answered.contains(&identity)
            {
                self.local.answered(&arrival.key, identity);
                return Repeat::Replay;
            }
        }
        Repeat::Retry(Receipt::new(self, arrival))
    }

    fn token(&self, ticket: u64) -> Token {
        let mut token = [0; 16];
        token[..8].copy_from_slice(&self.process);
        token[8..].copy_from_slice(&ticket.to_le_bytes());
        token
    }

    /// Records a success in the store behind. `false` if it is to be written behind.
    pub(crate) async fn record_done(&self, holding: &Holding, status: u16) -> bool {
        let arrival = &holding.arrival;
        let until = within(holding.answer_by);
        match &self.backend {
            Backend::None => true,
            Backend::Disk(disk) => {
                let entry = self.done_entry(arrival, status);
                let put = disk.put_durably(arrival.key, entry);
                tokio::time::timeout_at(until, put).await.unwrap_or(false)
            }
            Backend::Shared(shared) => match holding.lease {
                Some(token) => shared.done(arrival, token, status, None, until).await.is_ok(),
                None => false,
            },
        }
    }

    fn done_entry(&self, arrival: &Arrival, status: u16) -> Entry {
        let state = State::Done { status };
        Entry::of(&Record::new(state, arrival, self.clock.now()), arrival.terms)
    }

    /// Records in the store behind, later, how the claim ended: with a success, if the record here
    /// says so by then, else with `attempt`.
    pub(crate) fn record_behind(&self, holding: &Holding, attempt: Attempt, status: u16) {
        let arrival = holding.arrival;
        match &self.backend {
            Backend::None => {}
            Backend::Disk(disk) => {
                if let Some(record) = self.local.record(&arrival.key) {
                    let receipt = match record.state {
                        State::Done { .. } => disk::Receipt::Behind,
                        State::Failed { .. } => disk::Receipt::Unasked,
                    };
                    disk.put(arrival.key, Entry::of(&record, arrival.terms), receipt);
                }
            }
            Backend::Shared(_) => {
                if let Some(token) = holding.lease {
                    let tokens = vec![token];
                    let answered = Identities::default();
                    self.owe(Debt { arrival, tokens, attempt, status, answered });
                }
            }
        }
    }

    /// Tells a shared store of a failure. `true` if it keeps pin and mark from now on.
    pub(crate) async fn record_failed(
        &self,
        holding: &Holding,
        unknown: bool,
        status: u16,
    ) -> bool {
        let (Backend::Shared(shared), Some(token)) = (&self.backend, holding.lease) else {
            return false;
        };
        let until = within(holding.answer_by);
        let attempt = Attempt::failed(unknown);
        shared.failed(&holding.arrival, token, attempt, status, until).await.is_ok()
    }

    /// The 2xx was written out for a request.
    pub(crate) fn written(&self, arrival: &Arrival, identity: Identity) {
        let news = self.local.answered(&arrival.key, identity);
        match (&self.backend, news) {
            (Backend::None, _) | (Backend::Disk(_), None) => {}
            (Backend::Disk(disk), Some(record)) => {
                let entry = Entry::of(&record, arrival.terms);
                disk.put(arrival.key, entry, disk::Receipt::Unasked);
            }
            // The record need not be here: another process may have forwarded the event.
            (Backend::Shared(_), _) => {
                let mut answered = Identities::default();
                answered.insert(identity);
                self.owe(Debt {
                    arrival: *arrival,
                    tokens: Vec::new(),
                    attempt: Attempt::None,
                    status: 200,
                    answered,
                });
            }
        }
    }

    /// Prolongs the leases of all claims of this process.
    pub(crate) async fn renew(&self) -> Result<(), Unreachable> {
        let Backend::Shared(shared) = &self.backend else { return Ok(()) };
        for (key, token) in self.local.leases() {
            shared.renew(&key, token, Instant::now() + PATIENCE).await?;
        }
        Ok(())
    }
}

/// How long the store has for taking an outcome, so that the sender's answer is not late. A late
/// outcome has nobody waiting for it.
fn within(answer_by: Instant) -> Instant {
    let now = Instant::now();
    let patient = now + PATIENCE;
    if answer_by > now { answer_by.min(patient) } else { patient }
}

/// Waits while another copy asks the store for the event; then this one is to look again.
async fn asked(mut flight: watch::Receiver<Flight>, answer_by: Instant) -> Result<(), Reject> {
    let told = flight.wait_for(|flight| !matches!(flight, Flight::Asking));
    match tokio::time::timeout_at(answer_by, told).await {
        Ok(Ok(flight)) => match &*flight {
            Flight::Withdrawn(Some(why)) => Err(why.clone()),
            Flight::Withdrawn(None) | Flight::Asking | Flight::Held | Flight::Settled(_) => Ok(()),
        },
        // An error means that the claim is gone.
        Ok(Err(_)) => Ok(()),
        Err(_) => Err(Reject::InFlight),
    }
}
