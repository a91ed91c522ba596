//! SIGKILL under load: every event that was acknowledged is delivered, and none is delivered again
//! without a mark.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::task::JoinSet;

use crate::kit::{Event, Ledger, Process, SECRET, Setup, Upstream, ask, until};

/// Default number of rounds; `SEALGATE_KILL_ROUNDS` overrides it.
const ROUNDS: usize = 20;
const SENDERS: usize = 8;

/// Sends events until the gateway is dead. Returns those that were acknowledged.
async fn load(gateway: Arc<Process>, path: &'static str) -> Vec<String> {
    let (ledger, mut acknowledged) = (Ledger::default(), Vec::new());
    let mut connection = gateway.connect().await;
    loop {
        let event = Event { path: path.to_owned(), ..Event::default() };
        match ask(&mut connection, &ledger, &event).await {
            Some(reply) if reply.status == 200 => acknowledged.push(event.id),
            Some(reply) => assert_eq!(reply.status, 503, "{}", reply.head),
            None => return acknowledged,
        }
    }
}

/// Returns for each event whether each of its arrivals was marked.
pub(super) fn arrivals(upstream: &Upstream) -> BTreeMap<String, Vec<bool>> {
    let mut arrivals = BTreeMap::<_, Vec<bool>>::new();
    for request in upstream.requests() {
        let event = request.header("sealgate-event-id").expect("an ID").to_owned();
        let is_marked = request.header("sealgate-possible-duplicate").is_some();
        arrivals.entry(event).or_default().push(is_marked);
    }
    arrivals
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_gateways_deliver_every_acknowledged_event() {
    let rounds = match std::env::var("SEALGATE_KILL_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("a number of rounds"),
        Err(_) => ROUNDS,
    };
    let upstream = Upstream::start().await;
    let retry = "[route.retry]\nfirst = \"50ms\"\nmax = \"100ms\"";
    let setup = Setup::new(&upstream)
        .plain()
        .section("[events]\npath = \"events\"\n[replay]\nstore = \"disk\"\npath = \"replay\"")
        .route(&format!("delivery = \"async\"\n{retry}"))
        .route(&format!(
            "[[route]]\nname = \"fallback\"\npath = \"/webhooks/fallback\"\nscheme = \"vivoldi\"\n\
             upstream = \"http://{}\"\nsecret = \"{SECRET}\"\ndelivery = \"fallback\"\n{retry}",
            upstream.address()
        ));
    let mut acknowledged = BTreeSet::new();
    for round in 0..rounds {
        let gateway = Arc::new(Process::start(setup.dir.path(), &setup.toml()).await);
        let mut senders = JoinSet::new();
        for number in 0..SENDERS {
            let path = ["/webhooks/vivoldi", "/webhooks/fallback"][number % 2];
            senders.spawn(load(Arc::clone(&gateway), path));
        }
        let before = upstream.requests().len();
        upstream.seen(before + 10 + 7 * (round % 8)).await;
        gateway.kill();
        while let Some(sent) = senders.join_next().await {
            acknowledged.extend(sent.expect("no panic"));
        }
    }
    let _gateway = Process::start(setup.dir.path(), &setup.toml()).await;
    let arrived = || async {
        let arrivals = arrivals(&upstream);
        acknowledged.iter().all(|event| arrivals.contains_key(event))
    };
    until("every acknowledged event arrives", arrived).await;
    // Without failures, only an attempt that a kill interrupted is repeated, and that is marked.
    for (event, marks) in arrivals(&upstream) {
        assert!(marks.iter().skip(1).all(|is_marked| *is_marked), "{event}: {marks:?}");
    }
    assert!(acknowledged.len() > 5 * rounds, "only {} events", acknowledged.len());
}
