//! A compiled scheme: the data that [`Scheme::parse`] creates and that verification reads.

pub(super) mod challenge;
pub(super) mod event;
pub(super) mod fetched;
pub(super) mod key;
pub(super) mod message_signature;
pub(super) mod signature;
pub(super) mod template;
pub(super) mod token;
pub(super) mod url;

use std::{sync::Arc, time::Duration};

use http::{HeaderName, StatusCode};

use self::{
    challenge::ChallengeRule,
    event::{EventRule, IdentityRule},
    fetched::{FetchedKeys, SchemeSetting},
    key::{KeyChoice, KeyForm},
    message_signature::MessageSignatureRule,
    signature::{SignatureRule, SignedHeadersRule},
    template::{Inputs, Template, ValueSource},
    token::TokenRules,
    url::UrlRule,
};
use super::{mac::HashAlgorithm, public_key::PublicKeyAlgorithm, time::TimeUnit};

/// What proves that a request is authentic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProofKind {
    /// An HMAC of the message.
    Hmac(HashAlgorithm),
    /// A plain digest of the message, which contains the secret.
    Digest(HashAlgorithm),
    /// The secret itself, sent along.
    Token,
    /// User and password (RFC 7617): the secret is `user:password`.
    Basic,
    /// A signature with a private key.
    PublicKey(PublicKeyAlgorithm),
    /// A JSON Web Token.
    Jwt,
}

/// How the sender behaves, according to the scheme file.
#[derive(Clone, Debug)]
pub(super) struct SenderProfile {
    pub(super) answer_within: Duration,
    pub(super) retries: String,
    pub(super) memory: Duration,
    pub(super) success: StatusCode,
    pub(super) rejection: StatusCode,
    pub(super) methods: &'static str,
    pub(super) body: u64,
    pub(super) bare_answers: bool,
    /// Headers that it sends with every event, each with an example value, for `sign` and `send`.
    pub(super) headers: Vec<(HeaderName, String)>,
}

/// The signed time of sending.
#[derive(Clone, Debug)]
pub(super) struct TimestampRule {
    pub(super) from: ValueSource,
    pub(super) unit: TimeUnit,
    pub(super) window: Duration,
    pub(super) future: Duration,
}

/// A value that, where the request has it, must equal what the template yields.
#[derive(Clone, Debug)]
pub(super) struct Agreement {
    pub(super) value: ValueSource,
    pub(super) with: Template,
    pub(super) ignore_case: bool,
}

/// What a request must have to be verified at all.
#[derive(Clone, Debug, Default)]
pub(super) struct RequiredInputs {
    pub(super) headers: Vec<usize>,
    pub(super) items: Vec<usize>,
    pub(super) others: Vec<ValueSource>,
}

/// A sender whose requests are signed exactly as the scheme describes.
#[derive(Clone, Debug)]
pub(super) struct SchemeAlias {
    /// The value of `scheme = "…"`.
    pub(super) id: Arc<str>,
    pub(super) name: String,
    /// The sender's page that shows this.
    pub(super) document: String,
    pub(super) confirmed: bool,
    pub(super) notes: Vec<String>,
}

/// A compiled scheme.
#[derive(Clone, Debug)]
pub struct Scheme {
    pub(super) id: Arc<str>,
    /// Other names of the scheme, for senders that sign alike.
    pub(super) aliases: Vec<SchemeAlias>,
    /// The ID of the scheme that this one is under an alias.
    pub(super) same_as: Option<Arc<str>>,
    pub(super) name: String,
    pub(super) documents: Vec<String>,
    pub(super) confirmed: bool,
    pub(super) notes: Vec<String>,
    pub(super) sender: SenderProfile,
    pub(super) kind: ProofKind,
    pub(super) inputs: Inputs,
    pub(super) required: RequiredInputs,
    pub(super) signature: SignatureRule,
    pub(super) message: Template,
    /// What is required of message signatures, if the sender uses them.
    pub(super) message_signature: Option<MessageSignatureRule>,
    /// How the headers are signed that the sender lists.
    pub(super) signed_headers: Option<SignedHeadersRule>,
    /// Other messages, for requests that have the value.
    pub(super) variants: Vec<(ValueSource, Template)>,
    /// The pointer to the elements, where each of them is signed by itself.
    pub(super) each: Option<u16>,
    pub(super) token: Option<TokenRules>,
    pub(super) timestamp: Option<TimestampRule>,
    pub(super) key: KeyForm,
    pub(super) choice: KeyChoice,
    pub(super) event: EventRule,
    pub(super) identity: IdentityRule,
    /// The slots of the pinned headers.
    pub(super) pinned: Vec<usize>,
    pub(super) agree: Vec<Agreement>,
    pub(super) challenges: Vec<ChallengeRule>,
    /// Whether a challenge reveals MACs of words that could be bodies.
    pub(super) oracle: bool,
    /// Whether a body that is not JSON is accepted too: its members count as absent.
    pub(super) accepts_non_json: bool,
    pub(super) body_signed: bool,
    pub(super) wants_digest: bool,
    pub(super) needs_url: bool,
    pub(super) url: UrlRule,
    /// Whether the body is part of the context that all requests for an event share: it is neither
    /// signed byte for byte nor part of the record's key.
    pub(super) pins_body: bool,
    /// Members of the body that must be scalars if they are present, and the character that they
    /// must not contain.
    pub(super) scalars: Vec<(u16, Option<char>)>,
    /// What the operator configures in `[route.settings]`.
    pub(super) settings: Vec<SchemeSetting>,
    /// How keys are fetched that requests name.
    pub(super) fetched: Option<FetchedKeys>,
    /// The name and the index pointer of each key space.
    pub(super) spaces: Vec<(String, String)>,
}

impl Scheme {
    /// Returns the ID: the value of `scheme = "…"` and of `Sealgate-Verified`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the ID of the scheme's file: its own, or under an alias that of the original.
    pub fn file_id(&self) -> &str {
        self.same_as.as_ref().unwrap_or(&self.id)
    }

    /// Returns the sender's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the addresses of the sender's documents that the scheme follows.
    pub fn documents(&self) -> &[String] {
        &self.documents
    }

    /// Returns what a user should know about the sender, in sentences.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns how the sender retries, in words.
    pub fn retries(&self) -> &str {
        &self.sender.retries
    }

    /// Returns whether a document, a library or a vector confirms every fact of the scheme.
    pub fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// Returns whether the signature covers the body.
    pub fn covers_body(&self) -> bool {
        self.body_signed
    }

    /// Returns the status for a request that is not authentic: 401, Pitchpoint 403.
    pub fn rejection(&self) -> StatusCode {
        self.sender.rejection
    }

    /// Returns the status for an acknowledged event.
    pub fn success(&self) -> StatusCode {
        self.sender.success
    }

    /// Returns the sender's methods, as the value of `Allow`.
    pub fn methods(&self) -> &'static str {
        self.sender.methods
    }

    /// Returns whether the sender accepts no response with a body or a cookie, whatever its status.
    pub fn wants_bare_answers(&self) -> bool {
        self.sender.bare_answers
    }

    /// Returns the time within which the sender must get a response: just under its own timeout.
    pub fn answer_within(&self) -> Duration {
        self.sender.answer_within
    }

    /// Returns how long an event must stay on record.
    pub fn memory(&self) -> Duration {
        self.sender.memory
    }

    /// Returns the time window in which a request counts as fresh; `None` without a timestamp.
    pub fn window(&self) -> Option<Duration> {
        self.timestamp.as_ref().map(|timestamp| timestamp.window)
    }

    /// Returns the length of the longest body that the sender sends.
    pub fn body_limit(&self) -> u64 {
        self.sender.body
    }

    /// Returns the headers that carry a signature; none if the body does.
    pub fn signature_headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.signature.from.iter().filter_map(|source| match source {
            ValueSource::Header(slot) => Some(&self.inputs.headers[*slot]),
            _ => None,
        })
    }

    /// Returns the claims that the operator must configure in `[route.jwt]`.
    pub fn claims(&self) -> &[Box<str>] {
        self.token.as_ref().map(|rules| rules.configured.as_slice()).unwrap_or_default()
    }

    /// Returns whether the sender signs its URL, so that the operator must configure it.
    pub fn needs_public_url(&self) -> bool {
        self.needs_url
    }

    /// Returns the headers that carry a token or a password: anyone who reads one can send
    /// requests.
    pub fn token_headers(&self) -> impl Iterator<Item = &HeaderName> {
        let is_token = match self.kind {
            ProofKind::Jwt | ProofKind::Token | ProofKind::Basic => true,
            ProofKind::Hmac(_) | ProofKind::Digest(_) | ProofKind::PublicKey(_) => false,
        };
        self.signature_headers().filter(move |_| is_token)
    }

    /// Returns whether the operator must configure whose tokens are accepted: `subject`.
    pub fn needs_subject(&self) -> bool {
        self.claims().iter().any(|name| **name == *"subject")
    }

    /// Returns whether the head alone proves a request: a token or a password, and nothing that
    /// covers the body.
    pub(super) fn is_proven_by_head(&self) -> bool {
        let is_in_header = matches!(self.signature.from[0], ValueSource::Header(_));
        match self.kind {
            ProofKind::Jwt => true,
            ProofKind::Token | ProofKind::Basic => is_in_header && self.each.is_none(),
            ProofKind::Hmac(_) | ProofKind::Digest(_) | ProofKind::PublicKey(_) => false,
        }
    }

    /// Returns whether responses to challenges contain MACs of texts that the request chooses.
    pub fn answers_with_macs(&self) -> bool {
        self.challenges.iter().any(|challenge| challenge.mac.is_some())
    }

    /// Returns whether requests are verified with a public key.
    pub fn takes_public_key(&self) -> bool {
        self.public_key_algorithm().is_some()
    }

    /// Returns the algorithm of the public keys; `None` if requests are verified with a secret.
    pub(super) fn public_key_algorithm(&self) -> Option<PublicKeyAlgorithm> {
        match (self.kind, &self.token) {
            (ProofKind::PublicKey(algorithm), _) => Some(algorithm),
            (ProofKind::Jwt, Some(rules)) => rules.algorithm.public(),
            (
                ProofKind::Jwt
                | ProofKind::Hmac(_)
                | ProofKind::Digest(_)
                | ProofKind::Token
                | ProofKind::Basic,
                _,
            ) => None,
        }
    }

    /// Returns whether requests carry a JSON Web Token, so that claims can be required.
    pub fn takes_tokens(&self) -> bool {
        self.token.is_some()
    }

    /// Returns whether the sender's keys can be those of a key set: requests name their key.
    pub fn takes_key_set(&self) -> bool {
        self.takes_public_key() && (self.takes_tokens() || self.message_signature.is_some())
    }

    /// Returns every header that the scheme reads or pins.
    pub fn headers(&self) -> &[HeaderName] {
        &self.inputs.headers
    }

    /// Returns the name and the index pointer of each key space of group secrets.
    pub fn spaces(&self) -> &[(String, String)] {
        &self.spaces
    }
}
