//! Stores that cannot be used: held by another process, full, or with an untrusted certificate.

use std::process::{Command, Stdio};

use crate::kit::{
    Answer, Authority, Entry, Event, Ledger, Process, Redis, Setup, Upstream, ask, until,
};

const DISK: &str = "[replay]\nstore = \"disk\"\npath = \"replay\"";
const DISK_UP: &str = "sealgate_store_up{store=\"disk\"}";
const REDIS_UP: &str = "sealgate_store_up{store=\"redis\"}";

async fn send(gateway: &Process, ledger: &Ledger, event: &Event) -> u16 {
    let mut connection = gateway.connect().await;
    ask(&mut connection, ledger, event).await.expect("an answer").status
}

#[tokio::test]
async fn rejects_files_that_another_process_holds_with_a_clear_message() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).plain().section(DISK);
    let dir = setup.dir.path();
    let first = Process::start(dir, &setup.toml()).await;
    let second = Command::new(env!("CARGO_BIN_EXE_sealgate"))
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs");
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    let message = "is held by another process: only one gateway at a time can use it";
    assert!(said.contains(message), "{said}");
    first.kill();
    let ledger = Ledger::default();
    let after = Process::start(dir, &setup.toml()).await;
    let event = Event::default();
    assert_eq!(send(&after, &ledger, &event).await, 200, "the files are free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_503_until_there_is_room_and_loses_nothing() {
    let ledger = Ledger::default();
    let upstream = Upstream::keeping(&ledger, |_, _| Answer::Status(200)).await;
    let setup = Setup::new(&upstream).plain().section(DISK);
    // The process gets an error and not a signal when it exceeds the limit.
    let gateway = Process::start_limited(setup.dir.path(), &setup.toml(), "trap '' XFSZ").await;
    let (before, last, refused) = (Event::default(), Event::default(), Event::default());
    assert_eq!(send(&gateway, &ledger, &before).await, 200);
    assert_eq!(gateway.metric(DISK_UP).await, 1.0);

    // From now on, neither the store nor the log can be written.
    gateway.limit_files(Some(1));
    assert_eq!(send(&gateway, &ledger, &last).await, 200, "the upstream did take it");
    until("the metric tells", || async { gateway.metric(DISK_UP).await == 0.0 }).await;
    assert_eq!(send(&gateway, &ledger, &refused).await, 503);
    assert_eq!(send(&gateway, &ledger, &before.retried()).await, 200);
    assert_eq!(send(&gateway, &ledger, &last.retried()).await, 200);
    assert_eq!(ledger.count(|entry| matches!(entry, Entry::Forwarded { .. })), 2);

    gateway.limit_files(None);
    until("the metric tells", || async { gateway.metric(DISK_UP).await == 1.0 }).await;
    assert_eq!(send(&gateway, &ledger, &refused.retried()).await, 200);
    gateway.kill();
    upstream.deserted().await;
    ledger.killed();
    let again = Process::start(setup.dir.path(), &setup.toml()).await;
    for event in [&before, &last, &refused] {
        assert_eq!(send(&again, &ledger, &event.retried()).await, 200);
    }
    assert_eq!(ledger.count(|entry| matches!(entry, Entry::Forwarded { .. })), 3);
    ledger.agree_that_all_is_done();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uses_a_store_with_tls_if_the_configured_authority_signed_its_certificate() {
    let Some(redis) = Redis::with_tls().await else { return };
    let upstream = Upstream::start().await;
    let setup = |ca: &str| {
        Setup::new(&upstream)
            .plain()
            .section(&format!("[replay]\nstore = \"redis\"\nurl = \"{}\"\n{ca}", redis.url()))
    };
    let gateway = setup(&format!("ca = \"{}\"", redis.ca().display())).start();
    until("the store answers", || async { gateway.metric(REDIS_UP).await == 1.0 }).await;
    let event = Event::default();
    let mut connection = gateway.connect_plain().await;
    assert_eq!(connection.exchange(&event.request()).await.status, 200);
    assert_eq!(connection.exchange(&event.retried().request()).await.status, 200);
    assert_eq!(upstream.requests().len(), 1);
    assert_eq!(redis.successes().await, 1);

    let stranger = tempfile::tempdir().expect("a directory");
    Authority::new().write(&stranger.path().join("ca.pem"));
    let strangers = format!("ca = \"{}\"", stranger.path().join("ca.pem").display());
    for ca in ["", &strangers] {
        let gateway = setup(ca).start();
        let reply = gateway.connect_plain().await.exchange(&Event::default().request()).await;
        assert_eq!(reply.status, 503, "nobody vouches for it: {ca}");
        assert_eq!(gateway.metric(REDIS_UP).await, 0.0);
    }
    assert_eq!(upstream.requests().len(), 1);
}
