//! Two gateways with one PostgreSQL for events and replay records. Either gateway is killed, or
//! suspended until the other one has taken over its leases, and the database is stopped or killed:
//! every event that was acknowledged is delivered, and none is delivered again without a mark.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;

use super::kills::arrivals;
use crate::kit::{Connection, Event, Ledger, Postgres, Process, Setup, Upstream, ask, until};

/// Default number of rounds; `SEALGATE_DATABASE_ROUNDS` overrides it.
const ROUNDS: usize = 5;
const SENDERS: usize = 6;

/// The gateways that run at the moment.
type Gateways = [Mutex<Arc<Process>>; 2];

fn running(gateways: &Gateways, at: usize) -> Arc<Process> {
    Arc::clone(&gateways[at % 2].lock().expect("not poisoned"))
}

/// Sends events to both gateways in turn. Returns those that were acknowledged.
async fn load(gateways: Arc<Gateways>, first: usize, stop: Arc<AtomicBool>) -> Vec<String> {
    let (ledger, mut acknowledged) = (Ledger::default(), Vec::new());
    for number in first.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let address = running(&gateways, number).http();
        let Some(mut connection) = Connection::try_plain(address).await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let event = Event::default();
        let asking = ask(&mut connection, &ledger, &event);
        // A suspended gateway does not respond.
        match tokio::time::timeout(Duration::from_secs(2), asking).await {
            Ok(Some(reply)) if reply.status == 200 => acknowledged.push(event.id),
            Ok(Some(reply)) => assert_eq!(reply.status, 503, "{}", reply.head),
            Ok(None) | Err(_) => {}
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_gateways_and_databases_deliver_every_acknowledged_event() {
    let rounds = match std::env::var("SEALGATE_DATABASE_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("a number of rounds"),
        Err(_) => ROUNDS,
    };
    let Some(database) = Postgres::start().await else { return };
    let upstream = Upstream::start().await;
    let setup = || {
        Setup::new(&upstream)
            .plain()
            .section(&format!(
                "[events]\nstore = \"postgres\"\nurl = \"{}\"\n[replay]\nstore = \"postgres\"",
                database.url()
            ))
            .route("delivery = \"async\"\n[route.retry]\nfirst = \"50ms\"\nmax = \"100ms\"")
    };
    let setups = [setup(), setup()];
    let start =
        async |at: usize| Arc::new(Process::start(setups[at].dir.path(), &setups[at].toml()).await);
    let gateways = Arc::new([Mutex::new(start(0).await), Mutex::new(start(1).await)]);
    let mut acknowledged = BTreeSet::new();
    for round in 0..rounds {
        let stop = Arc::new(AtomicBool::new(false));
        let mut senders = JoinSet::new();
        for sender in 0..SENDERS {
            senders.spawn(load(Arc::clone(&gateways), sender, Arc::clone(&stop)));
        }
        let before = upstream.requests().len();
        upstream.seen(before + 10 + 3 * (round % 8)).await;
        let victim = round % 2;
        match round % 5 {
            0 | 1 => {
                running(&gateways, victim).kill();
                *gateways[victim].lock().expect("not poisoned") = start(victim).await;
            }
            2 => {
                database.stop();
                database.restart().await;
            }
            3 => {
                database.kill();
                database.restart().await;
            }
            _ => running(&gateways, victim).freeze(),
        }
        stop.store(true, Ordering::Relaxed);
        while let Some(sent) = senders.join_next().await {
            acknowledged.extend(sent.expect("no panic"));
        }
        // Leases of processes that are dead or suspended would last for 15 s.
        database.sql("UPDATE sealgate.event SET lease_ends = now() WHERE state = 1").await;
        let arrived = || async {
            let arrivals = arrivals(&upstream);
            acknowledged.iter().all(|event| arrivals.contains_key(event))
        };
        until("every acknowledged event arrives", arrived).await;
        if round % 5 == 4 {
            running(&gateways, victim).kill();
            *gateways[victim].lock().expect("not poisoned") = start(victim).await;
        }
    }
    let unsettled = "SELECT count(*) FROM sealgate.event WHERE state < 2";
    until("every event is settled", || async { database.number(unsettled).await == 0 }).await;
    for (event, marks) in arrivals(&upstream) {
        // A gateway that loses its lease may send its request after that of the other one.
        let unmarked = marks.iter().filter(|is_marked| !**is_marked).count();
        assert!(unmarked <= 1, "{event}: {marks:?}");
    }
    let acknowledged = acknowledged.len();
    eprintln!("{rounds} rounds, {acknowledged} acknowledged events");
    assert!(acknowledged > 5 * rounds, "only {acknowledged} events");
}
