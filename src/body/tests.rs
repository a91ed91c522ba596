use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use http_body::Frame;
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { bytes: 100_000, time: Duration::from_secs(5) };

/// A body that arrives in the given pieces.
struct Pieces(VecDeque<Vec<u8>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece.into()))))
    }
}

fn read(pieces: Vec<Vec<u8>>, limits: Limits, budget: &Arc<Budget>) -> Result<Payload, Reject> {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
        .block_on(receive(Pieces(pieces.into()), limits, budget, true))
}

proptest! {
    #[test]
    fn a_body_is_its_pieces_in_order_and_gives_back_what_it_held(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5000), 0..20),
    ) {
        let budget = Budget::new(1 << 20);
        let expected = pieces.concat();
        let payload = read(pieces, LIMITS, &budget).expect("within the limits");
        prop_assert_eq!(payload.whole(), expected.as_slice());
        prop_assert_eq!(payload.chunks().concat(), expected.clone());
        prop_assert_eq!(payload.len(), expected.len());
        prop_assert_eq!(payload.sha256(), &<[u8; 32]>::from(Sha256::digest(&expected)));
        prop_assert_eq!(budget.used(), expected.len() as u64);
        drop(payload);
        prop_assert_eq!(budget.used(), 0);
    }
}

#[test]
fn single_bytes_are_copied_together() {
    let budget = Budget::new(1 << 20);
    let payload = read(vec![vec![b'x']; 10_000], LIMITS, &budget).expect("within the limits");
    assert_eq!(payload.len(), 10_000);
    assert_eq!(payload.chunks().len(), 3);
}

#[test]
fn limits_and_budget_are_kept() {
    let budget = Budget::new(4096);
    let short = Limits { bytes: 10, ..LIMITS };
    assert_eq!(read(vec![vec![0; 11]], short, &budget).err(), Some(Reject::BodyTooLarge));
    assert!(read(vec![vec![0; 10]], short, &budget).is_ok());
    let held = read(vec![vec![0; 4000]], LIMITS, &budget).expect("within the budget");
    let over = read(vec![vec![0; 97]], LIMITS, &budget).err();
    assert_eq!(over, Some(Reject::Overloaded("memory for bodies")));
    drop(held);
    assert_eq!(budget.used(), 0);
}
