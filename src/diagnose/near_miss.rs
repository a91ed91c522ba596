//! The closed list of near misses. Each has a stable code for tools, and a text for people that
//! says what it means and what to do.

use super::{
    address::AddressPart,
    rewrite::{JsonEscapes, JsonLayout},
};
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

    /// Describes what it means and what to do.
    pub fn text(&self) -> String {
        let between = "Something between the sender and the gateway changes bodies (a proxy, a \
                       firewall, a script that stores and forwards): configure it to pass the bytes \
                       unchanged.";
        match self {
            NearMiss::OtherKey { key } => format!(
                "Signed with the secret of the key `{key}`, but the request names another key. Add \
                 this secret to the key that the request names, or have the sender use the right \
                 secret."
            ),
            NearMiss::OtherRoutesKey { route, key } => format!(
                "Signed with the secret `{key}` of the route `{route}`. Either the sender uses the \
                 wrong URL, or the secrets of the two routes are swapped."
            ),
            NearMiss::OtherRoute { route } => format!(
                "The route `{route}` would accept this request as it is: the sender uses the wrong \
                 URL. Register the path of `{route}` at the sender."
            ),
            NearMiss::OtherScheme { scheme } => format!(
                "Signed with this secret, but in the format of the scheme `{scheme}`. If that is the \
                 sender, set scheme = \"{scheme}\"."
            ),
            NearMiss::SecretHasSpace { key } => format!(
                "The configured secret of `{key}` has white space around it that the sender's \
                 secret does not have. Remove it; a file may end with at most one newline."
            ),
            NearMiss::SecretLacksSpace { key } => format!(
                "The sender's secret of `{key}` has white space around it (usually a newline that was \
                 copied with it). Enter the secret again at the sender without it."
            ),
            NearMiss::SecretQuoted { key } => format!(
                "The configured secret of `{key}` is in quotation marks that are not part of it. \
                 Remove them."
            ),
            NearMiss::SecretForm { key, form } => {
                let form = match form {
                    SecretForm::Text => "as plain text",
                    SecretForm::Hex => "as hexadecimal, decoded",
                    SecretForm::Base64 => "as base64, decoded",
                };
                format!(
                    "The sender uses the secret of `{key}` {form}; the scheme reads it differently. Use \
                     the sender's own scheme, or write a scheme with another [key]."
                )
            }
            NearMiss::NewlineAdded => {
                format!("The body verifies without the newline at its end. {between}")
            }
            NearMiss::NewlineRemoved => {
                format!("The body verifies with a newline at its end, which is missing. {between}")
            }
            NearMiss::LineEndsToCrlf => {
                format!("The body verifies with LF in place of CRLF. {between}")
            }
            NearMiss::LineEndsToLf => {
                format!("The body verifies with CRLF in place of LF. {between}")
            }
            NearMiss::ByteOrderMarkAdded => {
                format!("The body verifies without the byte order mark at its start. {between}")
            }
            NearMiss::ByteOrderMarkRemoved => {
                format!("The body verifies with a byte order mark at its start. {between}")
            }
            NearMiss::Json { layout, escapes } => format!(
                "The body verifies when its JSON is written {}{}. Either something between the \
                 sender and the gateway parses bodies and serializes them again (configure it to pass \
                 the bytes unchanged), or the sender signs a different text than it sends.",
                match layout {
                    JsonLayout::Compact => "without white space",
                    JsonLayout::Spaced => "with a space after each comma and colon",
                    JsonLayout::Indented2 => "with an indentation of two spaces",
                    JsonLayout::Indented4 => "with an indentation of four spaces",
                },
                match (escapes.slash, escapes.unicode, escapes.html) {
                    (false, false, false) => "",
                    (true, true, _) => ", with `\\/` and `\\u…` as PHP's json_encode does",
                    (true, false, _) => ", with `\\/`",
                    (false, true, _) => ", with `\\u…` for what is not ASCII",
                    (false, false, true) => ", with `\\u…` for `<`, `>` and `&` as Go does",
                }
            ),
            NearMiss::BodyCompressed => format!(
                "The body arrived compressed with gzip and was signed before compression. {between}"
            ),
            NearMiss::BodyDecompressed => format!(
                "The body was signed compressed with gzip and arrived decompressed. {between}"
            ),
            NearMiss::DigestForBody => {
                "The body's SHA-256 is signed where the scheme signs the body. \
                 If the sender is your own, sign the bytes of the body; otherwise use the sender's \
                 scheme."
                    .to_owned()
            }
            NearMiss::BodyForDigest => {
                "The body is signed where the scheme signs its SHA-256. If the \
                 sender is your own, sign the digest in lower-case hexadecimal; otherwise use the \
                 sender's scheme."
                    .to_owned()
            }
            NearMiss::TimestampUnit { sent } => format!(
                "The timestamp is in {sent}; the scheme expects the other of seconds and \
                 milliseconds. The sender must use the scheme's unit, or your own scheme must set \
                 unit = \"auto\"."
            ),
            NearMiss::TimestampSigned { sent } => format!(
                "The timestamp was sent in {sent} and signed in the other of seconds and \
                 milliseconds. The sender must sign the text that it sends."
            ),
            NearMiss::Encoding { header, encoding } => format!(
                "The signature in `{header}` is right, but its encoding is {encoding}. If the sender \
                 is your own, use the scheme's encoding (`sealgate schemes` shows it)."
            ),
            NearMiss::PrefixMissing { header, prefix } => format!(
                "The signature in `{header}` is right, but its prefix `{prefix}` is missing. If the \
                 sender is your own, add the prefix; otherwise find out what removes it."
            ),
            NearMiss::PrefixExtra { header, prefix } => format!(
                "The signature in `{header}` is right, but has the prefix `{prefix}`. If the sender \
                 is your own, omit the prefix."
            ),
            NearMiss::SignatureForm { header } => format!(
                "The signature in `{header}` is right, but the format of the header is not the \
                 scheme's: it has another separator or names its fields differently. `sealgate \
                 sign` prints the format that the scheme reads."
            ),
            NearMiss::OtherHash { hash } => format!(
                "The signature verifies with {hash}. If the scheme is your own, set \
                 hash = \"{}\"; otherwise the sender uses another version of its signatures.",
                hash.to_lowercase().replace('-', "")
            ),
            NearMiss::SignatureLength { header, length, hash } => format!(
                "The signature in `{header}` has {length} bytes, which is the length of {hash}, not \
                 of the scheme's hash. If the scheme is your own, set hash = \"{}\"; the secret \
                 differs as well.",
                hash.to_lowercase().replace('-', "")
            ),
            NearMiss::BodyChanged { place } => format!(
                "The secret is right and the body was changed: the signature verifies with the \
                 digest in {place}, but the body has another digest. {between}"
            ),
            NearMiss::OtherSecret { place } => format!(
                "The configured secret is another one than the sender's: the signature does not \
                 verify, although the body is unchanged (it has the digest in {place}). If the \
                 secret is right, a signed header was changed."
            ),
            NearMiss::HeaderName { expected, found } => format!(
                "The value of the header `{expected}` arrived in {}. If a proxy renames headers, \
                 configure it to pass them unchanged; if the sender is your own, correct the name.",
                found.as_ref().map_or("another header".to_owned(), |found| format!("`{found}`"))
            ),
            NearMiss::Address { part, address } => format!(
                "The address `{address}` is signed, which differs from `public_url` {}. Set \
                 `public_url` to the address that is registered at the sender.",
                part.words()
            ),
            NearMiss::Clock { age } => clock(*age),
        }
    }
}

fn clock(age: i64) -> String {
    let seconds = age.unsigned_abs() as f64 / 1000.0;
    if age < 0 {
        format!(
            "Authentic, but {seconds:.0} s ahead of this machine's clock. Check the clocks of both \
             (`timedatectl`, chrony)."
        )
    } else {
        format!(
            "Authentic, but {seconds:.0} s old by this machine's clock. Check the clock \
             (`timedatectl`, chrony); if it is right, the request was delayed on its way or sent \
             again by someone else. To verify a capture as of its own time, use --at."
        )
    }
}
