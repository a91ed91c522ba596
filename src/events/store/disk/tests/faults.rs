//! Files that are full, hang, are damaged, or belong to another key or process.

use std::{fs, sync::atomic::Ordering};

use super::*;
use crate::database::journal;

/// How long a caller waits in tests of a store that cannot be written.
const SHORT: Duration = Duration::from_millis(300);

async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn open_with(path: &Path, key: Option<u8>) -> Result<DiskStore, DiskOpenError> {
    let key = key.map(|byte| Secret::new(vec![byte; 32]));
    DiskStore::open(path, key.as_ref(), retention(), gauge())
}

/// Returns the content of all files below a directory, journals without their unwritten rest.
fn contents(path: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for file in fs::read_dir(path).unwrap() {
        let path = file.unwrap().path();
        all.extend(if path.is_dir() { contents(&path) } else { journal::read(&path).unwrap() });
    }
    all
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(haystack, needle).is_some()
}

#[tokio::test]
async fn a_key_hides_everything_and_must_be_the_right_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut secret = event(1, EventState::Pending);
    secret.entry.event_id = Some("evt_secret".into());
    secret.request.headers.push(("X".into(), HeaderValue::from_static("header-secret")));
    secret.request.body = Bytes::from_static(b"body-secret");
    let store = open_with(dir.path(), Some(7)).unwrap();
    store.accepted(secret.clone()).await;
    drop(store);
    let files = contents(dir.path());
    assert!(contains(&files, b"orders"), "the names of routes are not secret");
    assert!(!contains(&files, b"secret"));
    let path = dir.path().display();
    for (key, reason) in [
        (None, "it is encrypted, and `key` is not configured"),
        (Some(8), "it is encrypted with another `key`"),
    ] {
        let error = open_with(dir.path(), key).unwrap_err().to_string();
        let expected = format!("the event store at {path} cannot be used: {reason}: set `[events]");
        assert!(error.starts_with(&expected), "{error}");
    }
    let store = open_with(dir.path(), Some(7)).unwrap();
    assert_eq!(store.request(id(1)).await.unwrap(), Some(secret.request));
    let filter = EventFilter { event_id: Some("evt_secret".into()), ..EventFilter::default() };
    assert_eq!(store.listed(filter).await, [id(1)]);

    let plain = tempfile::tempdir().unwrap();
    drop(open_with(plain.path(), None).unwrap());
    let error = open_with(plain.path(), Some(7)).unwrap_err().to_string();
    assert!(error.contains("it is not encrypted, and `key` is configured: remove"), "{error}");
    let short = Secret::new(vec![7; 16]);
    let error = DiskStore::open(plain.path(), Some(&short), retention(), gauge()).unwrap_err();
    assert_eq!(error.to_string(), "the key of the event store must have 32 bytes");
}

#[tokio::test]
async fn a_second_process_cannot_open_the_files() {
    let (dir, _store) = opened();
    let error = open_with(dir.path(), None).unwrap_err().to_string();
    let path = dir.path().display();
    let held = "is held by another process: only one gateway at a time can use it";
    assert_eq!(error, format!("the event store at {path} {held}"));
}

#[tokio::test]
async fn delivered_events_make_room_oldest_first_and_others_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = Retention { max_bytes: 64 << 10, ..retention() };
    let store = DiskStore::open(dir.path(), None, bounds, gauge()).unwrap();
    let large = |number| {
        let mut event = event(number, EventState::Delivering);
        event.request.body = Bytes::from(vec![b'x'; 4000]);
        event
    };
    for number in 0..4 {
        store.accepted(large(number)).await;
    }
    for number in 4..40 {
        let lease = store.accepted(large(number)).await.unwrap();
        store.settle(lease, attempt(NOW + number, 200), NextStep::Delivered).await.unwrap();
        assert!(store.bytes() <= 63 << 10, "a reserve is kept for large events");
    }
    let listed = store.listed(EventFilter::default()).await;
    assert!((12..=16).contains(&listed.len()), "{}", listed.len());
    let newest = (0..40).rev().take(listed.len() - 4).chain((0..4).rev());
    assert_eq!(listed, newest.map(id).collect::<Vec<_>>());
    let mut number = 100;
    let full = loop {
        match store.accept(large(number), soon()).await {
            Ok(Acceptance::New(..)) => number += 1,
            other => break other.map(drop),
        }
    };
    assert_eq!(full, Err(StoreError::Full));
    let filter = EventFilter { state: Some(EventState::Delivered), ..EventFilter::default() };
    assert_eq!(store.listed(filter).await, []);
    let refused = NewEvent { entry: entry(500, EventState::Refused), ..large(500) };
    store.record(vec![(refused.entry, Some(refused.request))]).await.unwrap();
    assert_eq!(store.state(500).await, None, "history is not kept in a full store");
    store.forget(id(0)).await.unwrap();
    drop(store);
    let store = DiskStore::open(dir.path(), None, bounds, gauge()).unwrap();
    let bytes = store.bytes();
    store.forget(id(0)).await.unwrap();
    assert!(store.bytes() < bytes - 4000, "the bytes of all events are counted across restarts");
    store.accepted(large(number)).await;
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let up = gauge();
    let store = DiskStore::open(dir.path(), None, retention(), up.clone()).unwrap();
    let lease = store.accepted(event(1, EventState::Delivering)).await.unwrap();
    store.faults.broken.store(true, Ordering::Relaxed);
    let short = Instant::now() + SHORT;
    let error = store.accept(event(2, EventState::Delivering), short).await.unwrap_err();
    assert_eq!(error, StoreError::Unavailable("it did not finish in time".into()));
    assert_eq!((store.is_up(), up.get()), (false, 0));
    let settle = || store.settle(lease, attempt(NOW, 200), NextStep::Delivered);
    assert!(tokio::time::timeout(SHORT, settle()).await.is_err(), "it waits");
    assert!(store.entry(id(1)).await.is_err(), "the files are closed");
    store.faults.broken.store(false, Ordering::Relaxed);
    until(|| store.is_up()).await;
    let settled = settle().await.unwrap();
    assert_eq!(settled.as_ref().map(|entry| entry.state), Some(EventState::Delivered));
    assert_eq!(settle().await.unwrap(), settled, "a repeated call has the same result");
    assert_eq!((store.is_up(), up.get()), (true, 1));
    assert_eq!(store.state(2).await, None, "its sender got an error");
}

#[tokio::test]
async fn an_attempt_whose_lease_does_not_arrive_is_not_lost() {
    let (_dir, store) = opened();
    let faults = Arc::clone(&store.faults);
    let (hung, continued) = (mpsc::channel(), mpsc::channel::<()>());
    let holder = std::thread::spawn(move || {
        let _hang = faults.hangs.lock().unwrap();
        hung.0.send(()).unwrap();
        let _ = continued.1.recv();
    });
    hung.1.recv().unwrap();
    let short = Instant::now() + SHORT;
    store.accept(event(1, EventState::Delivering), short).await.unwrap_err();
    let short = Instant::now() + SHORT;
    store.accept(event(2, EventState::Delivering), short).await.unwrap_err();
    drop(continued.0);
    holder.join().unwrap();
    until(|| store.next_due(&route()).is_some()).await;
    let due = store.due(NOW + HOUR).await;
    let [due] = &due[..] else { panic!("{due:?}") };
    assert_eq!((due.entry.id, due.entry.attempts), (id(1), 1));
    assert!(!due.entry.possible_duplicate, "nothing was sent");
    assert_eq!(store.state(2).await, None, "nobody waited for it when the disk worked again");
}

#[tokio::test]
async fn the_queue_is_bounded_and_drops_what_nobody_waits_for() {
    let queue = CommandQueue::default();
    let accept = |number| {
        let entry = entry(number, EventState::Pending);
        let event = Box::new(SealedEvent { entry, request: Some(vec![0; 1 << 20]) });
        let (reply, receiver) = CommandReply::new();
        (queue.push(StoreCommand::Accept(event, reply)), receiver)
    };
    let waiting: Vec<_> = (0..10).map(accept).collect();
    for number in 10..200 {
        assert_eq!(accept(number).0, Ok(()), "the callers of most are gone");
    }
    drop(waiting);
    let waiting: Vec<_> = (200..300).map(accept).collect();
    let full = Err(StoreError::Unavailable("too many events wait to be written".into()));
    assert!(waiting.iter().any(|(pushed, _)| *pushed == full));
    let lease = AttemptLease { id: id(1), token: 1 };
    let (reply, _receiver) = CommandReply::new();
    let (attempt, next) = (attempt(NOW, 200), NextStep::Delivered);
    let settle = StoreCommand::Settle { lease, attempt, next, reply };
    assert_eq!(queue.push(settle), Ok(()), "the ends of attempts are bounded by the attempts");
}

#[tokio::test]
async fn all_who_wait_share_one_write() {
    let (_dir, store) = opened();
    let store = Arc::new(store);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..300 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let lease = store.accepted(event(number, EventState::Delivering)).await.unwrap();
            store.settle(lease, attempt(NOW, 200), NextStep::Delivered).await.unwrap().unwrap();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let filter = EventFilter { state: Some(EventState::Delivered), ..EventFilter::default() };
    assert_eq!(store.listed(filter).await.len(), 300);
}

#[tokio::test]
async fn a_torn_end_is_dropped_and_other_damage_is_reported() {
    let (dir, store) = opened();
    for number in 0..20 {
        store.accepted(event(number, EventState::Pending)).await;
    }
    let before = journal::read(&journal::newest(dir.path()).unwrap().unwrap()).unwrap().len();
    store.accepted(event(20, EventState::Pending)).await;
    drop(store);
    let journal = journal::newest(dir.path()).unwrap().unwrap();
    let bytes = journal::read(&journal).unwrap();
    let damaged = |at: usize, length: Option<usize>| {
        let copy = tempfile::tempdir().unwrap();
        copy_all(dir.path(), copy.path());
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x5a;
        bytes.truncate(length.unwrap_or(bytes.len()));
        fs::write(copy.path().join(journal.file_name().unwrap()), bytes).unwrap();
        copy
    };
    let end = bytes.len();
    for (at, length) in [(before + 40, None), (0, Some(end - 1)), (0, Some(before + 30))] {
        let copy = if length.is_some() { damaged(end - 1, length) } else { damaged(at, None) };
        let store = open(copy.path());
        let all = store.listed(EventFilter::default()).await;
        assert_eq!(all, (0..20).rev().map(id).collect::<Vec<_>>(), "{at} {length:?}");
    }
    let copy = damaged(before / 2, None);
    let error = open_with(copy.path(), None).unwrap_err().to_string();
    assert!(error.starts_with("the event store at "), "{error}");
    assert!(error.contains(" is damaged: "), "{error}");
    assert!(error.ends_with("although their senders got a success"), "{error}");
    let left = journal::read(&copy.path().join(journal.file_name().unwrap())).unwrap();
    assert_eq!(left.len(), bytes.len(), "left as it was");
}

/// A store that the first version of the format wrote, in plain text and encrypted: an archive made
/// by this test with the environment variable `SEALGATE_WRITE_FIRST_VERSION`.
const FIRST_VERSION: &str = "src/events/store/disk/tests/first_version.tar.gz";

#[tokio::test]
async fn a_store_of_the_first_version_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let tar = |arguments: &[&str]| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FIRST_VERSION);
        let mut tar = std::process::Command::new("tar");
        tar.arg("-C").arg(dir.path()).arg("-f").arg(path).args(arguments);
        assert!(tar.status().unwrap().success());
    };
    let mut pending = event(2, EventState::Pending);
    pending.entry.order = Some(OrderKey([9; 16]));
    if std::env::var_os("SEALGATE_WRITE_FIRST_VERSION").is_some() {
        for (name, key) in [("plain", None), ("encrypted", Some(7))] {
            let store = open_with(&dir.path().join(name), key).unwrap();
            let lease = store.accepted(event(1, EventState::Delivering)).await.unwrap();
            store.settle(lease, attempt(NOW, 200), NextStep::Delivered).await.unwrap();
            store.accepted(pending.clone()).await;
            store.accepted(event(3, EventState::Delivering)).await;
            store.record(vec![(entry(4, EventState::Refused), None)]).await.unwrap();
        }
        tar(&["--sparse", "--gzip", "-c", "plain", "encrypted"]);
        fs::remove_dir_all(dir.path().join("plain")).unwrap();
        fs::remove_dir_all(dir.path().join("encrypted")).unwrap();
    }
    tar(&["-x", "--gzip"]);
    for (name, key) in [("plain", None), ("encrypted", Some(7))] {
        let store = open_with(&dir.path().join(name), key).unwrap();
        assert_eq!(store.listed(EventFilter::default()).await, [id(4), id(3), id(2), id(1)]);
        let delivered = store.entry(id(1)).await.unwrap().unwrap();
        let expected = EventEntry {
            state: EventState::Delivered,
            log: vec![attempt(NOW, 200)],
            ..entry(1, EventState::Delivering)
        };
        assert_eq!(delivered, expected);
        assert_eq!(store.request(id(1)).await.unwrap(), Some(request(1)));
        assert_eq!(store.entry(id(2)).await.unwrap(), Some(pending.entry.clone()));
        let due = store.due(NOW + 10).await;
        let due: Vec<_> =
            due.iter().map(|due| (due.entry.id, due.entry.possible_duplicate)).collect();
        assert_eq!(due, [(id(2), false), (id(3), true)]);
        let found = store.find(&route(), super::key(1)).await.unwrap();
        assert_eq!(found.map(|entry| entry.id), Some(id(1)));
    }
}
