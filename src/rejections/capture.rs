//! Refused requests as files that `sealgate verify` reads.
//!
//! A file is written beside its place and then renamed, so that nobody reads half of one. Its name is
//! made of the time and of our request id; only files with such names are counted and removed.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, mpsc::Receiver},
    time::{Duration, Instant},
};

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};

use super::Refusal;
use crate::target;

/// How names of captured requests end.
const ENDING: &str = ".http";
/// How names of files end that are not yet whole.
const UNFINISHED: &str = ".http.part";
/// Between two lines of the log about a disk that does not take files.
const QUIET: Duration = Duration::from_secs(60);

/// Where refused requests are kept, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureOptions {
    /// The directory; made if it is not there, for the gateway's user only.
    pub dir: PathBuf,
    /// The most files.
    pub keep: usize,
    /// The most bytes of all files together.
    pub max_bytes: u64,
}

/// Writes what comes. A disk that takes nothing is told in the log, once a minute.
pub(super) fn write_all(rejections: &Receiver<Arc<Refusal>>, options: &CaptureOptions) {
    let mut told: Option<Instant> = None;
    let result = remove_unfinished(&options.dir);
    for failed in std::iter::once(result).chain(rejections.iter().map(|r| write(&r, options))) {
        if let Err(error) = failed
            && told.is_none_or(|at| at.elapsed() > QUIET)
        {
            let dir = options.dir.display();
            tracing::warn!(%dir, %error, "refused requests cannot be written into files");
            told = Some(Instant::now());
        }
    }
}

/// Writes one request, and removes old ones so that the bounds hold.
fn write(refusal: &Refusal, options: &CaptureOptions) -> io::Result<()> {
    let head = head(refusal);
    let length = (head.len() + refusal.payload.len()) as u64;
    if length > options.max_bytes {
        return Err(io::Error::other("a request is longer than `max_bytes`"));
    }
    let dir = &options.dir;
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    make_room(options, length)?;
    let id = refusal.request_id.to_str().unwrap_or("");
    let name = format!("{:013}-{id}", refusal.at.0);
    let unfinished = dir.join(format!("{name}{UNFINISHED}"));
    let written = write_file(&unfinished, &head, refusal)
        .and_then(|()| fs::rename(&unfinished, dir.join(format!("{name}{ENDING}"))));
    if written.is_err() {
        // What is left of it is removed at the next start, if it cannot be now.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

fn write_file(path: &Path, head: &[u8], refusal: &Refusal) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut out = BufWriter::new(&mut file);
    out.write_all(head)?;
    for chunk in refusal.payload.chunks() {
        out.write_all(chunk)?;
    }
    out.flush()
}

/// The head of a request as HTTP/1.1 would have it, whatever it came by.
fn head(refusal: &Refusal) -> Vec<u8> {
    let head = &refusal.head;
    let path = target::path_and_query(&head.uri).unwrap_or("/".into());
    let mut text = format!("{} {path} HTTP/1.1\r\n", head.method).into_bytes();
    let mut line = |name: &str, value: &[u8]| {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            text.extend_from_slice(part);
        }
    };
    if let (None, Some(host)) = (head.headers.get(HOST), head.uri.authority()) {
        line("host", host.as_str().as_bytes());
    }
    for (name, value) in &head.headers {
        if name != TRANSFER_ENCODING && name != CONTENT_LENGTH {
            line(name.as_str(), value.as_bytes());
        }
    }
    line("content-length", refusal.payload.len().to_string().as_bytes());
    text.extend_from_slice(b"\r\n");
    text
}

/// The captured requests of a directory, oldest first, with their lengths.
fn captured(dir: &Path, ending: &str) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if is_ours(&entry.file_name().to_string_lossy(), ending) {
            files.push((entry.path(), entry.metadata().map_or(0, |metadata| metadata.len())));
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a name is made of 13 digits, a request id and the ending.
fn is_ours(name: &str, ending: &str) -> bool {
    let parts = name.strip_suffix(ending).and_then(|name| name.split_once('-'));
    parts.is_some_and(|(time, id)| {
        time.len() == 13
            && time.bytes().all(|byte| byte.is_ascii_digit())
            && id.len() == 32
            && id.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// Removes the oldest files until another one of `length` bytes may be written.
fn make_room(options: &CaptureOptions, length: u64) -> io::Result<()> {
    let files = captured(&options.dir, ENDING)?;
    let mut bytes = files.iter().map(|(_, length)| length).sum::<u64>();
    let mut left = files.len();
    for (path, old) in files {
        if left < options.keep && bytes.saturating_add(length) <= options.max_bytes {
            break;
        }
        fs::remove_file(path)?;
        bytes = bytes.saturating_sub(old);
        left -= 1;
    }
    Ok(())
}

/// Removes what a process left that ended while it wrote.
fn remove_unfinished(dir: &Path) -> io::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for (path, _) in captured(dir, UNFINISHED)? {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_our_names_are_ours() {
        let id = "0123456789abcdef0000000000000001";
        assert!(is_ours(&format!("1758184391752-{id}.http"), ENDING));
        for foreign in [
            "notes.http".to_owned(),
            format!("{id}.http"),
            format!("175818439175x-{id}.http"),
            format!("1758184391752-{id}.http.part"),
            format!("1758184391752-{id}"),
        ] {
            assert!(!is_ours(&foreign, ENDING), "{foreign}");
        }
    }
}
