//! How an entry changes, the same for all stores.

use std::sync::Arc;

use super::model::{DeliveryAttempt, EventEntry, EventState, MAX_LOG, NextStep};
use crate::replay::Millis;

impl DeliveryAttempt {
    /// Returns when the attempt ended.
    pub(crate) fn ended(&self) -> Millis {
        self.at.saturating_add(self.duration_ms.into())
    }
}

impl EventEntry {
    /// Returns whether another request for the event, with this entry, replaces the stored request:
    /// the handler has not accepted the event, or is to receive it again.
    pub(crate) fn takes_request_of(&self, new: &EventEntry) -> bool {
        match self.state {
            EventState::Failed => true,
            EventState::Delivered => new.possible_duplicate,
            _ => false,
        }
    }

    /// Takes another request for the event.
    pub(crate) fn accept_again(&mut self, new: &EventEntry) {
        self.key = Arc::clone(&new.key);
        self.secret = new.secret;
        self.pin = new.pin;
        self.order = new.order;
        self.bytes = new.bytes;
        self.state = new.state;
        self.next_attempt = new.next_attempt;
        self.expires = new.expires;
        self.possible_duplicate |= new.possible_duplicate;
        self.redelivery = false;
        self.attempts = self.attempts.saturating_add(new.attempts);
        self.add_attempts(&new.log);
    }

    /// Undoes the beginning of an attempt that cannot begin yet, or that its caller never began.
    pub(crate) fn release(&mut self) {
        self.state = EventState::Pending;
        self.attempts = self.attempts.saturating_sub(1);
        self.next_attempt = Some(self.received);
    }

    /// Ends an attempt whose outcome is unknown because the process ended.
    pub(crate) fn interrupt(&mut self) {
        self.state = EventState::Pending;
        self.next_attempt = Some(self.received);
        self.possible_duplicate = true;
    }

    /// Makes a dead event pending again.
    pub(crate) fn revive(&mut self, next_attempt: Millis, expires: Millis) {
        self.state = EventState::Pending;
        self.next_attempt = Some(next_attempt);
        self.expires = expires;
        self.redelivery = false;
    }

    /// Begins an attempt.
    pub(crate) fn begin(&mut self) {
        self.state = EventState::Delivering;
        self.next_attempt = None;
        self.attempts = self.attempts.saturating_add(1);
    }

    /// Ends an attempt. `again` means that an operator asked for another one.
    pub(crate) fn settle(&mut self, attempt: &DeliveryAttempt, next: NextStep, again: bool) {
        self.add_attempts(std::slice::from_ref(attempt));
        let unknown = match next {
            NextStep::Delivered => false,
            NextStep::Retry { unknown, .. } | NextStep::Dead { unknown } => {
                self.possible_duplicate || unknown
            }
        };
        self.possible_duplicate = unknown;
        (self.state, self.next_attempt) = match next {
            _ if again => (EventState::Pending, Some(attempt.ended())),
            NextStep::Delivered => (EventState::Delivered, None),
            NextStep::Retry { at, .. } => (EventState::Pending, Some(at)),
            NextStep::Dead { .. } => (EventState::Dead, None),
        };
        self.redelivery &= self.state == EventState::Pending;
        if self.state == EventState::Dead {
            self.mark_if_delivered();
        }
    }

    /// Makes a pending event dead whose time is over. It keeps the marks for a later attempt.
    pub(crate) fn give_up(&mut self) {
        self.state = EventState::Dead;
        self.next_attempt = None;
        self.redelivery = false;
        self.mark_if_delivered();
    }

    /// Returns whether the event is pending and its time is over at `now`.
    pub(crate) fn is_overdue(&self, now: Millis) -> bool {
        self.state == EventState::Pending && self.expires <= now
    }

    /// Marks a dead event that was delivered before an operator asked for another attempt.
    fn mark_if_delivered(&mut self) {
        let is_success = |status| (200..300).contains(&status);
        self.possible_duplicate |=
            self.log.iter().any(|attempt| attempt.status.is_some_and(is_success));
    }

    /// Returns whether the newest attempt was this one: its caller repeats a call whose result it
    /// did not get.
    pub(crate) fn has_ended(&self, attempt: &DeliveryAttempt) -> bool {
        self.log.last() == Some(attempt)
    }

    /// Adds what happened to another copy of the event that the handler accepted synchronously.
    pub(crate) fn record_again(&mut self, new: &EventEntry) {
        self.attempts = self.attempts.saturating_add(new.attempts);
        self.add_attempts(&new.log);
        match self.state {
            EventState::Pending | EventState::Delivering | EventState::Dead => {}
            EventState::Delivered | EventState::Refused | EventState::Failed => {
                self.state = new.state;
            }
        }
        self.possible_duplicate = self.state != EventState::Delivered
            && (self.possible_duplicate || new.possible_duplicate);
    }

    /// Returns whether the request can be delivered again. A rejected one is not authentic.
    pub(crate) fn can_be_redelivered(&self) -> bool {
        self.has_request && self.state != EventState::Refused
    }

    /// Begins a redelivery: at `now`, or after the attempt in flight.
    pub(crate) fn redeliver(&mut self, now: Millis, expires: Millis) {
        self.redelivery = true;
        self.expires = expires;
        if self.state != EventState::Delivering {
            self.state = EventState::Pending;
            self.next_attempt = Some(now);
        }
    }

    /// Returns when the last attempt ended; without one, when the event was received.
    pub(crate) fn last_change(&self) -> Millis {
        self.log.last().map_or(self.received, DeliveryAttempt::ended)
    }

    /// Adds attempts to the log; the oldest ones are dropped.
    fn add_attempts(&mut self, attempts: &[DeliveryAttempt]) {
        self.log.extend_from_slice(attempts);
        let excess = self.log.len().saturating_sub(MAX_LOG);
        self.log.drain(..excess);
    }
}
