//! The account with an ACME directory.

use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use serde::{Deserialize, Serialize};

use super::{
    client::{DirectoryClient, RetryAfter},
    options::AcmeOptions,
    order::OrderError,
    storage::Storage,
};
use crate::tls::https::ServerTrust;

/// The content of the account file.
#[derive(Deserialize, Serialize)]
struct StoredAccount {
    credentials: AccountCredentials,
    contact: Vec<String>,
}

/// Opens the stored account, or creates one. If the configured contacts have changed, the account
/// is updated.
pub(super) async fn open(
    options: &AcmeOptions,
    storage: &Storage,
    retry_after: &RetryAfter,
) -> Result<Account, OrderError> {
    let trust = match &options.ca {
        Some(path) => ServerTrust::read(path).map_err(OrderError::Failed)?,
        None => ServerTrust::System,
    };
    let client = DirectoryClient::new(trust, retry_after.clone());
    let builder = Account::builder_with_http(Box::new(client));
    let contact: Vec<&str> = options.contact.iter().map(String::as_str).collect();
    if let Some(stored) = storage.load_account().await? {
        let stored: StoredAccount = serde_json::from_slice(&stored)
            .map_err(|error| OrderError::Failed(format!("the stored account: {error}")))?;
        // The credentials contain the key and cannot be copied.
        let kept = serde_json::to_value(&stored.credentials).map_err(instant_acme::Error::from)?;
        let account = builder.from_credentials(stored.credentials).await?;
        if stored.contact != options.contact {
            account.update_contacts(&contact).await?;
            let credentials = serde_json::from_value(kept).map_err(instant_acme::Error::from)?;
            store(credentials, options, storage).await?;
        }
        return Ok(account);
    }
    let account = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let external = options.external_account.as_ref();
    let external = external.map(|e| ExternalAccountKey::new(e.kid.clone(), e.key.expose()));
    let directory = options.directory.clone();
    let (account, credentials) = builder.create(&account, directory, external.as_ref()).await?;
    store(credentials, options, storage).await?;
    tracing::info!(directory = %options.directory, "ACME: account created");
    Ok(account)
}

async fn store(
    credentials: AccountCredentials,
    options: &AcmeOptions,
    storage: &Storage,
) -> Result<(), OrderError> {
    let stored = StoredAccount { credentials, contact: options.contact.clone() };
    let text = serde_json::to_vec(&stored).map_err(instant_acme::Error::from)?;
    Ok(storage.save_account(text).await?)
}
