//! sealgate is a webhook gateway in front of an unmodified handler. It authenticates every request,
//! rejects replays, and forwards only authentic and new events.
//!
//! `gate` shows the path of a request. ARCHITECTURE.md lists the modules in the order in which
//! they may import each other. The modules are private, so that the compiler reports unused items.

mod admin;
mod availability;
mod body;
mod capacity;
pub mod cli;
mod config;
mod database;
mod diagnose;
mod document;
mod events;
mod gate;
mod gateway;
mod metrics;
mod postgres;
mod reject;
mod rejections;
mod replay;
mod response;
mod route;
mod scheme;
mod secret;
mod server;
mod target;
mod tls;
mod traces;
mod upstream;

/// What the benches, the fuzz targets and the tests at the boundary drive directly. This is not a
/// stable interface.
#[doc(hidden)]
pub mod internals {
    pub mod body {
        pub use crate::body::Payload;
    }
    pub mod config {
        pub use crate::config::{Config, parse};
    }
    pub mod diagnose {
        pub use crate::diagnose::NearMiss;
    }
    pub mod document {
        pub use crate::document::{Report, Severity};
    }
    pub mod events {
        pub use crate::events::{
            codec::{decode_entry, decode_request, encode_entry, encode_request},
            model::{
                Acceptance, AttemptLease, DeliveryAttempt, EventEntry, EventFilter, EventId,
                EventState, NewEvent, NextStep, Retention, StoredRequest,
            },
            store::{EventStore, disk::DiskStore},
        };
    }
    pub mod gateway {
        pub use crate::gateway::Gateway;
    }
    pub mod postgres {
        pub use crate::postgres::DatabaseOptions;
    }
    pub mod metrics {
        pub use crate::metrics::Metrics;
    }
    pub mod reject {
        pub use crate::reject::{Reason, Reject};
    }
    pub mod replay {
        pub use crate::replay::{
            Claimed, Clock, LocalDecision, OnStoreFailure, Options, RedisOptions, Replay, ShareId,
            StoreOptions, Terms, Topology,
        };
    }
    pub mod response {
        pub use crate::response::SanitizedResponse;
    }
    pub mod route {
        pub use crate::route::Routes;
    }
    pub mod scheme {
        pub use crate::scheme::{
            ContextPin, Credentials, Draft, EventKey, Scheme, UnixMillis, Verified, Verifier,
        };
    }
    pub mod secret {
        pub use crate::secret::Secret;
    }
    pub mod server {
        pub use crate::server::Addresses;
    }
    pub mod upstream {
        pub use crate::upstream::{ReceivedResponse, ResponseLimits, ResponseReader};
    }
}
