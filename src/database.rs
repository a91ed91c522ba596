//! Embedded databases: opening the files, dropping what a power failure left half-written, and
//! reporting damage. The stores in `replay` and `events` use one each.

use std::{
    fmt,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use fjall::{Database, DatabaseBuilder};

mod health;
pub(crate) mod journal;

pub(crate) use self::health::DiskHealth;

/// What a database is, in messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DatabaseKind {
    /// Its name.
    pub(crate) name: &'static str,
    /// What happens if it is replaced by an empty one.
    pub(crate) loss: &'static str,
}

/// The files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    #[error(
        "the {} at {} is held by another process: only one gateway at a time can use it",
        .0.name,
        .1.display()
    )]
    Held(DatabaseKind, PathBuf),
    #[error("the {} at {} cannot be used: {}", .0.name, .1.display(), .2)]
    Unusable(DatabaseKind, PathBuf, String),
    #[error(
        "the {} at {} is damaged: {}. Restore the directory from a backup, or move it away to \
         start with an empty store: {}",
        .0.name,
        .1.display(),
        .2,
        .0.loss
    )]
    Damaged(DatabaseKind, PathBuf, Damage),
    #[error("the thread of the {} cannot be started: {}", .0.name, .1)]
    Thread(DatabaseKind, std::io::Error),
}

impl DiskError {
    pub(crate) fn new(kind: DatabaseKind, path: &Path, error: fjall::Error) -> Self {
        match error {
            fjall::Error::Locked => DiskError::Held(kind, path.into()),
            error if is_damage(&error) => {
                DiskError::Damaged(kind, path.into(), Damage::of(path, &error))
            }
            error => DiskError::Unusable(kind, path.into(), reason(&error)),
        }
    }
}

/// A damaged part of a database.
#[derive(Debug)]
pub(crate) struct Damage {
    file: PathBuf,
    cause: String,
}

impl Damage {
    /// Returns the part of the database at `path` that `error` is about. fjall names the kind of
    /// file and not the file, so below `keyspaces` this is a directory.
    fn of(path: &Path, error: &fjall::Error) -> Self {
        let file = match error {
            fjall::Error::JournalRecovery(_)
            | fjall::Error::InvalidTag(_)
            | fjall::Error::InvalidTrailer => journal::newest(path).ok().flatten(),
            fjall::Error::Storage(_) | fjall::Error::Unrecoverable => Some(path.join("keyspaces")),
            _ => None,
        };
        Damage { file: file.unwrap_or_else(|| path.into()), cause: reason(error) }
    }

    /// Returns the damage of a database at `path` with an entry that cannot be decoded.
    pub(crate) fn unreadable_record(path: &Path) -> Self {
        let cause = "a record was written by a newer version of sealgate, or overwritten";
        Damage { file: path.join("keyspaces"), cause: cause.into() }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.file.is_dir() { "a file in " } else { "" };
        write!(f, "{kind}{} cannot be read ({})", self.file.display(), self.cause)
    }
}

/// Returns the text of the innermost error. fjall's own text is the `Debug` form of its error.
pub(crate) fn reason(error: &fjall::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Returns whether the error is about the content of the files.
fn is_damage(error: &fjall::Error) -> bool {
    match error {
        fjall::Error::Locked => false,
        fjall::Error::Io(error) => {
            matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData)
        }
        _ => true,
    }
}

/// Opens the database at `path` with `try_open`, after dropping a last batch that was written in
/// part. Each batch must have been durable before the next one was written.
///
/// # Errors
/// Also if other batches cannot be read; the journal is then left as it was.
pub(crate) fn open<T>(
    kind: DatabaseKind,
    path: &Path,
    try_open: impl Fn(DatabaseBuilder<Database>) -> fjall::Result<T>,
) -> fjall::Result<T> {
    let try_open = || try_open(Database::builder(path));
    let before = journal::Before::read(path)?;
    let (opened, cut) = match (try_open(), &before) {
        (Err(fjall::Error::JournalRecovery(_)), Some(before)) => {
            before.cut_last_batch()?;
            (try_open(), true)
        }
        (opened, _) => (opened, false),
    };
    if let Some(before) = before {
        if opened.is_ok() && before.has_lost_batches()? {
            drop(opened);
            before.restore()?;
            return Err(fjall::Error::InvalidTrailer);
        }
        match &opened {
            Ok(_) if cut => tracing::warn!(
                path = %path.display(),
                "the {}'s last records were written in part and are dropped", kind.name
            ),
            Err(_) if cut => before.restore()?,
            Ok(_) | Err(_) => {}
        }
    }
    opened
}
