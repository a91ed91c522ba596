//! The one list of ways in which a request ends without the upstream's answer: its status, its
//! metric label, its log level. Every match here is exhaustive, so a new way must say all three.

use http::StatusCode;
use tracing::Level;

/// Why a request is not let in or not accepted as authentic, in the order of precedence: when several apply, the
/// first is told (to the log and the metrics; the sender is never told).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The client is not on the route's allow-list.
    NotAllowed,
    /// The client, or the route, is over its rate limit.
    RateLimited,
    /// A header that the scheme needs is absent.
    MissingHeader,
    /// A security header came twice, or an underscore twin of it came.
    DuplicateHeader,
    /// The signature, or the event id, is outside its grammar.
    MalformedSignature,
    /// The timestamp is outside its grammar.
    MalformedTimestamp,
    /// The sender names an algorithm other than the scheme's.
    BadAlg,
    /// The token is not a well-formed JWT of the pinned kind.
    MalformedToken,
    /// The body, read to choose the key or the event id, is outside its grammar.
    MalformedBody,
    /// No configured key serves what the request names.
    UnknownKey,
    /// The token names a key that the key set does not have.
    UnknownKid,
    /// The signature is not the one that the key makes.
    BadSignature,
    /// A claim of the token (issuer, audience, subject …) is not the configured one.
    Claim,
    /// A header that must agree with what is signed does not.
    Inconsistent,
    /// Authentic, but too old, and no record of the event exists.
    Stale,
    /// Authentic, but from the future.
    Future,
    /// A header that the operator requires is absent or has another value.
    RequiredHeader,
    /// Authentic, but the unsigned context differs from that of the event's first request.
    ContextMismatch,
}

impl Reason {
    /// All reasons, in the order of precedence.
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

    /// The metric label, also the word in the log.
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

    /// What it means, in a sentence for people.
    pub const fn meaning(self) -> &'static str {
        match self {
            Reason::NotAllowed => "the sender's address is not on the route's allow-list",
            Reason::RateLimited => "the address has sent more than the route's rate limit",
            Reason::MissingHeader => "a header that the scheme needs is absent",
            Reason::DuplicateHeader => "a security header came twice, or with `_` where it has `-`",
            Reason::MalformedSignature => {
                "the signature or the event id is not written as the scheme says"
            }
            Reason::MalformedTimestamp => "the timestamp is not written as the scheme says",
            Reason::BadAlg => "the sender names another algorithm than the scheme's",
            Reason::MalformedToken => "the token is no JWT of the kind that the scheme takes",
            Reason::MalformedBody => "the body is not what the scheme must read in it",
            Reason::UnknownKey => "no key is configured for what the request names",
            Reason::UnknownKid => "the token names a key that the key set has not",
            Reason::BadSignature => "the signature is not the one that the key makes",
            Reason::Claim => "a claim of the token is not the configured one",
            Reason::Inconsistent => "a header does not agree with what is signed",
            Reason::Stale => "authentic, but too old",
            Reason::Future => "authentic, but from the future",
            Reason::RequiredHeader => {
                "authentic, but a required header is absent or has another value"
            }
            Reason::ContextMismatch => {
                "authentic, but unsigned headers are others than in the event's first request"
            }
        }
    }
}

/// How a request ended, as counted in `sealgate_requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The upstream's answer to this very request went to the sender.
    Forwarded,
    /// A retry of an event that is done: acknowledged, not forwarded.
    Duplicate,
    /// The same request once more: not forwarded.
    Replay,
    /// A copy that came while another was in flight, and got that one's outcome.
    Joined,
    /// A sender's question whether the address is ours, answered here.
    Challenge,
    /// Not accepted as authentic.
    Rejected,
    /// Could not be judged or taken now; the sender is asked to come again.
    Unavailable,
    /// Anything else: malformed HTTP, limits, no route, an upstream that failed.
    Error,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Outcome; 8] = [
        Outcome::Forwarded,
        Outcome::Duplicate,
        Outcome::Replay,
        Outcome::Joined,
        Outcome::Challenge,
        Outcome::Rejected,
        Outcome::Unavailable,
        Outcome::Error,
    ];

    /// The metric label, the word in the log and the value of `Sealgate-Answer`.
    pub const fn label(self) -> &'static str {
        match self {
            Outcome::Forwarded => "forwarded",
            Outcome::Duplicate => "duplicate",
            Outcome::Replay => "replay",
            Outcome::Joined => "joined",
            Outcome::Challenge => "handshake",
            Outcome::Rejected => "rejected",
            Outcome::Unavailable => "unavailable",
            Outcome::Error => "error",
        }
    }
}

/// A request that ends here, without the upstream's answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// Not authentic, or authentic and refused for its age or context.
    #[error("refused: {}", .0.label())]
    Refused(Reason),
    /// The same request once more, after its 2xx was written out.
    #[error("replay of an acknowledged request")]
    Replay,
    /// Copies of the event are in flight and none had an outcome before `answer_within`.
    #[error("another copy of the event is still in flight")]
    InFlight,
    /// The replay store cannot be asked.
    #[error("the replay store is out of reach")]
    StoreUnavailable,
    /// The replay guard is full of records that still protect.
    #[error("the replay guard is full")]
    GuardFull,
    /// The key set cannot be fetched.
    #[error("the key set is out of reach")]
    KeysUnavailable,
    /// No memory is left for another body, no slot for another upstream request, or no place for
    /// another request at all.
    #[error("over capacity: {0}")]
    Overloaded(&'static str),
    /// The body is longer than the route allows.
    #[error("the body is over the limit")]
    BodyTooLarge,
    /// The body did not arrive in time.
    #[error("the body did not arrive in time")]
    BodyTimeout,
    /// The sender broke off within the body.
    #[error("the body broke off")]
    BodyAborted,
    /// `Content-Encoding` other than identity.
    #[error("the body is encoded")]
    ContentEncoding,
    /// The client, or the route, is over its rate limit.
    #[error("over the rate limit")]
    RateLimited {
        /// When it may come again.
        seconds: u64,
    },
    /// No route has this host and path.
    #[error("no such route")]
    NoRoute,
    /// The route does not take this method; the value of `Allow`.
    #[error("wrong method")]
    Method(&'static str),
    /// HTTP that could be understood in two ways, or not at all.
    #[error("ambiguous or malformed HTTP: {0}")]
    BadRequest(&'static str),
    /// The head has too many bytes or header lines.
    #[error("the head is over the limit")]
    HeadTooLarge,
    /// No connection to the upstream; nothing was sent.
    #[error("the upstream cannot be connected to")]
    UpstreamConnect,
    /// The upstream broke off, or sent what is not HTTP; what it did is unknown.
    #[error("the upstream broke off")]
    UpstreamReset,
    /// The upstream answered with a redirect, which no sender follows.
    #[error("the upstream redirects")]
    UpstreamRedirect,
    /// The upstream had not answered within `upstream_timeout`.
    #[error("the upstream has not answered in time")]
    UpstreamTimeout,
    /// The upstream had not answered within `answer_within`; the call goes on.
    #[error("the upstream has not answered yet")]
    Deadline,
}

impl Reject {
    /// The status for the sender. `refusal` is the scheme's status for what is not authentic.
    pub fn status(&self, refusal: StatusCode) -> StatusCode {
        match self {
            Reject::Refused(Reason::ContextMismatch) | Reject::Replay => StatusCode::CONFLICT,
            Reject::Refused(Reason::NotAllowed) => StatusCode::FORBIDDEN,
            Reject::Refused(_) => refusal,
            Reject::InFlight
            | Reject::StoreUnavailable
            | Reject::GuardFull
            | Reject::KeysUnavailable
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

    /// How the request is counted.
    pub fn outcome(&self) -> Outcome {
        match self {
            Reject::Refused(_) | Reject::RateLimited { .. } => Outcome::Rejected,
            Reject::Replay => Outcome::Replay,
            Reject::InFlight
            | Reject::StoreUnavailable
            | Reject::GuardFull
            | Reject::KeysUnavailable
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

    /// Why the request was refused, if it was refused as not authentic or at the route's door.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Reject::Refused(reason) => Some(*reason),
            Reject::RateLimited { .. } => Some(Reason::RateLimited),
            _ => None,
        }
    }

    /// How loud the log is: what the operator must mend is louder than what the internet does.
    pub fn level(&self) -> Level {
        match self {
            Reject::StoreUnavailable | Reject::GuardFull | Reject::KeysUnavailable => Level::ERROR,
            Reject::Refused(Reason::NotAllowed) | Reject::RateLimited { .. } => Level::INFO,
            Reject::Refused(_)
            | Reject::Replay
            | Reject::InFlight
            | Reject::Overloaded(_)
            | Reject::UpstreamConnect
            | Reject::UpstreamReset
            | Reject::UpstreamRedirect
            | Reject::UpstreamTimeout
            | Reject::Deadline => Level::WARN,
            Reject::BodyTooLarge
            | Reject::BodyTimeout
            | Reject::BodyAborted
            | Reject::ContentEncoding
            | Reject::NoRoute
            | Reject::Method(_)
            | Reject::BadRequest(_)
            | Reject::HeadTooLarge => Level::INFO,
        }
    }

    /// Of an event that was to be forwarded: whether the upstream got nothing of it, or has answered in
    /// full. Otherwise it may have acted, and nobody knows.
    pub fn leaves_no_doubt(&self) -> bool {
        matches!(
            self,
            Reject::UpstreamConnect
                | Reject::UpstreamRedirect
                | Reject::Overloaded(_)
                | Reject::BadRequest(_)
        )
    }

    /// Seconds for `Retry-After`, where the sender should come again.
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
        Reject::Refused(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_listed_in_their_order_and_each_once() {
        assert!(Reason::ALL.is_sorted());
        let labels: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(labels.len(), Reason::ALL.len());
    }

    #[test]
    fn every_refusal_of_authenticity_has_the_schemes_status() {
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
