//! The delivery of stored events to their handlers.

mod attempt;
mod retry;
mod route;
mod schedule;

pub(super) use self::{
    attempt::{EndedAttempt, StoredDelivery, jitter},
    retry::AttemptResult,
    route::AttemptSlot,
    schedule::deliver,
};
pub use self::{
    retry::RetryOptions,
    route::{DeliveryMode, DeliveryOptions, DeliveryRoute, HistoryMode},
};
