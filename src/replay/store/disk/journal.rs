//! The journal's torn end, after a loss of power.
//!
//! fjall drops a batch that ends early. One whose end reached the disk while a page before it did
//! not fails its checksum, and then fjall opens nothing. Since batches are made durable one after the
//! other, such a batch is the last one of the journal and nobody was told that it is durable: it
//! may be cut off.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// What ends a batch: a tag, a checksum of eight bytes, and four fixed bytes.
const END_TAG: u8 = 3;
const END_FIXED: &[u8; 4] = b"FJL\x03";
const END: usize = 1 + 8 + 4;

/// A journal whose last batch was cut off.
pub(super) struct Torn {
    path: PathBuf,
    tail: Vec<u8>,
}

impl Torn {
    /// Puts the last batch back: it was not what is wrong with the journal.
    pub(super) fn restore(&self) -> io::Result<()> {
        OpenOptions::new().append(true).open(&self.path)?.write_all(&self.tail)
    }
}

/// Cuts the last batch off the newest journal under `path`.
pub(super) fn cut_torn_tail(path: &Path) -> io::Result<Torn> {
    let path = newest(path)?.ok_or(io::ErrorKind::NotFound)?;
    let mut bytes = fs::read(&path)?;
    bytes.truncate(written(&bytes));
    let cut = ends(&bytes).rev().nth(1).unwrap_or(0);
    let file = OpenOptions::new().write(true).open(&path)?;
    file.set_len(cut as u64)?;
    file.sync_all()?;
    Ok(Torn { path, tail: bytes.split_off(cut) })
}

/// The journal that is written to.
pub(crate) fn newest(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse::<u64>().ok());
        if let Some(number) = number
            && newest.as_ref().is_none_or(|(other, _)| *other < number)
        {
            newest = Some((number, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// How many bytes of a journal are written: its file is made with a long rest of zeroes.
pub(crate) fn written(bytes: &[u8]) -> usize {
    const PAGE: usize = 4096;
    let rest = bytes.rchunks(PAGE).take_while(|page| **page == [0; PAGE][..page.len()]).count();
    let pages = bytes.len().saturating_sub(rest * PAGE);
    bytes[..pages].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// Where batches end.
fn ends(bytes: &[u8]) -> impl DoubleEndedIterator<Item = usize> + '_ {
    (END..=bytes.len()).filter(|end| {
        let batch_end = &bytes[end - END..*end];
        batch_end[0] == END_TAG && batch_end.ends_with(END_FIXED)
    })
}
