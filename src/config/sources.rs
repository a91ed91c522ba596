//! The files of a configuration, and whether they have changed since they were read.
//!
//! The files are polled, because kernel notifications have gaps. Polling costs one `stat` per file.
//! It follows the symbolic links by which an orchestrator swaps a whole directory (`..data`),
//! detects files that are replaced by a rename, and works on file systems without notifications
//! (network, overlay, bind mounts). Identity, length, `mtime` and `ctime` are compared, because a
//! program that copies a file with its old dates cannot reset `ctime`.

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

/// The polling interval. Files must be unchanged for one interval before they are read, so that a
/// change made in several steps causes one reload.
const INTERVAL: Duration = Duration::from_millis(500);
/// Longer files are compared by their metadata only.
const LONGEST: u64 = 1 << 20;

/// The metadata that changes when a file is replaced or written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A file as it was when it was read; both fields are `None` if it could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SourceFile {
    stamp: Option<Stamp>,
    content: Option<[u8; 32]>,
}

/// The files of a configuration, including those that could not be read.
#[derive(Clone, Debug, Default)]
pub struct Sources(BTreeMap<PathBuf, SourceFile>);

fn stamp(path: &Path) -> Option<Stamp> {
    let data = fs::metadata(path).ok()?;
    Some(Stamp {
        file: (data.dev(), data.ino()),
        length: data.len(),
        modified: (data.mtime(), data.mtime_nsec()),
        changed: (data.ctime(), data.ctime_nsec()),
    })
}

/// Returns a digest of a regular file's content. Other files are not read: reading a pipe would
/// consume its content.
fn content(path: &Path) -> Option<[u8; 32]> {
    let data = fs::metadata(path).ok().filter(|data| data.is_file() && data.len() <= LONGEST)?;
    let capacity = usize::try_from(data.len()).ok()?.saturating_add(64);
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    File::open(path).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
    Some(Sha256::digest(&*bytes).into())
}

impl Sources {
    /// Records a file. Call this before reading it.
    pub(super) fn add(&mut self, path: &Path) {
        let source = SourceFile { stamp: stamp(path), content: content(path) };
        self.0.entry(path.to_owned()).or_insert(source);
    }

    /// Records the files that were missing and exist now. In a valid configuration, only files that
    /// the gateway creates itself can be missing.
    pub fn note_created(&mut self) {
        for (path, source) in self.0.iter_mut().filter(|(_, source)| source.stamp.is_none()) {
            *source = SourceFile { stamp: stamp(path), content: content(path) };
        }
    }

    /// Returns the files whose content differs from `older`, including added and removed files.
    pub(super) fn changes(&self, older: &Sources) -> Vec<String> {
        let same = |path: &PathBuf, source: &SourceFile| {
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

    fn poll(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
        paths.iter().map(|path| stamp(path)).collect()
    }

    /// Waits until a file has changed since it was read, and all files have been unchanged for one
    /// polling interval.
    pub async fn changed(&self) {
        let read = self.stamps();
        let mut last = read.clone();
        loop {
            tokio::time::sleep(INTERVAL).await;
            let paths: Vec<PathBuf> = self.0.keys().cloned().collect();
            // A file system that hangs must not block the thread that accepts connections.
            let Ok(now) = tokio::task::spawn_blocking(move || Sources::poll(&paths)).await else {
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
    fn reports_the_files_whose_content_changed() {
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
    async fn detects_a_swapped_directory() {
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
    async fn detects_that_a_missing_file_appears() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("key");
        let mut sources = read(&[&path]);
        fs::write(&path, "key").expect("written");
        tokio::time::timeout(Duration::from_secs(20), sources.changed()).await.expect("seen");
        sources.note_created();
        assert_eq!(sources.stamps(), Sources::poll(&[path]));
    }
}
