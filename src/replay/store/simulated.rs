//! A shared store for tests. It replies when it is polled, can be unreachable or hang, and can lose
//! a reply.

use std::{
    collections::{HashMap, HashSet},
    future::poll_fn,
    sync::{Arc, Mutex},
    task::Poll,
};

use crate::{
    reject::Reason,
    replay::{
        clock::{Clock, Millis, millis},
        record::{Arrival, ContextPin, EventKey, Identities, LeaseToken},
        store::lease::{
            Attempt, ClaimReply, DoneEvent, EventStatus, ForgetReply, LEASE, Lease, Renewal,
            STORE_TIMEOUT, Unreachable,
        },
    },
};

/// How often a request that hangs is polled before it times out.
const HANG: usize = 5;

/// The connection of one process to the store.
#[derive(Clone, Debug)]
pub(crate) struct Simulated {
    pub(crate) server: Arc<Mutex<SimulatedServer>>,
    pub(crate) clock: Clock,
}

/// The store itself.
#[derive(Debug, Default)]
pub(crate) struct SimulatedServer {
    events: HashMap<EventKey, Event>,
    forgotten: HashSet<EventKey>,
    /// Nothing arrives.
    pub(crate) down: bool,
    /// Requests time out, or arrive late if this ends before.
    pub(crate) hangs: bool,
    /// The next request arrives, its reply does not.
    pub(crate) lose_reply: bool,
    /// The number of replies that did not arrive.
    pub(crate) failures: u64,
}

#[derive(Debug)]
struct Event {
    pin: ContextPin,
    unknown: bool,
    expires: Millis,
    status: u16,
    lease: Option<(LeaseToken, Millis)>,
    /// The record is no older than the lease.
    new: bool,
    done: Option<Identities>,
}

impl SimulatedServer {
    fn event(&mut self, key: &EventKey, now: Millis) -> Option<&mut Event> {
        self.events.retain(|_, event| event.expires > now);
        self.events.get_mut(key)
    }

    /// Returns whether the event is on record as done.
    pub(crate) fn is_done(&mut self, key: &EventKey, now: Millis) -> bool {
        self.event(key, now).is_some_and(|event| event.done.is_some())
    }
}

impl Simulated {
    async fn ask<T>(
        &self,
        ask: impl FnOnce(&mut SimulatedServer, Millis) -> T,
    ) -> Result<T, Unreachable> {
        let start = self.clock.now();
        pause().await;
        for _ in 0..HANG {
            if self.server.lock().unwrap().hangs {
                pause().await;
            }
        }
        let reply = {
            let mut server = self.server.lock().unwrap();
            let reply = (!server.down && !server.hangs).then(|| ask(&mut server, self.clock.now()));
            let lost = std::mem::take(&mut server.lose_reply);
            let reply = reply.filter(|_| !lost);
            server.failures += u64::from(reply.is_none());
            reply.ok_or(Unreachable)
        };
        pause().await;
        // A reply that comes too late does not count.
        if reply.is_ok() && self.clock.now() > start + millis(STORE_TIMEOUT) {
            self.server.lock().unwrap().failures += 1;
            return Err(Unreachable);
        }
        reply
    }

    pub(crate) async fn claim(
        &self,
        arrival: &Arrival,
        token: LeaseToken,
    ) -> Result<ClaimReply, Unreachable> {
        self.ask(|server, now| {
            let expires = now + millis(arrival.terms.ttl);
            let Some(event) = server.event(&arrival.key, now) else {
                if arrival.stale {
                    return ClaimReply::Rejected(Reason::Stale);
                }
                server.forgotten.remove(&arrival.key);
                let lease = Some((token, now + LEASE));
                let pin = arrival.pin;
                let event =
                    Event { pin, unknown: false, expires, status: 0, lease, new: true, done: None };
                server.events.insert(arrival.key, event);
                return ClaimReply::Won { unknown: false };
            };
            if event.pin != arrival.pin {
                return ClaimReply::Rejected(Reason::ContextMismatch);
            }
            if let Some(answered) = &event.done {
                let answered = answered.clone();
                let lasts = event.expires - now;
                return ClaimReply::Done(DoneEvent { status: event.status, answered, lasts });
            }
            match event.lease {
                Some((holder, end)) if holder != token && end > now => return ClaimReply::Busy,
                Some((holder, _)) if holder != token => event.unknown = true,
                Some(_) | None => {}
            }
            event.new &= event.lease.is_some_and(|(holder, _)| holder == token);
            event.lease = Some((token, now + LEASE));
            event.expires = expires;
            ClaimReply::Won { unknown: event.unknown }
        })
        .await
    }

    pub(crate) async fn done(
        &self,
        arrival: &Arrival,
        _: LeaseToken,
        status: u16,
        answered: Option<&Identities>,
    ) -> Result<(), Unreachable> {
        self.ask(|server, now| {
            if server.forgotten.contains(&arrival.key) {
                return;
            }
            if server.event(&arrival.key, now).is_none_or(|event| event.done.is_none()) {
                let event = Event {
                    pin: arrival.pin,
                    unknown: false,
                    expires: now + millis(arrival.terms.ttl),
                    status,
                    lease: None,
                    new: false,
                    done: Some(Identities::default()),
                };
                server.events.insert(arrival.key, event);
            }
            let done = server.event(&arrival.key, now).and_then(|event| event.done.as_mut());
            if let Some(known) = done {
                for identity in answered.into_iter().flat_map(Identities::iter) {
                    known.insert(*identity);
                }
            }
        })
        .await
    }

    pub(crate) async fn failed(
        &self,
        arrival: &Arrival,
        token: LeaseToken,
        attempt: Attempt,
        status: u16,
    ) -> Result<(), Unreachable> {
        self.ask(|server, now| {
            if server.forgotten.contains(&arrival.key) {
                return;
            }
            let expires = now + millis(arrival.terms.ttl);
            let unknown = attempt == Attempt::Unknown;
            match server.event(&arrival.key, now) {
                Some(event) => {
                    let held = event.lease.is_some_and(|(holder, _)| holder == token);
                    if held && event.new && attempt == Attempt::None {
                        server.events.remove(&arrival.key);
                        return;
                    }
                    event.unknown |= unknown;
                    event.new &= !held;
                    if event.lease.is_some_and(|(holder, _)| holder == token) {
                        (event.lease, event.status, event.expires) = (None, status, expires);
                    }
                }
                None if attempt == Attempt::None => {}
                None => {
                    let pin = arrival.pin;
                    let event = Event {
                        pin,
                        unknown,
                        expires,
                        status,
                        lease: None,
                        new: false,
                        done: None,
                    };
                    server.events.insert(arrival.key, event);
                }
            }
        })
        .await
    }

    pub(crate) async fn renew(&self, leases: &[Lease]) -> Vec<Renewal> {
        let mut renewals = Vec::new();
        for Lease { key, token } in leases {
            let renewal = self.ask(|server, now| match server.event(key, now) {
                Some(Event { lease: Some((holder, end)), .. }) if holder == token => {
                    *end = now + LEASE;
                    Renewal::Renewed
                }
                Some(_) | None => Renewal::Lost,
            });
            renewals.push(renewal.await.unwrap_or(Renewal::Unreachable));
        }
        renewals
    }

    pub(crate) async fn status(&self, arrival: &Arrival) -> Result<EventStatus, Unreachable> {
        self.ask(|server, now| {
            let forgotten = server.forgotten.contains(&arrival.key);
            match server.event(&arrival.key, now) {
                None if forgotten => EventStatus::Forgotten,
                None => EventStatus::Open,
                Some(event) if event.pin != arrival.pin => EventStatus::Mismatch,
                Some(event) => match (&event.done, event.lease) {
                    (Some(answered), _) => EventStatus::Done(DoneEvent {
                        status: event.status,
                        answered: answered.clone(),
                        lasts: event.expires - now,
                    }),
                    (None, None) if event.status == 0 => EventStatus::Open,
                    (None, None) => EventStatus::Failed(event.status),
                    (None, Some((_, end))) if end > now => EventStatus::InFlight,
                    (None, Some(_)) => EventStatus::Open,
                },
            }
        })
        .await
    }

    pub(crate) async fn forget(&self, key: &EventKey) -> Result<ForgetReply, Unreachable> {
        self.ask(|server, now| {
            let lease = server.event(key, now).and_then(|event| event.lease);
            if lease.is_some_and(|(_, end)| end > now) {
                return ForgetReply::Busy;
            }
            server.events.remove(key);
            server.forgotten.insert(*key);
            ForgetReply::Forgotten
        })
        .await
    }
}

/// Lets others come between.
async fn pause() {
    let mut paused = false;
    poll_fn(|context| {
        if paused {
            return Poll::Ready(());
        }
        paused = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
