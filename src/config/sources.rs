//! The files that a configuration is made of, and whether they have changed since they were read.
//!
//! They are looked at again and again rather than watched by the kernel. A look costs a `stat` a
//! file; it follows the links by which an orchestrator swaps a whole directory (`..data`), sees files
//! that are replaced by a rename, and works where no file system tells of changes (network, overlay,
//! bind mounts). What is compared is identity, length and both times: the time of the last change of
//! the inode cannot be set back by a program that copies a file with its old dates.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// How often the files are looked at. They must stay as they are from one look to the next before
/// they are read, so that what is written in several steps is taken once.
const LOOK: Duration = Duration::from_millis(500);
/// Longer files are compared by their stamps only.
const LONGEST: u64 = 1 << 20;

/// What tells that a file is another one or was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A file as it was when it was read; both are `None` if it could not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Source {
    stamp: Option<Stamp>,
    content: Option<[u8; 32]>,
}

/// The files of a configuration, whether they could be read or not.
#[derive(Clone, Debug, Default)]
pub struct Sources(BTreeMap<PathBuf, Source>);

fn stamp(path: &Path) -> Option<Stamp> {
    let data = fs::metadata(path).ok()?;
    Some(Stamp {
        file: (data.dev(), data.ino()),
        length: data.len(),
        modified: (data.mtime(), data.mtime_nsec()),
        changed: (data.ctime(), data.ctime_nsec()),
    })
}

/// A digest of a regular file's content. Nothing else is read: what is read from a pipe is gone.
fn content(path: &Path) -> Option<[u8; 32]> {
    let data = fs::metadata(path).ok().filter(|data| data.is_file() && data.len() <= LONGEST)?;
    let capacity = usize::try_from(data.len()).ok()?.saturating_add(64);
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    File::open(path).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
    Some(Sha256::digest(&*bytes).into())
}

impl Sources {
    /// Notes a file, before it is read.
    pub(super) fn add(&mut self, path: &Path) {
        let source = Source { stamp: stamp(path), content: content(path) };
        self.0.entry(path.to_owned()).or_insert(source);
    }

    /// Notes the files that were made since: of those that must be there, none is missing in a
    /// configuration that was taken.
    pub fn note_made(&mut self) {
        for (path, source) in self.0.iter_mut().filter(|(_, source)| source.stamp.is_none()) {
            *source = Source { stamp: stamp(path), content: content(path) };
        }
    }

    /// The files whose content is another one than in `older`, those that came and those that went.
    pub(super) fn changes(&self, older: &Sources) -> Vec<String> {
        let same = |path: &PathBuf, source: &Source| {
            older.0.get(path).is_some_and(|known| match (known.content, source.content) {
                (Some(known), Some(now)) => known == now,
                (None, _) | (_, None) => known.stamp == source.stamp,
            })
        };
        let changed = self.0.iter().filter(|(path, source)| !same(path, source));
        let gone = older.0.iter().filter(|(path, _)| !self.0.contains_key(*path));
        changed.chain(gone).map(|(path, _)| path.display().to_string()).collect()
    }

    fn stamps(&self) -> Vec<Option<Stamp>> {
        self.0.values().map(|source| source.stamp).collect()
    }

    fn look(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
        paths.iter().map(|path| stamp(path)).collect()
    }

    /// Waits until a file is another one than was read, and all have stayed as they are since the last
    /// look.
    pub async fn changed(&self) {
        let read = self.stamps();
        let mut last = read.clone();
        loop {
            tokio::time::sleep(LOOK).await;
            let paths: Vec<PathBuf> = self.0.keys().cloned().collect();
            // A file system that does not answer must not stop the thread that accepts.
            let Ok(now) = tokio::task::spawn_blocking(move || Sources::look(&paths)).await else {
                return;
            };
            if now != read && now == last {
                return;
            }
            last = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn read(paths: &[&Path]) -> Sources {
        let mut sources = Sources::default();
        paths.iter().for_each(|path| sources.add(path));
        sources
    }

    #[test]
    fn content_tells_which_files_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let (a, b, c) = (path("a"), path("b"), path("c"));
        for (path, text) in [(&a, "a"), (&b, "b")] {
            fs::write(path, text).expect("written");
        }
        let before = read(&[&a, &b]);
        fs::write(&a, "a").expect("written");
        fs::write(&b, "B").expect("written");
        assert_eq!(read(&[&a, &b]).changes(&before), [b.display().to_string()]);
        assert_eq!(read(&[&a]).changes(&before), [b.display().to_string()]);
        assert_eq!(read(&[&a, &b, &c]).changes(&read(&[&a, &b])), [c.display().to_string()]);
    }

    #[tokio::test]
    async fn a_swapped_directory_is_a_change() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        for version in ["v1", "v2"] {
            fs::create_dir(path(version)).expect("made");
            fs::write(path(version).join("key"), "same").expect("written");
        }
        symlink("v1", path("..data")).expect("linked");
        symlink("..data/key", path("key")).expect("linked");
        let sources = read(&[&path("key")]);
        let watching = tokio::spawn({
            let sources = sources.clone();
            async move { sources.changed().await }
        });
        symlink("v2", path("..new")).expect("linked");
        fs::rename(path("..new"), path("..data")).expect("swapped");
        tokio::time::timeout(Duration::from_secs(20), watching)
            .await
            .expect("the swap is seen")
            .expect("it ends");
        assert!(read(&[&path("key")]).changes(&sources).is_empty(), "the content is the same");
    }

    #[tokio::test]
    async fn a_file_that_was_missing_is_a_change_when_it_comes() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key");
        let mut sources = read(&[&path]);
        fs::write(&path, "key").expect("written");
        tokio::time::timeout(Duration::from_secs(20), sources.changed()).await.expect("seen");
        sources.note_made();
        assert_eq!(sources.stamps(), Sources::look(&[path]));
    }
}
