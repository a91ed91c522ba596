//! Requests for keys that are fetched one at a time, with the application token that some senders
//! demand.

use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use bytes::Bytes;
use data_encoding::BASE64;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::Value;
use tokio::time::timeout;

use super::{certificate, fetch::TIMEOUT, jwk};
use crate::{
    scheme::{
        compiled::fetched::{CLIENT, FetchedForm, FetchedKeys, expanded},
        public_key::{PublicKey, PublicKeyAlgorithm},
    },
    secret::Secret,
    tls::{ServerTrust, https_request},
};

/// The longest response.
const MAX_BYTES: usize = 64 * 1024;
/// How long before its expiry an application token is renewed.
const RENEW: Duration = Duration::from_secs(60);
/// The lifetime of an application token whose response does not state one.
const USUAL: Duration = Duration::from_secs(300);
/// The longest lifetime of an application token, whatever its response states.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The values of a route's settings, by name.
pub type SettingValues = Vec<(Box<str>, Vec<Secret>)>;

/// A key, or the reason why there is none.
pub(super) enum Fetched {
    Key { key: PublicKey, valid: RangeInclusive<i64> },
    None(String),
}

/// Why a key was not fetched.
#[derive(Debug)]
pub(super) enum FetchFailure {
    /// The host did not respond as it should; it may do so later.
    Host(String),
    /// The host rejected this request.
    Rejected(String),
}

/// How the keys of one route are fetched.
#[derive(PartialEq)]
pub(in crate::scheme) struct KeyRequest {
    rule: FetchedKeys,
    settings: SettingValues,
    algorithm: PublicKeyAlgorithm,
    trust: ServerTrust,
}

/// An application token, and until when it is used.
pub(super) struct ApplicationToken(HeaderValue, Instant);

impl KeyRequest {
    pub(in crate::scheme) fn new(
        rule: FetchedKeys,
        settings: SettingValues,
        algorithm: PublicKeyAlgorithm,
        trust: ServerTrust,
    ) -> KeyRequest {
        KeyRequest { rule, settings, algorithm, trust }
    }

    /// Returns whether the keys come from the same address, for the same algorithm, and are trusted
    /// for the same reason.
    pub(super) fn has_same_source(&self, other: &KeyRequest) -> bool {
        self.url("") == other.url("")
            && self.algorithm == other.algorithm
            && self.trust == other.trust
    }

    fn setting(&self, name: &str) -> Option<&str> {
        let (_, values) = self.settings.iter().find(|(known, _)| **known == *name)?;
        std::str::from_utf8(values.first()?.expose()).ok()
    }

    fn expanded(&self, text: &str, key: &str) -> String {
        expanded(text, |name| if name == "key" { Some(key) } else { self.setting(name) })
    }

    pub(super) fn url(&self, key: &str) -> String {
        format!("https://{}{}", self.host(), self.expanded(&self.rule.path, key))
    }

    /// Returns the pinned host, with its port if it is not 443.
    pub(super) fn host(&self) -> String {
        self.expanded(&self.rule.host, "")
    }

    /// Returns the name of the key at `address`, which must be exactly the pinned address with a
    /// word in place of the name.
    pub(super) fn name_in<'a>(&self, address: &'a str) -> Option<&'a str> {
        let pattern = self.url("{key}");
        let (before, after) = pattern.split_once("{key}")?;
        address.strip_prefix(before)?.strip_suffix(after)
    }

    /// Fetches a key.
    pub(super) async fn fetch(
        &self,
        key: &str,
        token: &mut Option<ApplicationToken>,
        now: u64,
    ) -> Result<Fetched, FetchFailure> {
        let mut request = Request::builder()
            .method(self.rule.method.clone())
            .uri(self.url(key))
            .header(header::ACCEPT, "*/*");
        for (name, value) in &self.rule.headers {
            request = request.header(name, self.expanded(value, key));
        }
        if let Some(value) = self.application_token(token).await? {
            request = request.header(header::AUTHORIZATION, value);
        }
        let mut body = Bytes::new();
        if self.rule.method == Method::POST {
            let member = |(name, text): &(Box<str>, Box<str>)| {
                (name.to_string(), Value::String(self.expanded(text, key)))
            };
            let members: serde_json::Map<_, _> = self.rule.body.iter().map(member).collect();
            body = Value::Object(members).to_string().into();
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let response = self.send(request, body).await?;
        match response.status() {
            StatusCode::OK => self.read(response.body(), now),
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                Ok(Fetched::None("it does not exist".to_owned()))
            }
            StatusCode::UNAUTHORIZED => {
                *token = None;
                Err(FetchFailure::Rejected("the response is 401".to_owned()))
            }
            status if status.is_client_error() => {
                Err(FetchFailure::Rejected(format!("the response is {status}")))
            }
            status => Err(FetchFailure::Host(format!("the response is {status}"))),
        }
    }

    /// Requests a path of the pinned host, and returns whether the response is 200.
    pub(super) async fn confirm(&self, path: &str) -> Result<(), String> {
        let request = Request::get(format!("https://{}{path}", self.host()));
        match self.send(request, Bytes::new()).await {
            Ok(response) if response.status() == StatusCode::OK => Ok(()),
            Ok(response) => Err(format!("the response is {}", response.status())),
            Err(FetchFailure::Host(problem) | FetchFailure::Rejected(problem)) => Err(problem),
        }
    }

    async fn send(
        &self,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<Response<Bytes>, FetchFailure> {
        let request = request
            .body(Full::new(body))
            .map_err(|error| FetchFailure::Rejected(error.to_string()))?;
        timeout(TIMEOUT, https_request(request, &self.trust, MAX_BYTES))
            .await
            .unwrap_or_else(|_| Err("no response in time".to_owned()))
            .map_err(FetchFailure::Host)
    }

    /// Returns the header with the application token, if the sender demands one.
    async fn application_token(
        &self,
        known: &mut Option<ApplicationToken>,
    ) -> Result<Option<HeaderValue>, FetchFailure> {
        let Some(rule) = &self.rule.token else { return Ok(None) };
        if let Some(ApplicationToken(value, until)) = known
            && *until > Instant::now()
        {
            return Ok(Some(value.clone()));
        }
        let [user, password] = CLIENT.map(|name| self.setting(name).unwrap_or_default());
        let credentials = BASE64.encode(format!("{user}:{password}").as_bytes());
        let request = Request::post(format!("https://{}{}", self.host(), rule.path))
            .header(header::AUTHORIZATION, format!("Basic {credentials}"))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let scope = rule.scope.replace(':', "%3A").replace('/', "%2F").replace(' ', "+");
        let body = format!("grant_type=client_credentials&scope={scope}");
        let asked = Instant::now();
        let response = self.send(request, body.into()).await?;
        if response.status() != StatusCode::OK {
            let what = format!("no application token: the response is {}", response.status());
            return Err(FetchFailure::Host(what));
        }
        let bad = || FetchFailure::Host("no application token in the response".to_owned());
        let document: Value = serde_json::from_slice(response.body()).map_err(|_| bad())?;
        let token = document.get("access_token").and_then(Value::as_str).ok_or_else(bad)?;
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| bad())?;
        value.set_sensitive(true);
        let lifetime = document.get("expires_in").and_then(Value::as_u64);
        let lifetime =
            lifetime.map_or(USUAL, Duration::from_secs).min(LONGEST).saturating_sub(RENEW);
        *known = Some(ApplicationToken(value.clone(), asked + lifetime));
        Ok(Some(value))
    }

    /// Reads the key in a response.
    pub(super) fn read(&self, body: &[u8], now: u64) -> Result<Fetched, FetchFailure> {
        let host = |problem: &str| FetchFailure::Host(problem.to_owned());
        if let FetchedForm::Certificate { names, intermediates } = &self.rule.form {
            let names: Vec<_> = names.iter().map(|name| self.expanded(name, "")).collect();
            let roots = self.trust.roots().map_err(FetchFailure::Host)?;
            let (algorithm, issuers) = (self.algorithm, intermediates.as_slice());
            return match certificate::verified(body, &names, issuers, &roots, algorithm, now) {
                Ok((key, valid)) => Ok(Fetched::Key { key, valid }),
                Err(certificate::BadCertificate::Invalid(why)) => Ok(Fetched::None(why)),
                Err(certificate::BadCertificate::NoChain(why)) => Err(FetchFailure::Rejected(why)),
            };
        }
        let document: Value =
            serde_json::from_slice(body).map_err(|_| host("the response is not JSON"))?;
        let key = document.pointer(&self.rule.pointer);
        let key = key.ok_or_else(|| host("the response contains no key"))?;
        let key = match &self.rule.form {
            FetchedForm::Jwk => jwk::one(key, self.algorithm).map_err(|why| host(&why)),
            FetchedForm::Pem | FetchedForm::Certificate { .. } => {
                let text = key.as_str().ok_or_else(|| host("the key is no text"))?;
                PublicKey::from_loose_pem(self.algorithm, text).map_err(|why| host(&why))
            }
        }?;
        let expires = self.rule.expires.as_ref().and_then(|pointer| document.pointer(pointer));
        let until = expires.and_then(Value::as_i64).unwrap_or(i64::MAX);
        Ok(Fetched::Key { key, valid: 0..=until })
    }
}
