//! Short pieces on their way into a hash, put together so that it takes them in one go.

/// So many bytes are held back: the signed text of nearly all senders, without the body.
const ROOM: usize = 192;

/// What the hash has not taken yet.
pub(super) struct Pending {
    bytes: [u8; ROOM],
    used: usize,
}

impl Pending {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Pending { bytes: [0; ROOM], used: 0 }
    }

    /// Takes the next piece; gives `take` what stands before it and the piece, if there is no room.
    #[inline]
    pub(super) fn push(&mut self, piece: &[u8], take: impl FnMut(&[u8])) {
        match self.bytes.get_mut(self.used..self.used + piece.len()) {
            Some(room) => {
                room.copy_from_slice(piece);
                self.used += piece.len();
            }
            None => self.pass(piece, take),
        }
    }

    #[cold]
    fn pass(&mut self, piece: &[u8], mut take: impl FnMut(&[u8])) {
        take(&self.bytes[..self.used]);
        take(piece);
        self.used = 0;
    }

    /// What is left for the hash to take.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
}
