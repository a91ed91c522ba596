//! Tests at the boundary: a running gateway, real TLS, raw sockets, a recording upstream.

mod kit;

mod acme;
mod admin_api;
mod admin_commands;
mod admission;
mod challenges;
mod client_certificates;
mod commands;
mod connections;
mod delivery;
mod diagnosis;
mod documents;
mod events;
mod examples;
mod faults;
mod headers;
mod key_sets;
mod leaks;
mod libraries;
mod load;
mod monitoring;
mod observability;
mod operation;
mod packages;
mod proxies;
mod reloads;
mod senders;
mod service_manager;
mod sites;
mod smuggling;
mod start;
mod tls;
mod upstreams;
mod verification;
mod work;
