//! The scripts and their calls. The server runs a script atomically.

use std::sync::LazyLock;

use data_encoding::HEXLOWER;
use redis::Cmd;
use sha1::{Digest, Sha1};

/// A reply: a list of byte strings.
pub(super) type Words = Vec<Vec<u8>>;

/// One script.
pub(super) struct Script {
    pub(super) code: &'static str,
    digest: LazyLock<String>,
}

impl Script {
    /// Returns a call of the script for one key.
    pub(super) fn call(&self, key: &Key, args: &[&[u8]]) -> Call {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.digest.as_str()).arg(1).arg(key.name.as_str());
        for arg in args {
            command.arg(*arg);
        }
        Call { command, slot: key.slot }
    }
}

macro_rules! scripts {
    ($($name:ident = $file:literal),* $(,)?) => {
        $(pub(super) static $name: Script = Script {
            code: include_str!($file),
            digest: LazyLock::new(|| HEXLOWER.encode(&Sha1::digest(include_str!($file)))),
        };)*
        /// All scripts.
        pub(super) static SCRIPTS: [&Script; [$($file),*].len()] = [$(&$name),*];
    };
}

scripts! {
    CLAIM = "claim.lua",
    DONE = "done.lua",
    FAILED = "failed.lua",
    FORGET = "forget.lua",
    RENEW = "renew.lua",
    STATUS = "status.lua",
}

/// A command for one key.
pub(super) struct Call {
    pub(super) command: Cmd,
    pub(super) slot: u16,
}

/// A key: `<prefix>{<tag>}`. In a cluster, the tag alone determines the slot.
pub(super) struct Key {
    name: String,
    slot: u16,
}

impl Key {
    pub(super) fn new(prefix: &str, tag: &str) -> Self {
        Key { name: format!("{prefix}{{{tag}}}"), slot: slot(tag.as_bytes()) }
    }

    /// Returns a write that changes nothing, because it overwrites a key that never exists. A
    /// server that does not accept writes rejects it.
    pub(super) fn probe(&self) -> Call {
        let mut command = redis::cmd("SET");
        command.arg(self.name.as_str()).arg(1).arg("XX");
        Call { command, slot: self.slot }
    }
}

/// The number of slots in a cluster.
pub(super) const SLOTS: u16 = 16_384;

/// Returns the slot of a hash tag: its CRC-16 (XMODEM) modulo [`SLOTS`] (Redis Cluster
/// specification, "Key distribution model").
pub(super) fn slot(tag: &[u8]) -> u16 {
    let crc = tag.iter().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            (crc << 1) ^ (if crc & 0x8000 == 0 { 0 } else { 0x1021 })
        })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        // The check value of CRC-16/XMODEM is 0x31C3.
        assert_eq!(slot(b"123456789"), 0x31C3);
        // `CLUSTER KEYSLOT foo`.
        assert_eq!(slot(b"foo"), 12_182);
    }
}
