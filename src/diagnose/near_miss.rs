//! The closed list of near misses. Each has a stable code for tools, and a text for people that
//! says what it means and what to do.

mod text;

use super::rewrite::{JsonEscapes, JsonLayout};
use crate::scheme::SecretForm;

/// A change under which a rejected request would have verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NearMiss {
    /// Another key of the route signed.
    OtherKey {
        /// Its name.
        key: String,
    },
    /// A key of another route signed.
    OtherRoutesKey {
        /// The route's name.
        route: String,
        /// The key's name.
        key: String,
    },
    /// Another route would have accepted the request as it is.
    OtherRoute {
        /// Its name.
        route: String,
    },
    /// Another scheme signed, with a secret of the route.
    OtherScheme {
        /// Its id.
        scheme: String,
    },
    /// The configured secret has white space around it that the sender's does not have.
    SecretHasSpace {
        /// The key's name.
        key: String,
    },
    /// The sender's secret has white space around it that the configured one does not have.
    SecretLacksSpace {
        /// The key's name.
        key: String,
    },
    /// The configured secret is in quotation marks.
    SecretQuoted {
        /// The key's name.
        key: String,
    },
    /// The sender derives its key from the secret differently than the scheme.
    SecretForm {
        /// The key's name.
        key: String,
        /// How the sender reads the secret.
        form: SecretForm,
    },
    /// A newline was added at the end of the body.
    NewlineAdded,
    /// The newline at the end of the body was removed.
    NewlineRemoved,
    /// LF was changed to CRLF.
    LineEndsToCrlf,
    /// CRLF was changed to LF.
    LineEndsToLf,
    /// A byte order mark was added before the body.
    ByteOrderMarkAdded,
    /// The byte order mark before the body was removed.
    ByteOrderMarkRemoved,
    /// The body is signed as the same JSON with other white space or escapes.
    Json {
        /// Where the signed text has white space.
        layout: JsonLayout,
        /// What the signed text escapes.
        escapes: JsonEscapes,
    },
    /// The body arrived compressed and was signed before compression.
    BodyCompressed,
    /// The body was signed compressed and arrived decompressed.
    BodyDecompressed,
    /// The body's digest is signed instead of the body.
    DigestForBody,
    /// The body is signed instead of its digest.
    BodyForDigest,
    /// The timestamp is sent and signed in another unit than the scheme's.
    TimestampUnit {
        /// The unit in the request.
        sent: &'static str,
    },
    /// The timestamp is signed in another unit than the one that was sent.
    TimestampSigned {
        /// The unit in the request.
        sent: &'static str,
    },
    /// The signature is in another encoding than the scheme's.
    Encoding {
        /// The signature's header.
        header: String,
        /// The encoding that was used.
        encoding: &'static str,
    },
    /// The signature lacks its prefix.
    PrefixMissing {
        /// The signature's header.
        header: String,
        /// The prefix.
        prefix: String,
    },
    /// The signature has a prefix that it must not have.
    PrefixExtra {
        /// The signature's header.
        header: String,
        /// The prefix.
        prefix: &'static str,
    },
    /// The signature is in its header, but the header has another format than the scheme's.
    SignatureForm {
        /// The signature's header.
        header: String,
    },
    /// The sender uses another hash function than the scheme.
    OtherHash {
        /// The hash that was used.
        hash: &'static str,
    },
    /// The signature has the length of another hash function's.
    SignatureLength {
        /// The signature's header.
        header: String,
        /// Its length in bytes.
        length: usize,
        /// The hash function of this length.
        hash: &'static str,
    },
    /// The signature covers the digest that the request names, but the body has another one.
    BodyChanged {
        /// Where the request names the digest.
        place: String,
    },
    /// The body has the digest that the request names, but the signature does not verify.
    OtherSecret {
        /// Where the request names the digest.
        place: String,
    },
    /// A header arrived under another name.
    HeaderName {
        /// The scheme's name for it.
        expected: String,
        /// The name under which it arrived, if that is similar to the scheme's. Other names are the
        /// sender's free choice and are not shown.
        found: Option<String>,
    },
    /// Another address than `public_url` is signed.
    Address {
        /// The part that differs.
        part: AddressPart,
        /// The signed address.
        address: String,
    },
    /// Only the time is wrong.
    Clock {
        /// Our clock minus the request's, in milliseconds.
        age: i64,
    },
}

/// The part in which the signed address differs from `public_url`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressPart {
    /// `http` or `https`.
    Scheme,
    /// The host.
    Host,
    /// The port: given or omitted.
    Port,
    /// The slash at the end of the path.
    Slash,
    /// The path.
    Path,
    /// The percent-encoding of the path.
    Encoding,
    /// The order of the parameters.
    QueryOrder,
    /// The query.
    Query,
}

impl AddressPart {
    /// Returns the code of the near miss.
    pub(super) fn code(self) -> &'static str {
        match self {
            AddressPart::Scheme => "url_scheme",
            AddressPart::Host => "url_host",
            AddressPart::Port => "url_port",
            AddressPart::Slash => "url_slash",
            AddressPart::Path => "url_path",
            AddressPart::Encoding => "url_encoding",
            AddressPart::QueryOrder => "url_query_order",
            AddressPart::Query => "url_query",
        }
    }

    /// Returns the part in words.
    pub(super) fn words(self) -> &'static str {
        match self {
            AddressPart::Scheme => "in `http` or `https`",
            AddressPart::Host => "in the host",
            AddressPart::Port => "in the port",
            AddressPart::Slash => "in the slash at the end of the path",
            AddressPart::Path => "in the path",
            AddressPart::Encoding => "in the percent-encoding of the path",
            AddressPart::QueryOrder => "in the order of the parameters",
            AddressPart::Query => "in the query",
        }
    }
}

impl NearMiss {
    /// Every code.
    pub const CODES: [&'static str; 42] = [
        "other_key",
        "other_route_key",
        "other_route",
        "other_scheme",
        "secret_has_space",
        "secret_lacks_space",
        "secret_quoted",
        "secret_form",
        "body_newline_added",
        "body_newline_removed",
        "body_lf_to_crlf",
        "body_crlf_to_lf",
        "body_bom_added",
        "body_bom_removed",
        "body_json_compact",
        "body_json_spaced",
        "body_json_indented_2",
        "body_json_indented_4",
        "body_compressed",
        "body_decompressed",
        "digest_for_body",
        "body_for_digest",
        "timestamp_unit",
        "timestamp_signed_unit",
        "signature_encoding",
        "signature_prefix_missing",
        "signature_prefix_extra",
        "signature_form",
        "other_hash",
        "signature_length",
        "body_changed",
        "other_secret",
        "header_name",
        "url_scheme",
        "url_host",
        "url_port",
        "url_slash",
        "url_path",
        "url_encoding",
        "url_query_order",
        "url_query",
        "clock",
    ];

    /// Returns the code for tools and the log; it stays the same from version to version.
    pub fn code(&self) -> &'static str {
        match self {
            NearMiss::OtherKey { .. } => "other_key",
            NearMiss::OtherRoutesKey { .. } => "other_route_key",
            NearMiss::OtherRoute { .. } => "other_route",
            NearMiss::OtherScheme { .. } => "other_scheme",
            NearMiss::SecretHasSpace { .. } => "secret_has_space",
            NearMiss::SecretLacksSpace { .. } => "secret_lacks_space",
            NearMiss::SecretQuoted { .. } => "secret_quoted",
            NearMiss::SecretForm { .. } => "secret_form",
            NearMiss::NewlineAdded => "body_newline_added",
            NearMiss::NewlineRemoved => "body_newline_removed",
            NearMiss::LineEndsToCrlf => "body_lf_to_crlf",
            NearMiss::LineEndsToLf => "body_crlf_to_lf",
            NearMiss::ByteOrderMarkAdded => "body_bom_added",
            NearMiss::ByteOrderMarkRemoved => "body_bom_removed",
            NearMiss::Json { layout: JsonLayout::Compact, .. } => "body_json_compact",
            NearMiss::Json { layout: JsonLayout::Spaced, .. } => "body_json_spaced",
            NearMiss::Json { layout: JsonLayout::Indented2, .. } => "body_json_indented_2",
            NearMiss::Json { layout: JsonLayout::Indented4, .. } => "body_json_indented_4",
            NearMiss::BodyCompressed => "body_compressed",
            NearMiss::BodyDecompressed => "body_decompressed",
            NearMiss::DigestForBody => "digest_for_body",
            NearMiss::BodyForDigest => "body_for_digest",
            NearMiss::TimestampUnit { .. } => "timestamp_unit",
            NearMiss::TimestampSigned { .. } => "timestamp_signed_unit",
            NearMiss::Encoding { .. } => "signature_encoding",
            NearMiss::PrefixMissing { .. } => "signature_prefix_missing",
            NearMiss::PrefixExtra { .. } => "signature_prefix_extra",
            NearMiss::SignatureForm { .. } => "signature_form",
            NearMiss::OtherHash { .. } => "other_hash",
            NearMiss::SignatureLength { .. } => "signature_length",
            NearMiss::BodyChanged { .. } => "body_changed",
            NearMiss::OtherSecret { .. } => "other_secret",
            NearMiss::HeaderName { .. } => "header_name",
            NearMiss::Address { part, .. } => part.code(),
            NearMiss::Clock { .. } => "clock",
        }
    }
}
