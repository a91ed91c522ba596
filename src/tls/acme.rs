//! Certificates from an ACME directory (RFC 8555): ordered, stored, and renewed in the background.
//!
//! Replicas can share the storage. A lock admits one of them to the directory at a time; the others
//! find its certificate in the storage when their own renewal is due.

mod account;
mod client;
mod options;
mod order;
mod schedule;
mod storage;

use std::{sync::Arc, time::SystemTime};

use instant_acme::{Account, CertificateIdentifier};
use tokio::task::AbortHandle;

pub use self::options::{AcmeOptions, ChallengeKind, ExternalAccount};
use self::{
    client::RetryAfter,
    order::OrderError,
    schedule::{RenewalSchedule, Step},
    storage::{Storage, StoredCertificate},
};
use super::{
    certificates::{Certificates, LoadedCertificate},
    challenges::Challenges,
    pem::TlsError,
};
use crate::metrics::Metrics;

/// The ACME client of a gateway; it stops when dropped.
#[derive(Debug)]
pub struct Acme {
    options: AcmeOptions,
    challenges: Challenges,
    task: AbortHandle,
}

impl Acme {
    /// Puts a stored certificate that is still valid into service, and starts the task that
    /// obtains and renews it.
    ///
    /// # Errors
    /// The storage cannot be created or read.
    pub fn start(
        options: AcmeOptions,
        certificates: Arc<Certificates>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, TlsError> {
        let storage = Storage::open(&options)?;
        let stored = storage.load()?;
        let challenges = storage.challenges.clone();
        certificates.set_challenges(challenges.clone());
        let mut renewal = CertificateRenewal {
            retry_after: RetryAfter::default(),
            account: None,
            in_service: None,
            is_wanted: false,
            options: options.clone(),
            storage,
            certificates,
            metrics,
        };
        if let Some(stored) = stored {
            renewal.put_into_service(stored);
        }
        let task = tokio::spawn(renewal.run()).abort_handle();
        Ok(Acme { options, challenges, task })
    }

    /// Returns the options with which it was started.
    pub fn options(&self) -> &AcmeOptions {
        &self.options
    }

    /// Returns the responses to pending challenges.
    pub fn challenges(&self) -> &Challenges {
        &self.challenges
    }
}

impl Drop for Acme {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The state of the background task.
struct CertificateRenewal {
    options: AcmeOptions,
    storage: Storage,
    certificates: Arc<Certificates>,
    metrics: Arc<Metrics>,
    account: Option<Account>,
    retry_after: RetryAfter,
    in_service: Option<Arc<LoadedCertificate>>,
    /// Whether it is what the options ask for, and only needs to be renewed in time.
    is_wanted: bool,
}

impl CertificateRenewal {
    async fn run(mut self) {
        let validity = self.in_service.as_ref().map(|certificate| certificate.validity);
        let mut schedule = RenewalSchedule::new(validity, self.is_wanted);
        loop {
            match schedule.next(SystemTime::now()) {
                Step::Wait(time) => tokio::time::sleep(time).await,
                Step::QueryRenewalInfo => match self.renewal_window().await {
                    Ok(window) => schedule.set_window(window, SystemTime::now()),
                    Err(error) => {
                        tracing::warn!(%error, "ACME: cannot query the renewal information");
                        self.account = None;
                        schedule.query_failed(SystemTime::now(), self.retry_after.take());
                    }
                },
                Step::Renew => match self.renew().await {
                    Ok(()) => {
                        let validity = self.in_service.as_ref().map(|new| new.validity);
                        schedule.renewed(validity, self.is_wanted, SystemTime::now());
                    }
                    Err(error) => {
                        self.metrics.count_acme_renewal(false);
                        self.account = None;
                        let wait = schedule.failed(SystemTime::now(), self.retry_after.take());
                        tracing::error!(
                            %error,
                            domains = %self.options.domains.join(", "),
                            directory = %self.options.directory,
                            retry_in = ?wait,
                            "ACME: no certificate obtained"
                        );
                    }
                },
            }
        }
    }

    /// Obtains a certificate, or takes a newer one that another replica has stored meanwhile.
    async fn renew(&mut self) -> Result<(), OrderError> {
        let _lock = self.storage.lock().await?;
        if let Some(stored) = self.storage.load_in_background().await?
            && self.is_newer(&stored.loaded)
            && self.wants(&stored)
        {
            tracing::info!("ACME: using the certificate that another replica obtained");
            self.put_into_service(stored);
            return Ok(());
        }
        let replaced = self.in_service.as_ref().and_then(|old| identifier(old));
        let account = self.account().await?;
        let pem = match order::obtain(&account, &self.options, &self.storage.challenges, replaced)
            .await
        {
            Err(error) if error.is_unknown_account() => {
                tracing::warn!("ACME: the directory does not know the account: creating another");
                self.storage.remove_account()?;
                self.account = None;
                let account = self.account().await?;
                order::obtain(&account, &self.options, &self.storage.challenges, None).await
            }
            result => result,
        }?;
        let loaded = self.storage.parse(&pem)?;
        // A certificate that cannot be stored is used anyway: ordering another would count towards
        // the directory's limits.
        if let Err(error) = self.storage.save(pem).await {
            tracing::error!(%error, "ACME: cannot store the certificate");
        }
        self.put_into_service(StoredCertificate { loaded, is_of_directory: true });
        self.metrics.count_acme_renewal(true);
        tracing::info!(domains = %self.options.domains.join(", "), "ACME: certificate obtained");
        Ok(())
    }

    /// Returns the period in which the directory asks for the certificate to be renewed, or `None`
    /// if it does not say (RFC 9773).
    async fn renewal_window(&mut self) -> Result<Option<schedule::Window>, OrderError> {
        let Some(certificate) = self.in_service.clone() else { return Ok(None) };
        let Some(identifier) = identifier(&certificate) else { return Ok(None) };
        let account = self.account().await?;
        match account.renewal_info(&identifier).await {
            Ok((info, query_after)) => Ok(Some(schedule::Window {
                start: info.suggested_window.start.into(),
                end: info.suggested_window.end.into(),
                query_after,
            })),
            Err(instant_acme::Error::Unsupported(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn account(&mut self) -> Result<Account, OrderError> {
        if let Some(account) = &self.account {
            return Ok(account.clone());
        }
        let account = account::open(&self.options, &self.storage, &self.retry_after).await?;
        Ok(self.account.insert(account).clone())
    }

    fn put_into_service(&mut self, stored: StoredCertificate) {
        self.is_wanted = self.wants(&stored);
        let certificate = Arc::new(stored.loaded);
        let name = self.storage.certificate().display().to_string();
        self.metrics.certificate(&name, certificate.validity.into());
        self.certificates.set_acme(name, Arc::clone(&certificate));
        self.in_service = Some(certificate);
    }

    fn is_newer(&self, stored: &LoadedCertificate) -> bool {
        let current = self.in_service.as_ref();
        current.is_none_or(|current| current.validity.not_after < stored.validity.not_after)
    }

    fn wants(&self, stored: &StoredCertificate) -> bool {
        let covers = |domain: &String| stored.loaded.names(domain);
        stored.is_of_directory && self.options.domains.iter().all(covers)
    }
}

/// Returns the identifier of a certificate in renewal information; `None` for certificates without
/// an authority key identifier.
fn identifier(certificate: &LoadedCertificate) -> Option<CertificateIdentifier<'static>> {
    CertificateIdentifier::try_from(certificate.leaf()).ok().map(CertificateIdentifier::into_owned)
}
