//! What the writer thread of the store `disk` is asked to do.

use tokio::sync::oneshot;

use crate::replay::{record::EventKey, store::disk::entry::Entry};

/// A request to the writer thread.
#[derive(Debug)]
pub(crate) enum DiskOp {
    /// Write the newest state of a record.
    Put { key: EventKey, entry: Entry, on_written: OnWritten },
    /// Remove a record.
    Forget(EventKey),
    /// Reply when everything before this is in the files.
    Flush(oneshot::Sender<()>),
    /// End when everything before this is in the files, or cannot be written.
    Stop,
}

/// What happens when a record is in the files.
#[derive(Debug)]
pub(crate) enum OnWritten {
    /// Nothing.
    Nothing,
    /// A request that waits is notified; the sender is dropped if the record cannot be written now.
    Notify(oneshot::Sender<()>),
    /// The claim map marks the record as stored.
    MarkStored,
}

/// The newest state of a record that is not in the files yet.
#[derive(Debug, Default)]
pub(super) struct PendingWrite {
    /// `None`: the record is to be removed.
    pub(super) entry: Option<Entry>,
    pub(super) mark_stored: bool,
    pub(super) waiting: Vec<oneshot::Sender<()>>,
}
