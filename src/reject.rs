//! Every result of a request that is not the upstream's response, with its status, its metric label
//! and its log level. All matches are exhaustive, so that a new variant must state all three.

mod outcome;
mod shed;

use http::StatusCode;
use tracing::Level;

pub use self::{outcome::Outcome, shed::Shed};

/// Why a request is not admitted or not accepted as authentic, in order of precedence: if several
/// reasons apply, the first one is logged and counted. The sender never learns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The client address is not on the route's allowlist.
    NotAllowed,
    /// The client address, or the route, is over its rate limit.
    RateLimited,
    /// A header that the scheme needs is absent.
    MissingHeader,
    /// A security header arrived twice, or with an underscore twin.
    DuplicateHeader,
    /// The signature or the event ID is outside its grammar.
    MalformedSignature,
    /// The timestamp is outside its grammar.
    MalformedTimestamp,
    /// The sender names an algorithm other than the scheme's.
    BadAlg,
    /// The token is not a well-formed JWT of the pinned kind.
    MalformedToken,
    /// The part of the body that the scheme reads is outside its grammar.
    MalformedBody,
    /// No key is configured for the one that the request names.
    UnknownKey,
    /// The request names a key that the sender does not publish, or that is not valid.
    UnknownKid,
    /// The signature does not verify with the key.
    BadSignature,
    /// A claim of the token (issuer, audience, subject …) has another value than configured.
    Claim,
    /// A header that must agree with the signed values does not.
    Inconsistent,
    /// Authentic, but too old, and no record of the event exists.
    Stale,
    /// Authentic, but dated in the future.
    Future,
    /// A header that the operator requires is absent or has another value.
    RequiredHeader,
    /// Authentic, but with another unsigned context than the event's first request.
    ContextMismatch,
}

impl Reason {
    /// All reasons, in order of precedence.
    pub const ALL: [Reason; 18] = [
        Reason::NotAllowed,
        Reason::RateLimited,
        Reason::MissingHeader,
        Reason::DuplicateHeader,
        Reason::MalformedSignature,
        Reason::MalformedTimestamp,
        Reason::BadAlg,
        Reason::MalformedToken,
        Reason::MalformedBody,
        Reason::UnknownKey,
        Reason::UnknownKid,
        Reason::BadSignature,
        Reason::Claim,
        Reason::Inconsistent,
        Reason::Stale,
        Reason::Future,
        Reason::RequiredHeader,
        Reason::ContextMismatch,
    ];

    /// Returns the metric label, which is also the word in the log.
    pub const fn label(self) -> &'static str {
        match self {
            Reason::NotAllowed => "not_allowed",
            Reason::RateLimited => "rate_limited",
            Reason::MissingHeader => "missing_header",
            Reason::DuplicateHeader => "duplicate_header",
            Reason::MalformedSignature => "malformed_signature",
            Reason::MalformedTimestamp => "malformed_timestamp",
            Reason::BadAlg => "bad_alg",
            Reason::MalformedToken => "malformed_token",
            Reason::MalformedBody => "malformed_body",
            Reason::UnknownKey => "unknown_key",
            Reason::UnknownKid => "unknown_kid",
            Reason::BadSignature => "bad_signature",
            Reason::Claim => "claim",
            Reason::Inconsistent => "inconsistent",
            Reason::Stale => "stale",
            Reason::Future => "future",
            Reason::RequiredHeader => "required_header",
            Reason::ContextMismatch => "context_mismatch",
        }
    }

    /// Returns what the reason means, for messages to the operator.
    pub const fn meaning(self) -> &'static str {
        match self {
            Reason::NotAllowed => "the client address is not on the route's allowlist",
            Reason::RateLimited => "the client address or the route is over its rate limit",
            Reason::MissingHeader => "a header that the scheme needs is missing",
            Reason::DuplicateHeader => {
                "a security header is present twice, or also with `_` in place of `-`"
            }
            Reason::MalformedSignature => {
                "the signature or the event ID does not have the form that the scheme defines"
            }
            Reason::MalformedTimestamp => {
                "the timestamp does not have the form that the scheme defines"
            }
            Reason::BadAlg => "the request names an algorithm other than the scheme's",
            Reason::MalformedToken => "the token is not a JWT of the kind that the scheme accepts",
            Reason::MalformedBody => "the body does not contain what the scheme reads from it",
            Reason::UnknownKey => "no key is configured under the name in the request",
            Reason::UnknownKid => {
                "the request names a key that the sender does not publish, or that is not valid"
            }
            Reason::BadSignature => "the signature does not verify with the key",
            Reason::Claim => "a claim of the token has another value than configured",
            Reason::Inconsistent => "a header does not agree with the signed values",
            Reason::Stale => "authentic, but too old",
            Reason::Future => "authentic, but dated in the future",
            Reason::RequiredHeader => {
                "authentic, but a required header is missing or has another value"
            }
            Reason::ContextMismatch => {
                "authentic, but unsigned headers differ from the event's first request"
            }
        }
    }
}

/// Why a request ends without the upstream's response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// Not admitted, not authentic, or authentic but of an unacceptable age or context.
    #[error("rejected: {}", .0.label())]
    NotAccepted(Reason),
    /// The same request again, after its 2xx was written out.
    #[error("replay of an acknowledged request")]
    Replay,
    /// Another copy of the event is in flight and had no outcome within `answer_within`.
    #[error("another copy of the event is still in flight")]
    InFlight,
    /// The replay store is unreachable.
    #[error("the replay store is unreachable")]
    StoreUnavailable,
    /// The event store is unreachable, or did not store the event in time.
    #[error("the event store is unavailable")]
    EventsUnavailable,
    /// The event store is full of events that must be kept.
    #[error("the event store is full")]
    EventsFull,
    /// The replay guard is full of records that still protect their events.
    #[error("the replay guard is full")]
    GuardFull,
    /// The request names a key that must be fetched first: from a key set, or the one with this
    /// name.
    #[error("the key must be fetched first")]
    KeyPending(Option<std::sync::Arc<str>>),
    /// The key set cannot be fetched.
    #[error("the key set is unreachable")]
    KeysUnavailable,
    /// A challenge is authentic, but the sender's host did not accept the confirmation.
    #[error("the sender did not accept the confirmation")]
    Unconfirmed,
    /// The gateway, or the upstream, has no capacity left for the request.
    #[error("over capacity: {}", .0.meaning())]
    Overloaded(Shed),
    /// The body is longer than the route allows.
    #[error("the body is over the limit")]
    BodyTooLarge,
    /// The body did not arrive in time.
    #[error("the body did not arrive in time")]
    BodyTimeout,
    /// The connection ended within the body.
    #[error("the body is incomplete")]
    BodyAborted,
    /// `Content-Encoding` other than identity.
    #[error("the body has a content coding")]
    ContentEncoding,
    /// The client address, or the route, is over its rate limit.
    #[error("over the rate limit")]
    RateLimited {
        /// The time until the next request is admitted.
        seconds: u64,
    },
    /// No route serves this host and path.
    #[error("no such route")]
    NoRoute,
    /// The route does not accept this method; the value of `Allow`.
    #[error("wrong method")]
    Method(&'static str),
    /// HTTP that is ambiguous or malformed.
    #[error("ambiguous or malformed HTTP: {0}")]
    BadRequest(&'static str),
    /// The head has too many bytes or header lines.
    #[error("the head is over the limit")]
    HeadTooLarge,
    /// No connection to the upstream; nothing was sent.
    #[error("cannot connect to the upstream")]
    UpstreamConnect,
    /// The upstream closed the connection or sent a response that is not HTTP; the outcome is
    /// unknown.
    #[error("the upstream sent no complete response")]
    UpstreamReset,
    /// The upstream responded with a redirect, which no sender follows.
    #[error("the upstream responded with a redirect")]
    UpstreamRedirect,
    /// The upstream did not respond within `upstream_timeout`.
    #[error("the upstream did not respond within upstream_timeout")]
    UpstreamTimeout,
    /// The upstream did not respond within `answer_within`; the exchange continues.
    #[error("the upstream did not respond within answer_within")]
    Deadline,
}

impl Reject {
    /// Returns the word for an exchange with an upstream that ended with this and not with a
    /// response.
    pub const fn upstream_failure(&self) -> &'static str {
        match self {
            Reject::UpstreamConnect => "connect",
            Reject::UpstreamTimeout | Reject::Deadline => "timeout",
            Reject::UpstreamReset => "reset",
            Reject::UpstreamRedirect => "redirect",
            Reject::Overloaded(_) => "overloaded",
            _ => "error",
        }
    }

    /// Returns the status for the sender. `unauthorized` is the scheme's status for requests that
    /// are not authentic.
    pub fn status(&self, unauthorized: StatusCode) -> StatusCode {
        match self {
            Reject::NotAccepted(Reason::ContextMismatch) | Reject::Replay => StatusCode::CONFLICT,
            Reject::NotAccepted(Reason::NotAllowed) => StatusCode::FORBIDDEN,
            Reject::NotAccepted(_) => unauthorized,
            Reject::InFlight
            | Reject::StoreUnavailable
            | Reject::GuardFull
            | Reject::EventsUnavailable
            | Reject::EventsFull
            | Reject::KeyPending(_)
            | Reject::KeysUnavailable
            | Reject::Unconfirmed
            | Reject::Overloaded(_) => StatusCode::SERVICE_UNAVAILABLE,
            Reject::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Reject::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Reject::ContentEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Reject::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Reject::NoRoute => StatusCode::NOT_FOUND,
            Reject::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Reject::BadRequest(_) | Reject::BodyAborted => StatusCode::BAD_REQUEST,
            Reject::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Reject::UpstreamConnect | Reject::UpstreamReset | Reject::UpstreamRedirect => {
                StatusCode::BAD_GATEWAY
            }
            Reject::UpstreamTimeout | Reject::Deadline => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Returns how the request is counted.
    pub fn outcome(&self) -> Outcome {
        match self {
            Reject::NotAccepted(_) | Reject::RateLimited { .. } => Outcome::Rejected,
            Reject::Replay => Outcome::Replay,
            Reject::InFlight
            | Reject::StoreUnavailable
            | Reject::GuardFull
            | Reject::EventsUnavailable
            | Reject::EventsFull
            | Reject::KeyPending(_)
            | Reject::KeysUnavailable
            | Reject::Unconfirmed
            | Reject::Overloaded(_) => Outcome::Unavailable,
            Reject::BodyTooLarge
            | Reject::BodyTimeout
            | Reject::BodyAborted
            | Reject::ContentEncoding
            | Reject::NoRoute
            | Reject::Method(_)
            | Reject::BadRequest(_)
            | Reject::HeadTooLarge
            | Reject::UpstreamConnect
            | Reject::UpstreamReset
            | Reject::UpstreamRedirect
            | Reject::UpstreamTimeout
            | Reject::Deadline => Outcome::Error,
        }
    }

    /// Returns the reason, if the request was not admitted or not accepted as authentic.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Reject::NotAccepted(reason) => Some(*reason),
            Reject::RateLimited { .. } => Some(Reason::RateLimited),
            _ => None,
        }
    }

    /// Returns the level of the log line. What the operator must fix is logged at a higher level
    /// than what any client can cause.
    pub fn level(&self) -> Level {
        match self {
            Reject::StoreUnavailable
            | Reject::GuardFull
            | Reject::KeysUnavailable
            | Reject::Unconfirmed
            | Reject::EventsUnavailable
            | Reject::EventsFull => Level::ERROR,
            Reject::NotAccepted(
                Reason::Stale
                | Reason::Future
                | Reason::RequiredHeader
                | Reason::ContextMismatch
                | Reason::Claim,
            )
            | Reject::Replay
            | Reject::InFlight
            | Reject::KeyPending(_)
            | Reject::Overloaded(_)
            | Reject::UpstreamConnect
            | Reject::UpstreamReset
            | Reject::UpstreamRedirect
            | Reject::UpstreamTimeout
            | Reject::Deadline => Level::WARN,
            Reject::NotAccepted(_)
            | Reject::RateLimited { .. }
            | Reject::BodyTooLarge
            | Reject::BodyTimeout
            | Reject::BodyAborted
            | Reject::ContentEncoding
            | Reject::NoRoute
            | Reject::Method(_)
            | Reject::BadRequest(_)
            | Reject::HeadTooLarge => Level::INFO,
        }
    }

    /// Returns whether the outcome of a forward is known: the upstream received nothing, or
    /// responded in full. Otherwise it may have acted.
    pub fn is_known_outcome(&self) -> bool {
        matches!(
            self,
            Reject::UpstreamConnect
                | Reject::UpstreamRedirect
                | Reject::Overloaded(_)
                | Reject::BadRequest(_)
        )
    }

    /// Returns the seconds for `Retry-After`, if the sender should retry.
    pub fn retry_after(&self) -> Option<u64> {
        match (self, self.outcome()) {
            (Reject::RateLimited { seconds }, _) => Some(*seconds),
            (_, Outcome::Unavailable) => Some(2),
            _ => None,
        }
    }
}

impl From<Reason> for Reject {
    fn from(reason: Reason) -> Self {
        Reject::NotAccepted(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_every_reason_once_and_in_order() {
        assert!(Reason::ALL.is_sorted());
        let labels: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(labels.len(), Reason::ALL.len());
    }

    #[test]
    fn rejections_have_the_status_of_the_scheme() {
        for reason in Reason::ALL {
            let expected = match reason {
                Reason::ContextMismatch => StatusCode::CONFLICT,
                Reason::NotAllowed => StatusCode::FORBIDDEN,
                _ => StatusCode::UNAUTHORIZED,
            };
            assert_eq!(Reject::from(reason).status(StatusCode::UNAUTHORIZED), expected);
        }
    }
}
