//! Errors of the database, as text for the log and as what to do next.

use std::error::Error;

use tokio_postgres::error::SqlState;

/// The database cannot be used. The text contains no part of the URL except names that the server
/// repeats.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseError {
    /// A connection, a statement or its deadline failed.
    #[error("{0}")]
    Failed(String),
    /// The schema belongs to a later version.
    #[error(
        "the schema `sealgate` has version {found}, which needs a later sealgate: this one knows \
         version {known}"
    )]
    Newer {
        /// The version of the schema.
        found: i32,
        /// The latest version that this binary knows.
        known: i32,
    },
}

/// What to do after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextTry {
    /// Repeat the statement: it lost against a concurrent one.
    Repeat,
    /// Repeat it on a new connection: this one is lost, or leads to a server that does not accept
    /// writes any more.
    Reconnect,
    /// Give up.
    Fail,
}

/// Returns what to do after an error of a statement, which must be idempotent.
pub(super) fn next(error: &tokio_postgres::Error) -> NextTry {
    let Some(state) = error.code() else { return NextTry::Reconnect };
    let is = |states: &[&SqlState]| states.contains(&state);
    if is(&[&SqlState::T_R_SERIALIZATION_FAILURE, &SqlState::T_R_DEADLOCK_DETECTED]) {
        NextTry::Repeat
    } else if is(&[
        &SqlState::READ_ONLY_SQL_TRANSACTION,
        &SqlState::ADMIN_SHUTDOWN,
        &SqlState::CRASH_SHUTDOWN,
        &SqlState::CANNOT_CONNECT_NOW,
        &SqlState::TOO_MANY_CONNECTIONS,
    ]) || state.code().starts_with("08")
    {
        NextTry::Reconnect
    } else {
        NextTry::Fail
    }
}

/// Returns whether the error means that the schema, or a part of it, does not exist.
pub(super) fn is_missing_schema(error: &tokio_postgres::Error) -> bool {
    let states =
        [SqlState::INVALID_SCHEMA_NAME, SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_FUNCTION];
    error.code().is_some_and(|state| states.contains(state))
}

/// Returns the text of an error with its causes, and what the operator can do about it.
pub(super) fn describe(error: &tokio_postgres::Error) -> String {
    let mut text = match error.as_db_error() {
        Some(reply) => format!("{} (SQLSTATE {})", reply.message(), reply.code().code()),
        None => error.to_string(),
    };
    let mut cause = error.source().filter(|_| error.as_db_error().is_none());
    while let Some(error) = cause {
        // Some errors contain the text of their cause.
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    if let Some(advice) = advice(error, &text) {
        text = format!("{text}: {advice}");
    }
    text
}

fn advice(error: &tokio_postgres::Error, text: &str) -> Option<&'static str> {
    if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        return Some("see \"Role\" in docs/postgresql.md");
    }
    if text.contains("server does not support TLS") {
        return Some("enable TLS there, or append ?sslmode=disable to the URL");
    }
    let untrusted = text.contains("UnknownIssuer") || text.contains("BadSignature");
    untrusted.then_some("set `ca` to the authority that signed the server's certificate")
}
