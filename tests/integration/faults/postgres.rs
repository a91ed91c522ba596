//! Two gateways with one PostgreSQL; each of the three can be stopped, killed and restarted.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::kit::{
    Answer, Authority, Connection, Entry, Event, Ledger, Postgres, Process, Program, Setup,
    Upstream, ask, free_address, tool, until,
};

const STORE_UP: &str = "sealgate_store_up{store=\"postgres\"}";
const UNAVAILABLE: &str = "the replay store is unavailable";
const AVAILABLE: &str = "the replay store is available";

/// Default number of rounds; `SEALGATE_DATABASE_ROUNDS` overrides it.
const ROUNDS: usize = 4;

fn section(url: &str) -> String {
    format!("[replay]\nstore = \"postgres\"\nurl = \"{url}\"")
}

/// A gateway that can be killed and started again with the same files.
struct Replica {
    setup: Setup,
    process: Mutex<Arc<Process>>,
}

impl Replica {
    async fn start(setup: Setup) -> Self {
        let process = Process::start(setup.dir.path(), &setup.toml()).await;
        Replica { setup, process: Mutex::new(Arc::new(process)) }
    }

    fn process(&self) -> Arc<Process> {
        Arc::clone(&self.process.lock().expect("not poisoned"))
    }

    async fn restart(&self) {
        let process = Process::start(self.setup.dir.path(), &self.setup.toml()).await;
        *self.process.lock().expect("not poisoned") = Arc::new(process);
    }
}

async fn store_is(gateway: &Process, up: f64) {
    until("the metric shows it", || async { gateway.metric(STORE_UP).await == up }).await;
}

async fn send(gateway: &Process, ledger: &Ledger, event: &Event) -> u16 {
    let mut connection = gateway.connect().await;
    ask(&mut connection, ledger, event).await.expect("a response").status
}

fn forwards(ledger: &Ledger, event: &Event) -> usize {
    ledger.of(&event.id).iter().filter(|entry| matches!(entry, Entry::Forwarded { .. })).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_hangs_or_is_killed_is_503_in_time_and_loses_nothing() {
    let Some(database) = Postgres::start().await else { return };
    let ledger = Ledger::default();
    let upstream = Upstream::keeping(&ledger, |_, _| Answer::Status(200)).await;
    let setup = || Setup::new(&upstream).plain().section(&section(&database.url()));
    let (one, other) = (Replica::start(setup()).await, Replica::start(setup()).await);
    let (one, other) = (one.process(), other.process());
    let before = Event::default();
    assert_eq!(send(&one, &ledger, &before).await, 200, "at once after the start");
    let mut known = vec![before];
    for fault in [Postgres::freeze, Postgres::kill] {
        fault(&database);
        let rejected = Event::default();
        let start = Instant::now();
        assert_eq!(send(&one, &ledger, &rejected).await, 503);
        assert!(start.elapsed() < Duration::from_secs(4), "within 4.5 s: {:?}", start.elapsed());
        assert_eq!(one.metric(STORE_UP).await, 0.0);
        assert_eq!(send(&one, &ledger, &known[0].retried()).await, 200, "known here");
        match database.number_of_processes() {
            0 => database.restart().await,
            _ => database.thaw(),
        }
        store_is(&one, 1.0).await;
        store_is(&other, 1.0).await;
        assert_eq!(send(&other, &ledger, &rejected.retried()).await, 200);
        known.push(rejected);
    }
    for event in &known {
        assert_eq!(send(&other, &ledger, &event.retried()).await, 200);
        assert_eq!(forwards(&ledger, event), 1);
    }
    ledger.agree_that_all_is_done();
    for level in [UNAVAILABLE, AVAILABLE] {
        let expected = if level == AVAILABLE { 3 } else { 2 };
        assert_eq!(one.lines(level).len(), expected, "{}", one.log());
    }
    assert!(!one.log().contains(database.password()), "{}", one.log());
}

/// Sends ten events one after the other, and returns the number of statements that contain each
/// text.
async fn count_statements(events: bool, texts: &[&str]) -> Option<Vec<usize>> {
    let database = Postgres::start().await?;
    database.log_statements().await;
    let upstream = Upstream::start().await;
    let mut setup = Setup::new(&upstream).plain().section(&section(&database.url()));
    if events {
        let events = format!("[events]\nstore = \"postgres\"\nurl = \"{}\"", database.url());
        setup = setup.section(&events).route("delivery = \"async\"");
    }
    let gateway = setup.start();
    let mut connection = gateway.connect_plain().await;
    for _ in 0..10 {
        assert_eq!(connection.exchange(&Event::default().request()).await.status, 200);
    }
    upstream.seen(10).await;
    let settled = || async { !events || database.number(DELIVERED).await == 10 };
    until("every event is settled", settled).await;
    let statements = database.statements();
    let count = |text: &&str| statements.iter().filter(|sent| sent.contains(*text)).count();
    Some(texts.iter().map(count).collect())
}

const DELIVERED: &str = "SELECT count(*) FROM sealgate.event WHERE state = 2";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_request_waits_for_two_statements() {
    let texts = ["replay_claim(", "replay_done(", "FROM sealgate.replay WHERE key"];
    let Some(counts) = count_statements(false, &texts).await else { return };
    assert_eq!(counts, [10, 10, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_asynchronous_request_waits_for_one_statement() {
    let texts = ["events_accept(", "replay_claim(", "replay_done(", "UPDATE sealgate.event"];
    let Some(counts) = count_statements(true, &texts).await else { return };
    assert_eq!(counts[..3], [10, 0, 0]);
    assert!(counts[3] >= 1 && counts[3] <= 10 + RENEWALS, "{counts:?}");
}

/// The most renewals of leases while ten events are sent.
const RENEWALS: usize = 10;

/// Sends events to both gateways in turn, each until it is acknowledged.
async fn load(replicas: Arc<[Replica; 2]>, first: usize, ledger: Ledger, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let event = Event::default();
        for attempt in first.. {
            let gateway = replicas[attempt % 2].process();
            let reply = match Connection::try_plain(gateway.http()).await {
                Some(mut connection) => ask(&mut connection, &ledger, &event.retried()).await,
                None => None,
            };
            match reply.map(|reply| reply.status) {
                Some(200) => break,
                Some(502..=504) | None => tokio::time::sleep(Duration::from_millis(20)).await,
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_gateways_and_databases_lose_no_event() {
    let rounds = match std::env::var("SEALGATE_DATABASE_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("a number of rounds"),
        Err(_) => ROUNDS,
    };
    let Some(database) = Postgres::start().await else { return };
    let ledger = Ledger::default();
    let upstream = Upstream::keeping(&ledger, |_, _| Answer::Status(200)).await;
    let setup = || Setup::new(&upstream).plain().section(&section(&database.url()));
    let replicas = [Replica::start(setup()).await, Replica::start(setup()).await];
    let replicas = Arc::new(replicas);
    let acknowledged = || ledger.count(|entry| matches!(entry, Entry::Told(200, _)));
    let progress = |more: usize| {
        let target = acknowledged() + more;
        let acknowledged = &acknowledged;
        async move {
            until("events are acknowledged", || async { acknowledged() >= target }).await;
        }
    };
    for round in 0..rounds {
        let stop = Arc::new(AtomicBool::new(false));
        let mut senders = JoinSet::new();
        for sender in 0..6 {
            let (replicas, stop) = (Arc::clone(&replicas), Arc::clone(&stop));
            senders.spawn(load(replicas, sender, ledger.clone(), stop));
        }
        progress(30).await;
        let victim = &replicas[round % 2];
        match round % 4 {
            0 | 1 => {
                victim.process().kill();
                ledger.killed();
                // The leases of the dead process would last for 15 s.
                database.sql("UPDATE sealgate.replay SET lease_ends = now() WHERE state = 0").await;
                victim.restart().await;
            }
            2 => {
                database.stop();
                database.restart().await;
            }
            _ => {
                database.kill();
                database.restart().await;
            }
        }
        progress(30).await;
        stop.store(true, Ordering::Relaxed);
        senders.join_all().await;
    }
    ledger.agree_that_all_is_done();
    eprintln!("{rounds} rounds, {} events", ledger.events().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_gateway_cannot_release_what_another_holds() {
    let Some(database) = Postgres::start().await else { return };
    let ledger = Ledger::default();
    let upstream = Upstream::keeping(&ledger, |_, count| match count {
        1 => Answer::Held,
        _ => Answer::Status(200),
    })
    .await;
    let setup = || Setup::new(&upstream).plain().section(&section(&database.url()));
    let (one, other) = (Replica::start(setup()).await, Replica::start(setup()).await);
    let (one, other) = (one.process(), other.process());
    let event = Event::default();
    let mut connection = one.connect().await;
    let first = event.clone();
    let asking = {
        let ledger = ledger.clone();
        tokio::spawn(async move { ask(&mut connection, &ledger, &first).await })
    };
    ledger.reached(&event).await;
    one.freeze();
    database.sql("UPDATE sealgate.replay SET lease_ends = now() WHERE state = 0").await;
    ledger.killed();
    assert_eq!(send(&other, &ledger, &event.retried()).await, 200);
    one.signal("-CONT");
    upstream.release();
    let late = asking.await.expect("no panic").expect("a response");
    assert_eq!(late.status, 200, "a success stays a success");
    for gateway in [&one, &other] {
        assert_eq!(send(gateway, &ledger, &event.retried()).await, 200);
    }
    assert_eq!(forwards(&ledger, &event), 2);
    let marked = ledger.of(&event.id).contains(&Entry::Forwarded { marked: true });
    assert!(marked, "the first may have been handled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn works_behind_a_pooler_in_transaction_mode() {
    if tool("pgbouncer").is_none() {
        return;
    }
    let Some(database) = Postgres::start().await else { return };
    let address = free_address();
    let dir = tempfile::tempdir().expect("a directory");
    let configuration = format!(
        "[databases]\nshop = host={} port={}\n[pgbouncer]\nlisten_addr = {}\nlisten_port = {}\n\
         unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {users}\n\
         pool_mode = transaction\ndefault_pool_size = 3\nquery_wait_timeout = 1\n",
        database.address().ip(),
        database.address().port(),
        address.ip(),
        address.port(),
        users = dir.path().join("users").display(),
    );
    let users = format!("\"sealgate\" \"{}\"\n", database.password());
    std::fs::write(dir.path().join("users"), users).expect("written");
    let file = dir.path().join("pgbouncer.ini");
    std::fs::write(&file, configuration).expect("written");
    let mut pooler = Program::silent(database.unprivileged("pgbouncer", dir.path()).arg(&file));
    pooler.listens(address).await;

    let ledger = Ledger::default();
    let upstream = Upstream::keeping(&ledger, |_, _| Answer::Gathered(8, 200)).await;
    let setup = || Setup::new(&upstream).plain().section(&section(&database.url_at(address)));
    let replicas = [Replica::start(setup()).await, Replica::start(setup()).await];
    let gateways = [replicas[0].process(), replicas[1].process()];
    let events: Arc<Vec<_>> = Arc::new((0..20).map(|_| Event::default()).collect());
    let mut senders = JoinSet::new();
    for copy in 0..8 {
        let (gateway, ledger) = (Arc::clone(&gateways[copy % 2]), ledger.clone());
        let events = Arc::clone(&events);
        senders.spawn(async move {
            let mut connection = gateway.connect().await;
            for event in &*events {
                let reply = ask(&mut connection, &ledger, &event.retried()).await;
                assert_eq!(reply.expect("a response").status, 200);
            }
        });
    }
    senders.join_all().await;
    ledger.agree_that_all_is_done();
    assert_eq!(ledger.count(|entry| matches!(entry, Entry::Forwarded { .. })), events.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uses_tls_if_the_configured_authority_signed_the_certificate() {
    let files = tempfile::tempdir().expect("a directory");
    let authority = Authority::new();
    let ca = files.path().join("ca.pem");
    authority.write(&ca);
    authority.write_pair(files.path(), "localhost");
    let Some(database) = Postgres::start_with_tls(files.path()).await else { return };
    let upstream = Upstream::start().await;
    let url = database.url().replace(&database.address().ip().to_string(), "localhost");
    let setup =
        |ca: &str| Setup::new(&upstream).plain().section(&format!("{}\n{ca}", section(&url)));
    let own = format!("ca = \"{}\"", ca.display());
    let gateway = setup(&own).start();
    let event = Event::default();
    let mut connection = gateway.connect_plain().await;
    assert_eq!(connection.exchange(&event.request()).await.status, 200);
    let encrypted = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE ssl AND usename = 'sealgate'";
    assert!(database.number(encrypted).await > 0);

    let stranger = files.path().join("other.pem");
    Authority::new().write(&stranger);
    let gateway = setup(&format!("ca = \"{}\"", stranger.display())).start();
    let reply = gateway.connect_plain().await.exchange(&Event::default().request()).await;
    assert_eq!(reply.status, 503);
    assert_eq!(gateway.metric(STORE_UP).await, 0.0);
    assert_eq!(upstream.requests().len(), 1);
}
