//! A hash with a buffer for short pieces, which then reach it in one call.

use sha2::digest::Update;

/// The size of the buffer: the signed text of nearly all senders without the body fits.
const ROOM: usize = 192;

/// A hash and the pieces that have not reached it yet. Messages are written to a
/// `BufferedHash<dyn Update>`, whatever the hash.
pub(super) struct BufferedHash<H: ?Sized> {
    bytes: [u8; ROOM],
    used: usize,
    hash: H,
}

impl<H: Update> BufferedHash<H> {
    /// Starts with the state of `hash` and an empty buffer.
    #[inline]
    pub(super) fn before(hash: H) -> Self {
        BufferedHash { bytes: [0; ROOM], used: 0, hash }
    }

    /// Returns the hash after all pieces.
    #[inline]
    pub(super) fn taken(mut self) -> H {
        self.hash.update(&self.bytes[..self.used]);
        self.hash
    }
}

impl<H: Update + ?Sized> BufferedHash<H> {
    /// Adds the next piece.
    #[inline]
    pub(super) fn push(&mut self, piece: &[u8]) {
        match self.bytes.get_mut(self.used..self.used + piece.len()) {
            Some(room) => {
                room.copy_from_slice(piece);
                self.used += piece.len();
            }
            None => self.pass(piece),
        }
    }

    #[cold]
    fn pass(&mut self, piece: &[u8]) {
        self.hash.update(&self.bytes[..self.used]);
        self.hash.update(piece);
        self.used = 0;
    }
}
