//! The ledger of both ends: what the upstream received for each event and how it responded, and
//! what the sender received. The entries are in the order in which they happened, and they must be
//! consistent after every fault.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::{sync::Notify, time::timeout};

use super::{Connection, Event, PATIENCE, Reply};

/// Entry in the ledger of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// The sender sent a request.
    Asked,
    /// The upstream received the event.
    Forwarded {
        /// Whether it was marked as a possible duplicate.
        marked: bool,
    },
    /// The upstream wrote this response.
    Answered(u16),
    /// The upstream closed the connection without a response.
    BrokenOff,
    /// The sender read this response.
    Told(u16, Option<String>),
    /// The sender got no response.
    Unheard,
    /// The gateway was killed.
    Killed,
}

use Entry::{Answered, Asked, BrokenOff, Forwarded, Killed, Told, Unheard};

#[derive(Default)]
struct Books {
    events: BTreeMap<String, Vec<Entry>>,
    /// Whether the gateway is dead: the upstream then writes nothing.
    dead: bool,
}

/// Ledger of one upstream and its senders. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Ledger {
    books: Arc<Mutex<Books>>,
    news: Arc<Notify>,
}

/// Progress of an event when the gateway was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// The upstream had received it and had not responded.
    Claimed,
    /// The upstream had responded 2xx. The gateway had not recorded it, and forwarded the event
    /// again.
    Answered,
    /// The gateway had recorded the 2xx, and the sender had not read it.
    Committed,
}

impl Ledger {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("not poisoned")
    }

    /// Adds an entry.
    pub(crate) fn note(&self, event: &str, entry: Entry) {
        self.books().events.entry(event.to_owned()).or_default().push(entry);
        self.news.notify_waiters();
    }

    /// Records that the upstream received an event; returns how often it has received it.
    pub(crate) fn forwarded(&self, event: &str, marked: bool) -> usize {
        self.note(event, Forwarded { marked });
        self.of(event).iter().filter(|entry| matches!(entry, Forwarded { .. })).count()
    }

    /// Calls `write` and records the response of the upstream in one step, so that it was written
    /// before everything that follows it in the ledger. Writes nothing and returns `false` if the
    /// gateway is dead.
    pub(crate) fn answered(&self, event: &str, entry: Entry, write: impl FnOnce()) -> bool {
        let mut books = self.books();
        if !books.dead {
            write();
            books.events.entry(event.to_owned()).or_default().push(entry);
        }
        !books.dead
    }

    /// Kills the gateway with `kill`; returns `false` if it was dead already.
    pub(crate) fn kill(&self, kill: impl FnOnce()) -> bool {
        let mut books = self.books();
        let first = !std::mem::replace(&mut books.dead, true);
        if first {
            kill();
        }
        first
    }

    /// Records that the gateway was killed, after everything before that is in the ledger. From now
    /// on, another gateway runs. Acknowledged events get no entry, because the kill changes nothing
    /// for them.
    pub(crate) fn killed(&self) {
        let mut books = self.books();
        books.dead = false;
        for entries in books.events.values_mut() {
            if !entries.iter().any(|entry| matches!(entry, Told(200, _))) {
                entries.push(Killed);
            }
        }
    }

    /// Returns the entries of an event.
    pub(crate) fn of(&self, event: &str) -> Vec<Entry> {
        self.books().events.get(event).cloned().unwrap_or_default()
    }

    /// Returns all events.
    pub(crate) fn events(&self) -> Vec<String> {
        self.books().events.keys().cloned().collect()
    }

    /// Returns the number of entries of a kind, over all events.
    pub(crate) fn count(&self, kind: impl Fn(&Entry) -> bool) -> usize {
        self.books().events.values().flatten().filter(|entry| kind(entry)).count()
    }

    /// Waits until `copies` requests for the event were sent.
    pub(crate) async fn gathered(&self, event: &str, copies: usize) {
        self.until(event, |entries| entries.iter().filter(|e| **e == Asked).count() >= copies)
            .await;
    }

    /// Waits until the upstream has received the event.
    pub(crate) async fn reached(&self, event: &Event) {
        let forwarded = |entry: &Entry| matches!(entry, Forwarded { .. });
        self.until(&event.id, |entries| entries.iter().any(forwarded)).await;
    }

    async fn until(&self, event: &str, ready: impl Fn(&Vec<Entry>) -> bool) {
        let waiting = async {
            loop {
                let mut news = std::pin::pin!(self.news.notified());
                // Registers before the check, so that no notification is missed.
                news.as_mut().enable();
                if self.books().events.get(event).is_some_and(&ready) {
                    return;
                }
                news.await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("what is waited for happens");
    }

    /// Returns the stages of the events that were interrupted by their last kill.
    pub(crate) fn interrupted(&self, events: &[Event]) -> Vec<Stage> {
        events.iter().filter_map(|event| interrupted(&self.of(&event.id))).collect()
    }

    /// Fails if the ledger is inconsistent.
    pub(crate) fn agree(&self) {
        let books = self.books();
        assert!(!books.events.is_empty(), "something happened");
        for (event, entries) in &books.events {
            if let Err(wrong) = audit(entries) {
                panic!("{wrong}, event {event}: {entries:?}");
            }
        }
    }

    /// Fails if the ledger is inconsistent, or if an event was not acknowledged in the end.
    pub(crate) fn agree_that_all_is_done(&self) {
        self.agree();
        for (event, entries) in &self.books().events {
            let done = entries.iter().any(|entry| matches!(entry, Told(200, _)));
            assert!(done, "swallowed: event {event}: {entries:?}");
        }
    }
}

/// Sends a request and reads the response, if there is one, and records both.
pub(crate) async fn ask(
    connection: &mut Connection,
    ledger: &Ledger,
    event: &Event,
) -> Option<Reply> {
    ledger.note(&event.id, Asked);
    connection.write(&event.request()).await;
    let reply = connection.read().await;
    let entry = reply.as_ref().map_or(Unheard, |reply| {
        Told(reply.status, reply.header("sealgate-answer").map(str::to_owned))
    });
    ledger.note(&event.id, entry);
    reply
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// Checks the entries of an event.
fn audit(entries: &[Entry]) -> Result<(), &'static str> {
    let (mut under_way, mut told, mut succeeded, mut standing) = (false, false, false, false);
    let (mut must_mark, mut may_mark) = (false, false);
    for entry in entries {
        match entry {
            Asked | Unheard => {}
            Forwarded { .. } if under_way => return Err("two forwards in flight"),
            Forwarded { .. } if told => return Err("forwarded again after it was acknowledged"),
            Forwarded { .. } if standing => return Err("forwarded again after its success"),
            Forwarded { marked: false } if must_mark => {
                return Err("not marked as a possible duplicate");
            }
            Forwarded { marked: true } if !may_mark => {
                return Err("marked as a possible duplicate without a reason");
            }
            Forwarded { .. } => under_way = true,
            Answered(status) => {
                under_way = false;
                standing |= is_success(*status);
                succeeded |= is_success(*status);
            }
            BrokenOff => (under_way, must_mark, may_mark) = (false, true, true),
            Told(status, _) if is_success(*status) && !succeeded => {
                return Err("acknowledged, although the upstream never accepted it");
            }
            Told(409, answer) if answer.as_deref() != Some("replay") || !succeeded => {
                return Err("rejected, although it was never acknowledged");
            }
            Told(status, _) => told |= is_success(*status),
            // The gateway is not responsible for what it had not received or not recorded. It may
            // have recorded a claim for an event that never reached the upstream, and it need not
            // have recorded one for an event that did.
            Killed => {
                (must_mark, may_mark) = (false, true);
                (under_way, standing) = (false, false);
            }
        }
    }
    Ok(())
}

/// Returns the progress of the event at the last kill, if that was between its request and its
/// response.
fn interrupted(entries: &[Entry]) -> Option<Stage> {
    let killed = entries.iter().rposition(|entry| *entry == Killed)?;
    let (before, after) = entries.split_at(killed);
    let start = before.iter().rposition(|entry| *entry == Killed).map_or(0, |last| last + 1);
    if before.iter().any(|entry| matches!(entry, Told(200, _))) {
        return None;
    }
    let upstream = |entry: &&Entry| matches!(entry, Forwarded { .. } | Answered(_) | BrokenOff);
    match before[start..].iter().rfind(upstream)? {
        Forwarded { .. } => Some(Stage::Claimed),
        Answered(status) if is_success(*status) => {
            let next = after.iter().find(|e| matches!(e, Forwarded { .. } | Told(200, _)));
            Some(match next {
                Some(Told(..)) => Stage::Committed,
                _ => Stage::Answered,
            })
        }
        _ => None,
    }
}

#[test]
fn detects_inconsistent_entries() {
    let told = |status| Told(status, None);
    let forwarded = Forwarded { marked: false };
    let marked = Forwarded { marked: true };
    for (entries, wrong) in [
        (vec![Asked, forwarded.clone(), Answered(200), told(200)], None),
        (vec![Asked, forwarded.clone(), Answered(500), told(500), forwarded.clone()], None),
        (vec![forwarded.clone(), BrokenOff, told(502), marked.clone()], None),
        (vec![forwarded.clone(), Killed, marked.clone(), Answered(200), told(200)], None),
        (vec![forwarded.clone(), Answered(200), Killed, marked.clone()], None),
        (vec![forwarded.clone(), Answered(200), Killed, told(200)], None),
        (vec![Asked, told(200)], Some("acknowledged, although the upstream never accepted it")),
        (
            vec![forwarded.clone(), Killed, told(200)],
            Some("acknowledged, although the upstream never accepted it"),
        ),
        (vec![forwarded.clone(), forwarded.clone()], Some("two forwards in flight")),
        (
            vec![forwarded.clone(), Answered(200), forwarded.clone()],
            Some("forwarded again after its success"),
        ),
        (
            vec![forwarded.clone(), Answered(200), told(200), Killed, forwarded.clone()],
            Some("forwarded again after it was acknowledged"),
        ),
        (
            vec![forwarded.clone(), BrokenOff, forwarded.clone()],
            Some("not marked as a possible duplicate"),
        ),
        (vec![marked], Some("marked as a possible duplicate without a reason")),
        (vec![told(409)], Some("rejected, although it was never acknowledged")),
    ] {
        assert_eq!(audit(&entries).err(), wrong, "{entries:?}");
    }
    let killed = |answer: Vec<Entry>, after: Entry| {
        interrupted(&[vec![Asked, forwarded.clone()], answer, vec![Killed, after]].concat())
    };
    assert_eq!(killed(vec![], forwarded.clone()), Some(Stage::Claimed));
    assert_eq!(killed(vec![Answered(200)], forwarded.clone()), Some(Stage::Answered));
    assert_eq!(killed(vec![Answered(200)], told(200)), Some(Stage::Committed));
    assert_eq!(killed(vec![Answered(200), told(200)], told(200)), None);
    assert_eq!(killed(vec![Answered(500)], forwarded.clone()), None);
}
