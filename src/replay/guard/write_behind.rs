//! What a shared store is still to be told, because it did not answer or because nobody waits for it.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{sync::Notify, time::Instant};

use super::{Backend, Guard, PATIENCE};
use crate::replay::{
    record::{Arrival, Identities, Key, State, Token},
    shared::{Attempt, Shared, Unreachable},
    sync::lock,
};

/// The newest debt of each event.
#[derive(Debug, Default)]
pub(super) struct Debts {
    owed: Mutex<BTreeMap<Key, Debt>>,
    /// How many are being paid at this moment.
    paying: AtomicUsize,
    owing: Notify,
}

/// What a shared store is still to be told about an event.
#[derive(Clone, Debug)]
pub(super) struct Debt {
    pub(super) arrival: Arrival,
    /// The names of the leases that may be held for it, newest first.
    pub(super) tokens: Vec<Token>,
    pub(super) attempt: Attempt,
    pub(super) status: u16,
    /// Requests whose 2xx was written out, besides those on record here.
    pub(super) answered: Identities,
}

/// So many leases are remembered for an event that is claimed again and again while the store does
/// not answer; the older ones end by themselves.
const MOST_LEASES: usize = 8;
/// The name of no lease.
const NO_LEASE: Token = [0; 16];

impl Guard {
    /// Waits until there is something to pay.
    pub(crate) async fn owing(&self) {
        self.debts.owing.notified().await;
    }

    /// Takes note of what a shared store is to be told, together with what it was owed already.
    pub(super) fn owe(&self, mut debt: Debt) {
        let mut debts = lock(&self.debts.owed);
        if let Some(older) = debts.remove(&debt.arrival.key) {
            if debt.tokens.is_empty() {
                debt.status = older.status;
            }
            debt.attempt = debt.attempt.max(older.attempt);
            debt.tokens.extend(older.tokens);
            debt.tokens.truncate(MOST_LEASES);
            older.answered.iter().for_each(|identity| {
                debt.answered.insert(*identity);
            });
        }
        debts.insert(debt.arrival.key, debt);
        self.debts.owing.notify_one();
    }

    /// Whether a shared store is still to be told something.
    pub(crate) fn owes(&self) -> bool {
        self.debts.paying.load(Ordering::Relaxed) > 0 || !lock(&self.debts.owed).is_empty()
    }

    /// Tells a shared store one thing that it is owed. `None` if nothing is owed.
    pub(crate) async fn pay(&self) -> Option<Result<(), Unreachable>> {
        let Backend::Shared(shared) = &self.backend else { return None };
        let (key, debt) = {
            let mut debts = lock(&self.debts.owed);
            let first = debts.pop_first()?;
            self.debts.paying.fetch_add(1, Ordering::Relaxed);
            first
        };
        let paid = self.pay_debt(shared, &debt).await;
        if paid.is_err() {
            // What was owed since is newer.
            let newer = lock(&self.debts.owed).remove(&key);
            self.owe(debt);
            newer.into_iter().for_each(|newer| self.owe(newer));
        }
        self.debts.paying.fetch_sub(1, Ordering::Relaxed);
        Some(paid)
    }

    async fn pay_debt(&self, shared: &Shared, debt: &Debt) -> Result<(), Unreachable> {
        let until = Instant::now() + PATIENCE;
        let Debt { arrival, tokens, attempt, status, answered } = debt;
        let newest = tokens.first().copied().unwrap_or(NO_LEASE);
        if let Some(record) = self.local.record(&arrival.key)
            && let State::Done { status } = record.state
        {
            let mut known = record.answered;
            answered.iter().for_each(|identity| {
                known.insert(*identity);
            });
            shared.done(arrival, newest, status, Some(&known), until).await?;
            self.local.stored(&arrival.key);
        } else if *answered != Identities::default() {
            // Done in another process.
            shared.done(arrival, newest, *status, Some(answered), until).await?;
        } else {
            // Whoever waits for the outcome of no attempt is to make one.
            let status = if *attempt == Attempt::None { 0 } else { *status };
            for token in tokens {
                shared.failed(arrival, *token, *attempt, status, until).await?;
            }
            self.local.stored(&arrival.key);
        }
        Ok(())
    }
}
