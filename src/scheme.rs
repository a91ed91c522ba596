//! Schemes: how senders authenticate their requests.
//!
//! A scheme is a TOML file. [`Scheme::parse`] compiles it once. Together with the keys of a route
//! it makes a [`Verifier`], which verifies requests. The result, [`Verified`], is the proof that a
//! request is authentic; nothing else creates one.

mod buffered_hash;
mod catalog;
mod compile;
mod compiled;
mod encoding;
mod form;
mod hex;
mod hypothesis;
mod json;
mod keyset;
mod mac;
mod multipart;
mod public_key;
mod selector;
mod sign;
mod text;
mod time;
mod verified;
mod verify;

pub(crate) use self::form::fields as form_fields;
pub use self::{
    catalog::guess::SchemeGuess,
    compile::prepare::{Credentials, JwtCredentials},
    compile::read::methods as read_methods,
    compiled::Scheme,
    encoding::SecretForm,
    hypothesis::Hypothesis,
    keyset::{KeySet, named::NamedKeys},
    selector::ValueSelector,
    sign::Draft,
    time::UnixMillis,
    verified::{ContextPin, EventKey, RequestIdentity, Verified},
    verify::{
        Verifier,
        challenge::ChallengeReply,
        details::{SignedPart, UnverifiedDetails},
        head::HeadCheck,
    },
};

#[cfg(test)]
mod tests;
