//! Faults: after each of them the ledgers of upstream and sender must agree.

mod copies;
mod kills;
