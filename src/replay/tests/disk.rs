use std::{fs, path::Path};

use super::*;
use crate::{
    database::journal,
    replay::store::disk::entry::{Entry, Stage},
};

fn options(path: &Path, on_store_failure: OnStoreFailure) -> Options {
    Options {
        store: StoreOptions::Disk { path: path.into() },
        max_entries: 1_000_000,
        on_store_failure,
    }
}

fn open(path: &Path, clock: &Clock) -> Fixture {
    Fixture::open(options(path, OnStoreFailure::Refuse), clock)
}

/// How long a sender waits in tests of a store that cannot be written.
const SHORT: Duration = Duration::from_millis(300);

impl Fixture {
    fn disk(&self) -> &Disk {
        match &self.replay.0.store {
            Store::Disk(disk) => disk,
            other => panic!("{other:?}"),
        }
    }

    fn break_disk(&self, broken: bool) {
        self.disk().faults.broken.store(broken, Ordering::Relaxed);
    }

    /// Everything queued is in the files, as far as they can be written.
    async fn flush(&self) {
        self.replay.flush(Instant::now() + Duration::from_secs(30)).await;
    }

    fn store_up(&self) -> i64 {
        self.metrics.store_up("disk").get()
    }
}

async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn records_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000_000);
    let f = open(dir.path(), &clock);
    assert_eq!(f.store_up(), 1);
    f.won(arrival(1, 1)).await.done(&ok(), false).await.written();
    f.won(arrival(2, 1)).await.failed(Failure::Known, Err(Reject::UpstreamConnect)).await;
    f.won(arrival(3, 1)).await.failed(Failure::Unknown, Err(Reject::UpstreamReset)).await;
    let in_flight = f.won(arrival(4, 1)).await;
    f.flush().await;
    // As after kill -9: nothing more is recorded about the claim in flight.
    std::mem::forget(in_flight);
    let Fixture { replay, .. } = f;
    let guard = replay.0;
    until(|| Arc::strong_count(&guard) == 2).await;
    let Store::Disk(disk) = &guard.store else { panic!("not a disk") };
    disk.stop_for_test();

    let f = open(dir.path(), &clock);
    assert_eq!(f.gauges(), (0, 1, 3));
    assert!(f.is_replay(arrival(1, 1)).await);
    let _ = f.retry(Arrival { stale: true, ..arrival(1, 2) }).await;
    let mismatch = Reject::NotAccepted(Reason::ContextMismatch);
    for event in 1..=4 {
        let other = Arrival { pin: ContextPin([2; 16]), ..arrival(event, 2) };
        assert_eq!(f.rejected(other).await, mismatch, "event {event}");
    }
    assert!(!f.won(arrival(2, 2)).await.possible_duplicate());
    assert!(f.won(arrival(3, 2)).await.possible_duplicate());
    let claim = f.won(Arrival { stale: true, ..arrival(4, 1) }).await;
    assert!(claim.possible_duplicate(), "in flight when the process ended");
}

#[tokio::test]
async fn an_event_stays_forgotten_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000_000);
    let f = open(dir.path(), &clock);
    f.won(arrival(1, 1)).await.done(&ok(), false).await.written();
    let soon = Instant::now() + Duration::from_secs(30);
    assert_eq!(f.replay.forget(&arrival(1, 1).key, soon).await, Ok(()));
    f.break_disk(true);
    f.won(arrival(2, 1)).await.done(&ok(), false).await.written();
    let soon = Instant::now() + SHORT;
    let forgotten = f.replay.forget(&arrival(2, 1).key, soon).await;
    assert_eq!(forgotten, Err(Reject::StoreUnavailable), "the files cannot be written");
    let Fixture { replay, .. } = f;
    let guard = replay.0;
    until(|| Arc::strong_count(&guard) == 2).await;
    let Store::Disk(disk) = &guard.store else { panic!("not a disk") };
    disk.stop_for_test();

    let f = open(dir.path(), &clock);
    assert_eq!(f.gauges(), (0, 0, 0));
    let _ = f.won(arrival(1, 1)).await;
}

#[tokio::test]
async fn a_success_is_durable_before_it_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000_000);
    let f = open(dir.path(), &clock);
    for event in 0..20 {
        let claim = f.won(arrival(event, 1)).await;
        let joined = f.joined(arrival(event, 2)).await;
        let answer = ok();
        // The process may end before the sender has the answer, even if it waits.
        let (_receipt, settled) = tokio::join!(claim.done(&answer, true), landed(joined));
        assert!(settled.outcome.is_ok());
        let copy = copy.path().join(event.to_string());
        copy_all(dir.path(), &copy);
        let f = open(&copy, &clock);
        let _ = f.retry(arrival(event, 1)).await;
    }
}

#[tokio::test]
async fn a_second_process_cannot_open_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000_000);
    let f = open(dir.path(), &clock);
    let metrics = Metrics::new().unwrap();
    let error =
        Replay::open(options(dir.path(), OnStoreFailure::Refuse), clock, &metrics).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the replay store at {} is held by another process: only one gateway at a time can use it",
            dir.path().display()
        )
    );
    drop(f);
}

#[tokio::test]
async fn a_path_that_cannot_be_used_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "not a directory").unwrap();
    let metrics = Metrics::new().unwrap();
    let options = options(&path, OnStoreFailure::Refuse);
    let error = Replay::open(options, Clock::manual(0), &metrics).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("the replay store at {} cannot be used", path.display())),
        "{error}"
    );
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_keeps_records_and_rejects_new_events() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000_000);
    let f = open(dir.path(), &clock);
    let first = f.won_within(arrival(1, 1), SHORT).await;
    f.break_disk(true);
    first.done(&ok(), false).await.written();
    assert_eq!(f.store_up(), 0);
    assert!(f.is_replay(arrival(1, 1)).await, "kept in this process");
    assert_eq!(f.rejected(arrival(2, 1)).await, Reject::StoreUnavailable);
    assert_eq!(f.gauges(), (0, 1, 0), "the rejected one left nothing");
    f.clock.advance(WINDOW * 3);
    assert!(behind(&f, 1), "not evicted before it is written");
    f.break_disk(false);
    until(|| !behind(&f, 1)).await;
    until(|| f.store_up() == 1).await;
    let _ = f.won(arrival(2, 1)).await.done(&ok(), false).await;
    drop(f);
    let f = open(dir.path(), &clock);
    assert!(f.is_replay(arrival(1, 1)).await, "written behind");
    let _ = f.retry(arrival(2, 2)).await;
}

fn behind(f: &Fixture, event: u64) -> bool {
    let record = f.replay.0.claims.record(&arrival(event, 1).key).unwrap();
    record.behind
}

#[tokio::test]
async fn with_local_events_are_forwarded_while_the_disk_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000_000);
    let f = Fixture::open(options(dir.path(), OnStoreFailure::Local), &clock);
    f.break_disk(true);
    let _ = f.won_within(arrival(1, 1), SHORT).await.done(&ok(), false).await;
    let _ = f.won_within(arrival(2, 1), SHORT).await.done(&ok(), false).await;
    let _ = f.retry(arrival(1, 2)).await;
    f.break_disk(false);
    f.flush().await;
    drop(f);
    let f = open(dir.path(), &clock);
    assert_eq!(f.gauges(), (0, 2, 0));
}

#[tokio::test]
async fn expired_records_leave_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000_000);
    let f = open(dir.path(), &clock);
    let _ = f.won(arrival(1, 1)).await.done(&ok(), false).await;
    f.clock.advance(TTL / 2);
    let _ = f.won(arrival(2, 1)).await.done(&ok(), false).await;
    f.clock.advance(TTL / 2);
    f.replay.expire();
    f.flush().await;
    drop(f);
    // With the clock set back, what is in the files still lives.
    let f = open(dir.path(), &Clock::manual(1_000_000));
    assert_eq!(f.gauges(), (0, 1, 0));
    drop(f);
    clock.advance(TTL);
    let f = open(dir.path(), &clock);
    assert_eq!(f.gauges(), (0, 0, 0), "expired while no process ran");
    f.flush().await;
    drop(f);
    let f = open(dir.path(), &Clock::manual(1_000_000));
    assert_eq!(f.gauges(), (0, 0, 0));
}

#[tokio::test]
async fn records_beyond_max_entries_are_kept_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000_000);
    let f = open(dir.path(), &clock);
    for event in 0..20 {
        let _ = f.won(arrival(event, 1)).await.done(&ok(), false).await;
    }
    drop(f);
    let smaller = Options { max_entries: 10, ..options(dir.path(), OnStoreFailure::Refuse) };
    let f = Fixture::open(smaller, &clock);
    assert_eq!(f.gauges(), (0, 20, 0));
    assert_eq!(f.rejected(arrival(20, 1)).await, Reject::GuardFull);
    let _ = f.retry(arrival(0, 2)).await;
}

/// The journal's last record is cut off, or overwritten, at every one of its bytes.
#[tokio::test]
async fn a_torn_tail_is_dropped_and_nothing_before_it() {
    const EVENTS: u64 = 5;
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000_000);
    let f = open(dir.path(), &clock);
    let mut ends = Vec::new();
    for event in 0..=EVENTS {
        let claim = f.won(arrival(event, 1)).await;
        f.flush().await;
        if event == EVENTS {
            ends.push(end_of(dir.path()));
        }
        let _ = claim.done(&ok(), false).await;
        ends.push(end_of(dir.path()));
    }
    let whole = tempfile::tempdir().unwrap();
    copy_all(dir.path(), whole.path());
    drop(f);
    let (start, end) = (ends[ends.len() - 2], ends[ends.len() - 1]);
    assert!(start + 40 < end, "the last record has some bytes: {start}..{end}");
    let mut kept = 0;
    for tear in [Tear::Cut, Tear::Zeroes, Tear::Hole] {
        for at in start..end {
            let torn = tempfile::tempdir().unwrap();
            copy_all(whole.path(), torn.path());
            tear.apply(&journal::newest(torn.path()).unwrap().unwrap(), at, end);
            let f = open(torn.path(), &clock);
            for event in 0..EVENTS {
                let _ = f.retry(arrival(event, 2)).await;
            }
            // The rest may be whole already when the tear hits what pads it.
            let _ = f.won(arrival(EVENTS + 1, 1)).await.done(&ok(), false).await;
            kept += f.gauges().1 - i64::try_from(EVENTS).unwrap() - 1;
        }
    }
    assert!(kept < i64::try_from(end - start).unwrap(), "{kept} tears left the last record whole");
}

fn end_of(path: &Path) -> u64 {
    journal::read(&journal::newest(path).unwrap().unwrap()).unwrap().len() as u64
}

#[derive(Clone, Copy)]
enum Tear {
    Cut,
    Zeroes,
    /// A page that did not reach the disk while the ones after it did.
    Hole,
}

impl Tear {
    fn apply(self, path: &Path, at: u64, end: u64) {
        use std::io::{Seek, SeekFrom, Write};
        let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
        let length = usize::try_from(end - at).unwrap();
        match self {
            Tear::Cut => file.set_len(at).unwrap(),
            Tear::Zeroes | Tear::Hole => {
                file.seek(SeekFrom::Start(at)).unwrap();
                let zeroes = if let Tear::Zeroes = self { length } else { length.min(8) };
                file.write_all(&vec![0; zeroes]).unwrap();
            }
        }
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &to);
        } else {
            copy_sparse(&entry.path(), &to);
        }
    }
}

/// The journal's file is 64 MiB long and nearly all of it is a hole.
fn copy_sparse(from: &Path, to: &Path) {
    use std::io::{Read, Write};
    let length = fs::metadata(from).unwrap().len();
    let mut head = Vec::new();
    fs::File::open(from).unwrap().take(1 << 16).read_to_end(&mut head).unwrap();
    let mut file = fs::File::create(to).unwrap();
    file.write_all(&head).unwrap();
    file.set_len(length).unwrap();
}

#[test]
fn an_entry_is_read_as_it_was_written() {
    let mut answered = Identities::default();
    for identity in 1..=3 {
        answered.insert(RequestIdentity([identity; 16]));
    }
    let stages = [
        Stage::Claimed,
        Stage::Failed { unknown: false },
        Stage::Failed { unknown: true },
        Stage::Done { status: 204 },
    ];
    for stage in stages {
        for protects in [300_000, 7_000_000] {
            let entry = Entry {
                stage,
                pin: ContextPin([7; 16]),
                touched: 1,
                expires: 2,
                ttl: 7_000_000,
                protects: if matches!(stage, Stage::Done { .. }) { protects } else { 7_000_000 },
                share: ShareId(9),
                answered: answered.clone(),
            };
            let bytes = entry.encode();
            assert_eq!(Entry::decode(&bytes), Some(entry));
            for length in 0..bytes.len() {
                let cut = Entry::decode(&bytes[..length]);
                assert!(cut.is_none_or(|entry| entry.answered != answered), "{length} bytes");
            }
            let other_version = [&[3], &bytes[1..]].concat();
            assert_eq!(Entry::decode(&other_version), None);
        }
    }
}

#[test]
fn an_entry_without_a_share_is_read() {
    let identity = [3; 16];
    let entry = |window: u64| {
        let mut bytes = vec![1, 3, 200, 0];
        bytes.extend([7; 16]);
        for number in [1, 2, 86_400_000, window] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(identity);
        Entry::decode(&bytes).unwrap()
    };
    let expected = Entry {
        stage: Stage::Done { status: 200 },
        pin: ContextPin([7; 16]),
        touched: 1,
        expires: 2,
        ttl: 86_400_000,
        protects: 600_000,
        share: ShareId::GUARD,
        answered: Identities::from(RequestIdentity(identity)),
    };
    assert_eq!(entry(300_000), expected);
    assert_eq!(entry(u64::MAX), Entry { protects: 86_400_000, ..expected });
}

#[tokio::test]
async fn a_success_is_written_behind_only_after_the_response_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let f = open(dir.path(), &Clock::manual(1_000_000));
    let first = f.won_within(arrival(1, 1), Duration::from_secs(30)).await;
    let second = f.won_within(arrival(2, 1), SHORT).await;
    f.flush().await;
    f.break_disk(true);
    let started = Instant::now();
    let done = tokio::spawn(async move { first.done(&ok(), false).await });
    let _ = second.done(&ok(), false).await;
    assert!(started.elapsed() > SHORT / 2, "{:?}", started.elapsed());
    assert!(started.elapsed() < SHORT, "the response is late: {:?}", started.elapsed());
    assert!(behind(&f, 2));
    assert!(!done.is_finished(), "its sender still waits");
    f.break_disk(false);
    let _ = done.await.unwrap();
    assert!(!behind(&f, 1), "durable before it was acknowledged");
}

/// A file system that does not finish a write: the thread is inside a write meanwhile.
#[tokio::test]
async fn a_disk_that_hangs_counts_as_down_and_its_queue_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000_000);
    let small = Options { max_entries: 10, ..options(dir.path(), OnStoreFailure::Refuse) };
    let f = Fixture::open(small, &clock);
    let _ = f.won(arrival(0, 1)).await.done(&ok(), false).await;
    let claim = f.won_within(arrival(1, 1), SHORT).await;
    f.flush().await;
    let faults = Arc::clone(&f.disk().faults);
    let (hang, hangs) = (std::sync::mpsc::channel::<()>(), std::sync::mpsc::channel());
    let holder = std::thread::spawn(move || {
        let hanging = faults.hangs.lock();
        hangs.0.send(()).unwrap();
        let _ = hang.1.recv();
        drop(hanging);
    });
    hangs.1.recv().unwrap();
    claim.done(&ok(), false).await.written();
    until(|| {
        f.disk().check();
        f.store_up() == 0
    })
    .await;
    assert_eq!(f.rejected(arrival(2, 1)).await, Reject::StoreUnavailable);
    assert!(f.is_replay(arrival(1, 1)).await, "kept in this process");
    for request in 2..100 {
        f.retry(arrival(0, request)).await.written();
        assert_eq!(
            f.rejected(arrival(100 + u64::from(request), 1)).await,
            Reject::StoreUnavailable
        );
    }
    assert!(f.disk().queued() <= 10, "{}", f.disk().queued());
    drop(hang.0);
    holder.join().unwrap();
    until(|| f.store_up() == 1 && !behind(&f, 1)).await;
    let _ = f.won(arrival(2, 1)).await.done(&ok(), false).await;
    drop(f);
    let f = open(dir.path(), &clock);
    assert!(f.is_replay(arrival(1, 1)).await, "written behind");
}

#[tokio::test]
async fn a_damaged_store_is_an_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000_000);
    let f = open(dir.path(), &clock);
    for event in 0..20 {
        let _ = f.won(arrival(event, 1)).await.done(&ok(), false).await;
    }
    drop(f);
    let journal = journal::newest(dir.path()).unwrap().unwrap();
    let whole = fs::read(&journal).unwrap();
    // In the middle of what was made durable, so that it is not the torn end.
    let middle = journal::read(&journal).unwrap().len() / 2;
    let mut reported = 0;
    for (length, at) in [1, 64].iter().flat_map(|l| (0..90).step_by(9).map(move |at| (*l, at))) {
        let damaged = tempfile::tempdir().unwrap();
        copy_all(dir.path(), damaged.path());
        let journal = damaged.path().join(journal.file_name().unwrap());
        let mut bytes = whole.clone();
        bytes[middle + at..][..length].iter_mut().for_each(|byte| *byte ^= 0x5a);
        fs::write(&journal, &bytes).unwrap();
        let options = options(damaged.path(), OnStoreFailure::Refuse);
        let replay = Replay::open(options, clock.clone(), &Metrics::new().unwrap());
        let error = match replay {
            // Not every byte matters.
            Ok(replay) => {
                assert_eq!(replay.0.claims.used(), 20, "records are lost silently");
                continue;
            }
            Err(error) => error.to_string(),
        };
        reported += 1;
        for part in [
            &format!("the replay store at {} is damaged", damaged.path().display()),
            &*journal.display().to_string(),
            "Restore the directory from a backup, or move it away",
            "forwarded again",
        ] {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
        let left = fs::read(&journal).unwrap();
        assert!(
            left.starts_with(&bytes[..bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1]),
            "left as it was"
        );
    }
    assert!(reported > 10, "{reported} of 20 damages are reported");
}
