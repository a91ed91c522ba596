//! A PostgreSQL database: the keys `url` and `ca` of a section.

use super::{Surroundings, not_empty, secret};
use crate::{
    document::Field,
    postgres::{DatabaseOptions, DatabaseUrlError, check_url},
    tls,
};

/// Reads the keys; `None` if a problem was recorded.
pub(super) fn read(
    url: &Field<'_>,
    ca: Option<&Field<'_>>,
    surroundings: &Surroundings<'_>,
) -> Option<DatabaseOptions> {
    let address = secret::read(url, secret::Use::Address, surroundings);
    let ca = match ca {
        Some(field) => {
            let path = surroundings.base.join(not_empty(field)?);
            if let Err(problem) = tls::authorities_pem(&path) {
                field.error(problem.to_string(), None);
                return None;
            }
            Some(path)
        }
        None => None,
    };
    let options = DatabaseOptions { url: address?, ca };
    let (what, help) = match check_url(&options) {
        Ok(()) => return Some(options),
        Err(DatabaseUrlError::Malformed) => (
            "is not the URL of a PostgreSQL database",
            "postgres://user:password@host:5432/database, with ?sslmode=require for TLS or \
             ?sslmode=disable",
        ),
        Err(DatabaseUrlError::NotEncrypted) => (
            "disables TLS, which `ca` requires",
            "remove sslmode=disable from the URL, or remove `ca`",
        ),
    };
    url.error(format!("`{}` {what}", url.path()), Some(help.to_owned()));
    None
}
