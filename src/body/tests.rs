use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use http_body::Frame;
use proptest::prelude::*;

use super::*;
use crate::{
    capacity::{Capacity, CapacityOptions},
    metrics::Metrics,
};

const LIMITS: BodyLimits = BodyLimits { bytes: 100_000, time: Duration::from_secs(5) };

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

fn capacity(memory: u64) -> Capacity {
    let options = CapacityOptions { connections: 1, requests: 1, memory, address_share: 100 };
    Capacity::new(options, &Metrics::new().expect("constants"))
}

fn read(pieces: Vec<Vec<u8>>, limits: BodyLimits, capacity: &Capacity) -> Result<Payload, Reject> {
    let account = capacity.account(std::net::Ipv4Addr::LOCALHOST.into());
    let reservation = capacity.receive(&account, limits.bytes)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
        .block_on(receive(Pieces(pieces.into()), limits, reservation, true))
}

proptest! {
    #[test]
    fn a_body_is_its_pieces_in_order(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5000), 0..20),
    ) {
        let budget = capacity(1 << 20);
        let expected = pieces.concat();
        let payload = read(pieces, LIMITS, &budget).expect("within the limits");
        prop_assert_eq!(payload.whole(), expected.as_slice());
        prop_assert_eq!(payload.chunks().concat(), expected.clone());
        prop_assert_eq!(payload.len(), expected.len());
        prop_assert_eq!(payload.sha256(), &<[u8; 32]>::from(Sha256::digest(&expected)));
    }
}

#[test]
fn single_bytes_are_copied_together() {
    let budget = capacity(1 << 20);
    let payload = read(vec![vec![b'x']; 10_000], LIMITS, &budget).expect("within the limits");
    assert_eq!(payload.len(), 10_000);
    assert_eq!(payload.chunks().len(), 3);
}

#[test]
fn a_body_over_its_limit_or_without_memory_is_rejected() {
    let memory = capacity(64 << 10);
    let short = BodyLimits { bytes: 10, ..LIMITS };
    assert_eq!(read(vec![vec![0; 11]], short, &memory).err(), Some(Reject::BodyTooLarge));
    assert!(read(vec![vec![0; 10]], short, &memory).is_ok());
    let limits = BodyLimits { bytes: 40_000, ..LIMITS };
    let held = read(vec![vec![0; 40_000]], limits, &memory).expect("there is memory");
    let over = read(vec![vec![0; 40_000]], limits, &memory).err();
    assert_eq!(over, Some(Reject::Overloaded(Shed::Memory)));
    drop(held);
    assert!(read(vec![vec![0; 40_000]], limits, &memory).is_ok(), "it was given back");
}
