//! Faults: after each of them the ledgers of upstream and sender must agree.

mod copies;
mod hang_ups;
mod kills;
mod replicas;
mod stores;
