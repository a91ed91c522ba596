//! Short pieces on their way into a hash, put together so that it takes them in one go.

use sha2::digest::Update;

/// So many bytes are held back: the signed text of nearly all senders, without the body.
const ROOM: usize = 192;

/// A hash, and what it has not taken yet. Whatever the hash, it is fed as a `BufferedHash<dyn Update>`.
pub(super) struct BufferedHash<H: ?Sized> {
    bytes: [u8; ROOM],
    used: usize,
    hash: H,
}

impl<H: Update> BufferedHash<H> {
    /// Nothing but what `hash` has taken already.
    #[inline]
    pub(super) fn before(hash: H) -> Self {
        BufferedHash { bytes: [0; ROOM], used: 0, hash }
    }

    /// The hash, which has taken everything.
    #[inline]
    pub(super) fn taken(mut self) -> H {
        self.hash.update(&self.bytes[..self.used]);
        self.hash
    }
}

impl<H: Update + ?Sized> BufferedHash<H> {
    /// Takes the next piece.
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
