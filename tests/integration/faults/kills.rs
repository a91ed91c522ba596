//! SIGKILL under load, at chosen moments: no acknowledged event is forwarded again, and no event
//! that the upstream did not accept is acknowledged.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::task::JoinSet;

use crate::kit::{Answer, Entry, Event, Hook, Ledger, Process, Setup, Stage, Upstream, ask};

/// Default number of rounds; `SEALGATE_KILL_ROUNDS` overrides it.
const ROUNDS: usize = 20;
const SENDERS: usize = 12;
/// Number of events that reach the upstream before the kill in each round.
const BEFORE: usize = 24;

/// Moment at which the gateway is killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Moment {
    /// The upstream has received the request and has not responded.
    #[default]
    Claimed,
    /// The upstream has responded, and the stopped gateway cannot have read the response.
    Answered,
    /// The upstream has just responded; the progress of the gateway is unknown.
    SoonAfter,
    /// The gateway has begun to respond, and no sender has read the response.
    Replying,
}

const MOMENTS: [Moment; 4] =
    [Moment::Claimed, Moment::Answered, Moment::SoonAfter, Moment::Replying];

/// One gateway after another with the same files, upstream and senders.
#[derive(Default)]
struct Rig {
    ledger: Ledger,
    gateway: Mutex<Option<Arc<Process>>>,
    moment: Mutex<Moment>,
    /// Number of further forwards until the kill.
    left: AtomicUsize,
}

impl Rig {
    async fn start(&self, setup: &Setup) {
        let process = Process::start(setup.dir.path(), &setup.toml()).await;
        *self.gateway.lock().expect("not poisoned") = Some(Arc::new(process));
    }

    /// Returns the current gateway.
    fn gateway(&self) -> Arc<Process> {
        self.gateway.lock().expect("not poisoned").clone().expect("it was started")
    }

    fn moment(&self) -> Moment {
        *self.moment.lock().expect("not poisoned")
    }

    fn kill(&self) {
        self.ledger.kill(|| self.gateway().kill());
    }

    /// Returns whether the kill is due at this forward.
    fn is_due(&self) -> bool {
        let count = |left: usize| left.checked_sub(1);
        self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count) == Ok(1)
    }

    /// Retries all events: those that are done are acknowledged, and the others are forwarded.
    async fn come_again(&self, events: &[Event]) {
        let mut connection = self.gateway().connect().await;
        for event in events {
            let reply = ask(&mut connection, &self.ledger, &event.retried()).await;
            assert_eq!(reply.expect("an answer").status, 200, "{:?}", self.ledger.of(&event.id));
        }
    }
}

/// Returns the response of the upstream.
fn plan(rig: &Arc<Rig>) -> Answer {
    if !rig.is_due() {
        return Answer::Status(200);
    }
    let then_kill = || {
        let rig = Arc::clone(rig);
        Answer::Then(200, Hook::new(move || rig.kill()))
    };
    match rig.moment() {
        Moment::Claimed => {
            rig.kill();
            Answer::Silence
        }
        Moment::Answered => {
            rig.gateway().freeze();
            then_kill()
        }
        Moment::SoonAfter => then_kill(),
        Moment::Replying => Answer::Status(200),
    }
}

/// Sends events until the gateway is dead.
async fn load(rig: Arc<Rig>) -> Vec<Event> {
    let mut events = Vec::new();
    let mut connection = rig.gateway().connect().await;
    loop {
        let event = Event::default();
        events.push(event.clone());
        if rig.moment() == Moment::Replying && rig.left.load(Ordering::SeqCst) == 0 {
            rig.ledger.note(&event.id, Entry::Asked);
            connection.write(&event.request()).await;
            if connection.stirs().await {
                rig.kill();
            }
            rig.ledger.note(&event.id, Entry::Unheard);
            return events;
        }
        match ask(&mut connection, &rig.ledger, &event).await {
            Some(reply) => assert_eq!(reply.status, 200),
            None => return events,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_gateways_lose_no_record_and_no_event() {
    let rounds = match std::env::var("SEALGATE_KILL_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("a number of rounds"),
        Err(_) => ROUNDS,
    };
    let rig = Arc::new(Rig::default());
    let planning = Arc::clone(&rig);
    let upstream = Upstream::keeping(&rig.ledger, move |_, _| plan(&planning)).await;
    let setup = Setup::new(&upstream)
        .plain()
        .section("[replay]\nstore = \"disk\"\npath = \"replay\"")
        .route("answer_within = \"15s\"");
    rig.start(&setup).await;
    let mut all = Vec::new();
    let mut stages =
        BTreeMap::from([Stage::Claimed, Stage::Answered, Stage::Committed].map(|s| (s, 0)));
    for round in 0..rounds {
        let moment = MOMENTS[round % MOMENTS.len()];
        *rig.moment.lock().expect("not poisoned") = moment;
        rig.left.store(BEFORE, Ordering::SeqCst);
        let mut senders = JoinSet::new();
        (0..SENDERS).for_each(|_| drop(senders.spawn(load(Arc::clone(&rig)))));
        let mut events = Vec::new();
        while let Some(sent) = senders.join_next().await {
            events.extend(sent.expect("no panic"));
        }
        upstream.deserted().await;
        rig.ledger.killed();
        rig.start(&setup).await;
        rig.come_again(&events).await;
        rig.ledger.agree_that_all_is_done();
        let interrupted = rig.ledger.interrupted(&events);
        let meant = match moment {
            Moment::Claimed => Some(Stage::Claimed),
            Moment::Answered => Some(Stage::Answered),
            Moment::SoonAfter => None,
            Moment::Replying => Some(Stage::Committed),
        };
        assert!(
            meant.is_none_or(|stage| interrupted.contains(&stage)),
            "{moment:?}: {interrupted:?}"
        );
        interrupted.iter().for_each(|stage| *stages.entry(*stage).or_default() += 1);
        all.extend(events);
    }
    rig.come_again(&all).await;
    rig.ledger.agree_that_all_is_done();
    eprintln!("{rounds} kills, {} events, of which the kills interrupted {stages:?}", all.len());
    assert!(stages.values().all(|count| *count > 0), "{stages:?}");
}
