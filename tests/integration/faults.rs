//! Faults: after each of them, the ledger of upstream and senders must be consistent.

mod copies;
mod failover;
mod hang_ups;
mod kills;
mod postgres;
mod replicas;
mod stores;
