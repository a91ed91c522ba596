//! PostgreSQL: connections to a database, and the tables of sealgate in it, which have a separate
//! schema.
//!
//! A statement is sent with the types of its parameters and without a name, in one round trip, and
//! is a transaction by itself. A connection therefore keeps no state between statements, as a
//! pooler in transaction mode requires. What has to be decided in the database is a function there
//! (`migrations`).
//!
//! The gateway uses the clock of the database for leases and expiry, never its own.

mod address;
mod database;
mod error;
mod migrations;

pub(crate) use self::database::{Database, Parameter};
pub use self::{
    address::{DatabaseOptions, DatabaseUrlError, check_url},
    error::DatabaseError,
};

#[cfg(test)]
pub(crate) mod tests;
