//! One order: challenges, signing request, certificate.

use std::{io, time::Duration};

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Identifier, NewOrder,
    Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use zeroize::Zeroizing;

use super::options::{AcmeOptions, ChallengeKind};
use crate::tls::{
    challenges::{Challenges, PublishedChallenge},
    pem::TlsError,
};

/// How often and for how long the state of an order is polled, unless the directory says how often.
const POLL: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));

/// The reason why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    #[error(transparent)]
    Protocol(#[from] instant_acme::Error),
    #[error("the directory did not validate the domains: {0}")]
    Invalid(String),
    #[error("signing request: {0}")]
    Request(#[from] rcgen::Error),
    #[error("{0}")]
    Failed(String),
    #[error(transparent)]
    Storage(#[from] TlsError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl OrderError {
    /// Returns whether the directory has lost the account.
    pub(super) fn is_unknown_account(&self) -> bool {
        self.has_type("urn:ietf:params:acme:error:accountDoesNotExist")
    }

    fn has_type(&self, wanted: &str) -> bool {
        let OrderError::Protocol(instant_acme::Error::Api(problem)) = self else { return false };
        problem.r#type.as_deref() == Some(wanted)
    }
}

/// Obtains a certificate and returns its new key and its chain as PEM.
pub(super) async fn obtain(
    account: &Account,
    options: &AcmeOptions,
    challenges: &Challenges,
    replaced: Option<CertificateIdentifier<'static>>,
) -> Result<Zeroizing<Vec<u8>>, OrderError> {
    let mut order = create(account, options, replaced).await?;
    let published = respond(&mut order, options, challenges).await?;
    let ready = wait_until_ready(&mut order).await;
    drop(published);
    ready?;
    let mut params = CertificateParams::new(options.domains.clone())?;
    params.distinguished_name = DistinguishedName::new();
    let key = KeyPair::generate()?;
    let request = params.serialize_request(&key)?;
    order.finalize_csr(request.der()).await?;
    let chain = order.poll_certificate(&POLL).await?;
    let mut pem = Zeroizing::new(Zeroizing::new(key.serialize_pem()).as_bytes().to_vec());
    pem.extend_from_slice(chain.as_bytes());
    Ok(pem)
}

async fn create(
    account: &Account,
    options: &AcmeOptions,
    replaced: Option<CertificateIdentifier<'static>>,
) -> Result<Order, OrderError> {
    let domains: Vec<_> = options.domains.iter().cloned().map(Identifier::Dns).collect();
    let order = || {
        let order = NewOrder::new(&domains);
        options.profile.as_deref().map_or(NewOrder::new(&domains), |profile| order.profile(profile))
    };
    if let Some(replaced) = replaced {
        // The name of the old certificate is optional, and directories reject it for several
        // reasons, for example because the certificate was replaced already.
        match account.new_order(&order().replaces(replaced)).await.map_err(OrderError::from) {
            Ok(order) => return Ok(order),
            Err(error) if error.has_type("urn:ietf:params:acme:error:rateLimited") => {
                return Err(error);
            }
            Err(error) if error.is_unknown_account() => return Err(error),
            Err(error) => tracing::debug!(%error, "ACME: ordering without the old certificate"),
        }
    }
    Ok(account.new_order(&order()).await?)
}

/// Publishes a response for each domain that is not validated yet, and asks for its validation.
async fn respond(
    order: &mut Order,
    options: &AcmeOptions,
    challenges: &Challenges,
) -> Result<Vec<PublishedChallenge>, OrderError> {
    let mut published = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let domain = authorization.identifier().to_string();
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status => return Err(OrderError::Invalid(format!("{domain}: {status:?}"))),
        }
        let (kind, name) = match options.challenge {
            ChallengeKind::TlsAlpn01 => (ChallengeType::TlsAlpn01, "tls-alpn-01"),
            ChallengeKind::Http01 => (ChallengeType::Http01, "http-01"),
        };
        let Some(mut challenge) = authorization.challenge(kind) else {
            let problem = format!("the directory offers no {name} challenge for {domain}");
            return Err(OrderError::Failed(problem));
        };
        let response = challenge.key_authorization();
        published.push(match options.challenge {
            ChallengeKind::TlsAlpn01 => {
                challenges.publish_tls(&domain, response.digest().as_ref())?
            }
            ChallengeKind::Http01 => {
                challenges.publish_http(&challenge.token, response.as_str())?
            }
        });
        challenge.set_ready().await?;
    }
    Ok(published)
}

async fn wait_until_ready(order: &mut Order) -> Result<(), OrderError> {
    // Validated domains of an earlier order may make this one ready at once.
    if order.poll_ready(&POLL).await? == OrderStatus::Ready {
        return Ok(());
    }
    let mut problems = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let state = authorization.refresh().await?;
        let errors = state.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
        let errors: Vec<_> =
            errors.map(|error| format!("{}: {error}", state.identifier())).collect();
        problems.extend(errors);
    }
    Err(OrderError::Invalid(problems.join("; ")))
}
