//! The tests at the boundary: a running gateway, real TLS, raw sockets, a recording upstream.

mod kit;

mod delivery;
mod diagnosis;
mod doors;
mod faults;
mod handshakes;
mod house;
mod hygiene;
mod key_sets;
mod libraries;
mod monitoring;
mod observability;
mod operation;
mod senders;
mod smuggling;
mod tls;
mod upstreams;
mod verification;
