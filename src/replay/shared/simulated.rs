//! A shared store for tests: it answers when it is polled, can be out of reach, and can lose an answer.

use std::{
    collections::HashMap,
    future::poll_fn,
    sync::{Arc, Mutex},
    task::Poll,
};

use crate::{
    reject::Reason,
    replay::{
        clock::{Clock, Millis, millis},
        guard::PATIENCE,
        record::{Arrival, Identities, Key, Pin, Token},
        shared::{Attempt, Done, LEASE, Standing, Unreachable, Verdict},
    },
};

/// One process' way to the store.
#[derive(Clone, Debug)]
pub(crate) struct Simulated {
    pub(crate) server: Arc<Mutex<Server>>,
    pub(crate) clock: Clock,
}

/// The store itself.
#[derive(Debug, Default)]
pub(crate) struct Server {
    events: HashMap<Key, Event>,
    /// Nothing arrives.
    pub(crate) down: bool,
    /// The next request arrives, its answer does not.
    pub(crate) lose_answer: bool,
    /// How many answers nobody got.
    pub(crate) failures: u64,
}

#[derive(Debug)]
struct Event {
    pin: Pin,
    unknown: bool,
    expires: Millis,
    status: u16,
    lease: Option<(Token, Millis)>,
    /// The record is no older than the lease.
    new: bool,
    done: Option<Identities>,
}

impl Server {
    fn event(&mut self, key: &Key, now: Millis) -> Option<&mut Event> {
        self.events.retain(|_, event| event.expires > now);
        self.events.get_mut(key)
    }

    /// Whether the event is on record as done.
    pub(crate) fn is_done(&mut self, key: &Key, now: Millis) -> bool {
        self.event(key, now).is_some_and(|event| event.done.is_some())
    }
}

impl Simulated {
    async fn ask<T>(&self, ask: impl FnOnce(&mut Server, Millis) -> T) -> Result<T, Unreachable> {
        let start = self.clock.now();
        pause().await;
        let answer = {
            let mut server = self.server.lock().unwrap();
            let answer = (!server.down).then(|| ask(&mut server, self.clock.now()));
            let lost = std::mem::take(&mut server.lose_answer);
            let answer = answer.filter(|_| !lost);
            server.failures += u64::from(answer.is_none());
            answer.ok_or(Unreachable)
        };
        pause().await;
        // An answer that comes too late is none.
        if answer.is_ok() && self.clock.now() > start + millis(PATIENCE) {
            self.server.lock().unwrap().failures += 1;
            return Err(Unreachable);
        }
        answer
    }

    pub(crate) async fn claim(
        &self,
        arrival: &Arrival,
        token: Token,
    ) -> Result<Verdict, Unreachable> {
        self.ask(|server, now| {
            let expires = now + millis(arrival.terms.ttl);
            let Some(event) = server.event(&arrival.key, now) else {
                if arrival.stale {
                    return Verdict::Refused(Reason::Stale);
                }
                let lease = Some((token, now + LEASE));
                let pin = arrival.pin;
                let event =
                    Event { pin, unknown: false, expires, status: 0, lease, new: true, done: None };
                server.events.insert(arrival.key, event);
                return Verdict::Won { unknown: false };
            };
            if event.pin != arrival.pin {
                return Verdict::Refused(Reason::ContextMismatch);
            }
            if let Some(answered) = &event.done {
                let answered = answered.clone();
                let lasts = event.expires - now;
                return Verdict::Done(Done { status: event.status, answered, lasts });
            }
            match event.lease {
                Some((holder, end)) if holder != token && end > now => return Verdict::Busy,
                Some((holder, _)) if holder != token => event.unknown = true,
                Some(_) | None => {}
            }
            event.new &= event.lease.is_some_and(|(holder, _)| holder == token);
            event.lease = Some((token, now + LEASE));
            event.expires = expires;
            Verdict::Won { unknown: event.unknown }
        })
        .await
    }

    pub(crate) async fn done(
        &self,
        arrival: &Arrival,
        _: Token,
        status: u16,
        answered: Option<&Identities>,
    ) -> Result<(), Unreachable> {
        self.ask(|server, now| {
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
        token: Token,
        attempt: Attempt,
        status: u16,
    ) -> Result<(), Unreachable> {
        self.ask(|server, now| {
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

    pub(crate) async fn renew(&self, key: &Key, token: Token) -> Result<(), Unreachable> {
        self.ask(|server, now| {
            if let Some(event) = server.event(key, now)
                && let Some((holder, end)) = &mut event.lease
                && *holder == token
            {
                *end = now + LEASE;
            }
        })
        .await
    }

    pub(crate) async fn look(&self, arrival: &Arrival) -> Result<Standing, Unreachable> {
        self.ask(|server, now| match server.event(&arrival.key, now) {
            None => Standing::Open,
            Some(event) if event.pin != arrival.pin => Standing::Mismatch,
            Some(event) => match (&event.done, event.lease) {
                (Some(answered), _) => Standing::Done(Done {
                    status: event.status,
                    answered: answered.clone(),
                    lasts: event.expires - now,
                }),
                (None, None) if event.status == 0 => Standing::Open,
                (None, None) => Standing::Failed(event.status),
                (None, Some((_, end))) if end > now => Standing::InFlight,
                (None, Some(_)) => Standing::Open,
            },
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
