//! The end of the journal after a loss of power, and damage before its end.
//!
//! fjall drops a batch that ends early. If the end of a batch reached the disk and a page before it
//! did not, its checksum is wrong, and fjall opens nothing. Since each batch is durable before the
//! next one is written, such a batch is the last one of the journal and nobody relies on it: it may
//! be cut off.
//!
//! For the same reason, any other batch that cannot be read is damage. fjall may then silently drop
//! it with everything after it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// The end of a batch: a tag, a checksum of eight bytes, and four fixed bytes.
const END_TAG: u8 = 3;
const END_FIXED: &[u8; 4] = b"FJL\x03";
const END: usize = 1 + 8 + 4;

/// The journal as it was before it was opened.
pub(crate) struct Before {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Before {
    /// Reads the newest journal under `path`; `None` if there is none.
    pub(crate) fn read(path: &Path) -> io::Result<Option<Self>> {
        let Some(path) = newest(path).unwrap_or_default() else { return Ok(None) };
        let bytes = read(&path)?;
        Ok(Some(Before { path, bytes }))
    }

    /// Returns whether batches are missing now that were not the last one.
    pub(crate) fn has_lost_batches(&self) -> io::Result<bool> {
        let Some(needed) = ends(&self.bytes).rev().nth(1) else { return Ok(false) };
        match read(&self.path) {
            Ok(bytes) => Ok(bytes.len() < needed),
            // Its records are in other files now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Cuts the last batch off.
    pub(crate) fn cut_last_batch(&self) -> io::Result<()> {
        let cut = ends(&self.bytes).rev().nth(1).unwrap_or(0);
        let file = OpenOptions::new().write(true).open(&self.path)?;
        file.set_len(cut as u64)?;
        file.sync_all()
    }

    /// Writes the journal as it was.
    pub(crate) fn restore(&self) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(&self.path)?;
        file.write_all(&self.bytes)?;
        file.sync_all()
    }
}

/// Returns the journal that is written to.
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

/// Reads the written part of a journal: the file is created full of zeros.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    const CHUNK: usize = 64 << 10;
    let mut file = File::open(path)?;
    let (mut bytes, mut zeros, mut chunk) = (Vec::new(), 0, vec![0; CHUNK]);
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            length if chunk[..length] == [0; CHUNK][..length] => zeros += length,
            length => {
                bytes.resize(bytes.len() + zeros, 0);
                zeros = 0;
                bytes.extend_from_slice(&chunk[..length]);
            }
        }
    }
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    Ok(bytes)
}

/// Returns the ends of the batches.
fn ends(bytes: &[u8]) -> impl DoubleEndedIterator<Item = usize> + '_ {
    (END..=bytes.len()).filter(|end| {
        let batch_end = &bytes[end - END..*end];
        batch_end[0] == END_TAG && batch_end.ends_with(END_FIXED)
    })
}
