//! sealgate stands in front of an unmodified webhook handler: it authenticates every request,
//! refuses replays and forwards only what is authentic and new.
//!
//! The way of a request is told in [`gate`]; which room may import from which, in ARCHITECTURE.md.

pub mod admin;
pub mod body;
pub mod capacity;
pub mod cli;
pub mod config;
pub mod diagnose;
pub mod document;
pub mod gate;
pub mod gateway;
pub mod metrics;
pub mod reject;
pub mod rejections;
pub mod replay;
pub mod response;
pub mod route;
pub mod scheme;
pub mod secret;
pub mod server;
mod target;
pub mod tls;
pub mod upstream;
