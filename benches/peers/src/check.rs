//! Checks what each peer can do, before it is measured.

use std::time::{Duration, Instant};

use crate::{
    engine::{Engine, Turn},
    events::{Batch, Events},
    load::{answers, exchange},
    peer::{Kind, Peer},
};

/// Check that every peer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trial {
    Good,
    Forged,
    Tampered,
    Stale,
    Repeated,
    RetryAfterFailure,
    Simultaneous,
    Body64,
    Body200,
}

impl Trial {
    pub(crate) const ALL: [Trial; 9] = [
        Trial::Good,
        Trial::Forged,
        Trial::Tampered,
        Trial::Stale,
        Trial::Repeated,
        Trial::RetryAfterFailure,
        Trial::Simultaneous,
        Trial::Body64,
        Trial::Body200,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Trial::Good => "forwards an authentic event",
            Trial::Forged => "rejects a signature made with another key",
            Trial::Tampered => "rejects a modified body",
            Trial::Stale => "rejects an event that is six minutes old",
            Trial::Repeated => "forwards an event only once",
            Trial::RetryAfterFailure => "forwards the retry after a 500",
            Trial::Simultaneous => "forwards one of two concurrent copies",
            Trial::Body64 => "accepts a body of 64 KiB",
            Trial::Body200 => "accepts a body of 200 KiB",
        }
    }

    /// Returns whether a peer must pass this check to be measured as a verifier.
    fn is_needed(self) -> bool {
        matches!(
            self,
            Trial::Good | Trial::Forged | Trial::Tampered | Trial::Stale | Trial::Repeated
        )
    }
}

/// Results of all checks of one peer.
pub(crate) struct Findings {
    pub(crate) kind: Kind,
    pub(crate) can: [bool; Trial::ALL.len()],
}

impl Findings {
    /// Returns whether the peer does the work that is compared.
    pub(crate) fn is_sound(&self) -> bool {
        let holds = |(trial, can): (Trial, bool)| {
            if self.kind.verifies() {
                can || !trial.is_needed()
            } else {
                can || trial != Trial::Good
            }
        };
        Trial::ALL.into_iter().zip(self.can).all(holds)
    }

    pub(crate) fn can(&self, trial: Trial) -> bool {
        self.can[trial as usize]
    }
}

fn signed(size: usize) -> Events {
    Events::sign(Batch { count: 1, size, forged: false, age: 0 })
}

/// Runs all checks. A connection that the peer closes counts as a rejection.
pub(crate) fn check(engine: &mut Engine, kind: Kind, peer: &Peer) -> Findings {
    Findings { kind, can: Trial::ALL.map(|trial| attempt(engine, peer, trial).unwrap_or(false)) }
}

fn attempt(engine: &mut Engine, peer: &Peer, trial: Trial) -> anyhow::Result<bool> {
    let send = |engine: &mut Engine, request: &[u8]| {
        let before = engine.upstream.seen;
        let status = exchange(engine, peer.address, request).unwrap_or(0);
        (status, engine.upstream.seen - before)
    };
    let rejected =
        |(status, forwarded): (u16, usize)| matches!(status, 400..=499) && forwarded == 0;
    Ok(match trial {
        Trial::Good => send(engine, &signed(1024).request(0)) == (200, 1),
        Trial::Forged => {
            let forged = Events::sign(Batch { count: 1, size: 1024, forged: true, age: 0 });
            rejected(send(engine, &forged.request(0)))
        }
        Trial::Tampered => {
            let mut request = signed(1024).request(0);
            let last = request.len() - 10;
            request[last] ^= 1;
            rejected(send(engine, &request))
        }
        Trial::Stale => {
            let stale = Events::sign(Batch { count: 1, size: 1024, forged: false, age: 360 });
            rejected(send(engine, &stale.request(0)))
        }
        Trial::Repeated => {
            let request = signed(1024).request(0);
            let (first, second) = (send(engine, &request), send(engine, &request));
            first == (200, 1) && second.1 == 0
        }
        Trial::RetryAfterFailure => {
            let events = signed(1024);
            engine.upstream.failures = 1;
            let first = send(engine, &events.request(0));
            engine.upstream.failures = 0;
            first == (500, 1) && send(engine, &events.retry(0)) == (200, 1)
        }
        Trial::Simultaneous => simultaneous(engine, peer)?,
        Trial::Body64 => send(engine, &signed(64 << 10).request(0)) == (200, 1),
        Trial::Body200 => send(engine, &signed(200 << 10).request(0)) == (200, 1),
    })
}

fn simultaneous(engine: &mut Engine, peer: &Peer) -> anyhow::Result<bool> {
    let events = signed(1024);
    let before = engine.upstream.seen;
    engine.upstream.holds = true;
    let senders = [engine.connect(peer.address)?, engine.connect(peer.address)?];
    engine.send(senders[0], &events.request(0), Instant::now())?;
    engine.send(senders[1], &events.retry(0), Instant::now())?;
    let mut turn = Turn::default();
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        engine.turn(Duration::from_millis(20), &mut turn)?;
    }
    let forwarded = engine.upstream.seen - before;
    engine.release();
    answers(engine, &senders[turn.answered.len().min(2)..], Duration::from_secs(5))?;
    senders.into_iter().for_each(|sender| engine.end(sender));
    Ok(forwarded == 1)
}
