//! Rejected requests as files that `sealgate verify` reads.
//!
//! A file is written under a temporary name and then renamed, so that nobody reads half of one. Its
//! name consists of the time and the request ID; only files with such names are counted and
//! removed.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, mpsc::Receiver},
    time::{Duration, Instant},
};

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};

use super::Rejection;
use crate::target;

/// The suffix of captured requests.
const SUFFIX: &str = ".http";
/// The suffix of files that are still being written.
const UNFINISHED: &str = ".http.part";
/// The time between two log lines about files that cannot be written.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Where rejected requests are kept, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureOptions {
    /// The directory; created if necessary, readable by the gateway's user only.
    pub dir: PathBuf,
    /// The most files.
    pub keep: usize,
    /// The most bytes of all files together.
    pub max_bytes: u64,
}

/// Writes what arrives. Errors are logged once a minute.
pub(super) fn write_all(rejections: &Receiver<Arc<Rejection>>, options: &CaptureOptions) {
    let mut warned: Option<Instant> = None;
    let result = remove_unfinished(&options.dir);
    for failed in std::iter::once(result).chain(rejections.iter().map(|r| write(&r, options))) {
        if let Err(error) = failed
            && warned.is_none_or(|at| at.elapsed() > WARN_EVERY)
        {
            let dir = options.dir.display();
            tracing::warn!(%dir, %error, "rejected requests cannot be written to files");
            warned = Some(Instant::now());
        }
    }
}

/// Writes one request and removes old ones to stay within the limits.
fn write(rejection: &Rejection, options: &CaptureOptions) -> io::Result<()> {
    let head = head(rejection);
    let length = (head.len() + rejection.payload.len()) as u64;
    if length > options.max_bytes {
        return Err(io::Error::other("a request is longer than `max_bytes`"));
    }
    let dir = &options.dir;
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    remove_oldest(options, length)?;
    let id = rejection.request_id.to_str().unwrap_or("");
    let name = format!("{:013}-{id}", rejection.at.0);
    let unfinished = dir.join(format!("{name}{UNFINISHED}"));
    let written = write_file(&unfinished, &head, rejection)
        .and_then(|()| fs::rename(&unfinished, dir.join(format!("{name}{SUFFIX}"))));
    if written.is_err() {
        // If it cannot be removed now, the next start removes it.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

fn write_file(path: &Path, head: &[u8], rejection: &Rejection) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut out = BufWriter::new(&mut file);
    out.write_all(head)?;
    for chunk in rejection.payload.chunks() {
        out.write_all(chunk)?;
    }
    out.flush()
}

/// Returns the head of a request in the form of HTTP/1.1, whatever its protocol was.
fn head(rejection: &Rejection) -> Vec<u8> {
    let head = &rejection.head;
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
    line("content-length", rejection.payload.len().to_string().as_bytes());
    text.extend_from_slice(b"\r\n");
    text
}

/// Returns the captured requests of a directory, oldest first, with their lengths.
fn captured(dir: &Path, suffix: &str) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if is_capture(&entry.file_name().to_string_lossy(), suffix) {
            files.push((entry.path(), entry.metadata().map_or(0, |metadata| metadata.len())));
        }
    }
    files.sort();
    Ok(files)
}

/// Returns whether a name consists of 13 digits, a request ID and the suffix.
fn is_capture(name: &str, suffix: &str) -> bool {
    let parts = name.strip_suffix(suffix).and_then(|name| name.split_once('-'));
    parts.is_some_and(|(time, id)| {
        time.len() == 13
            && time.bytes().all(|byte| byte.is_ascii_digit())
            && id.len() == 32
            && id.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// Removes the oldest files until another one of `length` bytes may be written.
fn remove_oldest(options: &CaptureOptions, length: u64) -> io::Result<()> {
    let files = captured(&options.dir, SUFFIX)?;
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

/// Removes files that a process left unfinished when it ended.
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
    fn other_files_are_not_captures() {
        let id = "0123456789abcdef0000000000000001";
        assert!(is_capture(&format!("1758184391752-{id}.http"), SUFFIX));
        for foreign in [
            "notes.http".to_owned(),
            format!("{id}.http"),
            format!("175818439175x-{id}.http"),
            format!("1758184391752-{id}.http.part"),
            format!("1758184391752-{id}"),
        ] {
            assert!(!is_capture(&foreign, SUFFIX), "{foreign}");
        }
    }
}
