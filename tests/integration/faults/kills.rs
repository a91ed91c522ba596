//! `kill -9` under load, at chosen moments: nothing that was acknowledged is forwarded again, and
//! nothing that the upstream did not take is swallowed.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::task::JoinSet;

use crate::kit::{Answer, Entry, Event, Hook, Ledger, Process, Setup, Stage, Upstream, ask};

/// So many rounds, unless `SEALGATE_KILL_ROUNDS` says otherwise.
const ROUNDS: usize = 20;
const SENDERS: usize = 12;
/// In each round so many events reach the upstream before the kill.
const BEFORE: usize = 24;

/// When the gateway is killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Moment {
    /// When the upstream has the request, and has not answered.
    #[default]
    Claimed,
    /// When the upstream has answered, and before the gateway, which is frozen, can read that.
    Answered,
    /// Right after the upstream has answered; the gateway may have got further or not.
    SoonAfter,
    /// When the gateway has begun to reply, and before any sender has read it.
    Replying,
}

const MOMENTS: [Moment; 4] =
    [Moment::Claimed, Moment::Answered, Moment::SoonAfter, Moment::Replying];

/// One gateway after the other, over the same files, with the same upstream and senders.
#[derive(Default)]
struct Rig {
    ledger: Ledger,
    gateway: Mutex<Option<Arc<Process>>>,
    moment: Mutex<Moment>,
    /// How many more forwards there are until the kill.
    left: AtomicUsize,
}

impl Rig {
    async fn start(&self, setup: &Setup) {
        let process = Process::start(setup.dir.path(), &setup.toml()).await;
        *self.gateway.lock().expect("not poisoned") = Some(Arc::new(process));
    }

    /// The newest gateway.
    fn gateway(&self) -> Arc<Process> {
        self.gateway.lock().expect("not poisoned").clone().expect("it was started")
    }

    fn moment(&self) -> Moment {
        *self.moment.lock().expect("not poisoned")
    }

    fn kill(&self) {
        self.ledger.kill(|| self.gateway().kill());
    }

    /// Whether this forward is the one that the round waits for.
    fn is_due(&self) -> bool {
        let count = |left: usize| left.checked_sub(1);
        self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count) == Ok(1)
    }

    /// The sender comes again with everything: what is done stays done, what is open gets done.
    async fn come_again(&self, events: &[Event]) {
        let mut connection = self.gateway().connect().await;
        for event in events {
            let reply = ask(&mut connection, &self.ledger, &event.retried()).await;
            assert_eq!(reply.expect("an answer").status, 200, "{:?}", self.ledger.of(&event.id));
        }
    }
}

/// How the upstream answers.
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

/// Sends events until the gateway dies.
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
async fn killed_gateways_forget_nothing_and_swallow_nothing() {
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
