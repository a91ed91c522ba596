//! The event store: events accepted now and delivered later, and the history of all events.

// Until the gate stores events.
#![allow(dead_code)]

mod codec;
pub(crate) mod model;
pub(crate) mod options;
mod seal;
pub(crate) mod store;
mod transition;
