//! The closed list of near misses: a stable code for tools, and what it means and what to do for people.

use super::json::{Escapes, Layout};
use crate::scheme::SecretForm;

/// What would have made a refused request verify.
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
    /// Another route would have taken the request as it is.
    OtherRoute {
        /// Its name.
        route: String,
    },
    /// Another scheme signed, with a secret of the route.
    OtherScheme {
        /// Its id.
        scheme: String,
    },
    /// The configured secret has white space around it that the sender's has not.
    SecretHasSpace {
        /// The key's name.
        key: String,
    },
    /// The sender's secret has white space around it that the configured one has not.
    SecretLacksSpace {
        /// The key's name.
        key: String,
    },
    /// The configured secret stands in quotation marks.
    SecretQuoted {
        /// The key's name.
        key: String,
    },
    /// The sender makes its key from the secret in another way than the scheme.
    SecretForm {
        /// The key's name.
        key: String,
        /// The sender's way.
        form: SecretForm,
    },
    /// A newline came to the end of the body.
    NewlineAdded,
    /// The newline at the end of the body went.
    NewlineRemoved,
    /// LF became CRLF.
    LineEndsToCrlf,
    /// CRLF became LF.
    LineEndsToLf,
    /// A byte order mark came before the body.
    ByteOrderMarkAdded,
    /// The byte order mark before the body went.
    ByteOrderMarkRemoved,
    /// The body is signed as JSON written otherwise.
    Json {
        /// Where its white space is.
        layout: Layout,
        /// What it escapes.
        escapes: Escapes,
    },
    /// The body came compressed, and is signed as it was before.
    BodyCompressed,
    /// The body is signed compressed, and came decompressed.
    BodyDecompressed,
    /// The body's digest is signed instead of the body.
    DigestForBody,
    /// The body is signed instead of its digest.
    BodyForDigest,
    /// The timestamp is in another unit than the scheme's, and signed so.
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
    /// What must stand before the signature does not.
    PrefixMissing {
        /// The signature's header.
        header: String,
        /// What must stand there.
        prefix: String,
    },
    /// Something stands before the signature that must not.
    PrefixExtra {
        /// The signature's header.
        header: String,
        /// What stands there.
        prefix: &'static str,
    },
    /// The signature is in its header, but the header is not divided as the scheme says.
    SignatureForm {
        /// The signature's header.
        header: String,
    },
    /// A header came under another name.
    HeaderName {
        /// The scheme's name for it.
        expected: String,
        /// The name under which it came, if that is like the scheme's: others are the request's to
        /// choose and are not shown.
        found: Option<String>,
    },
    /// Only the time is wrong.
    Clock {
        /// Our clock minus the request's, in milliseconds.
        age: i64,
    },
}

impl NearMiss {
    /// Every code.
    pub const CODES: [&'static str; 30] = [
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
        "header_name",
        "clock",
    ];

    /// The word for tools and for the log; it stays the same from version to version.
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
            NearMiss::Json { layout: Layout::Compact, .. } => "body_json_compact",
            NearMiss::Json { layout: Layout::Spaced, .. } => "body_json_spaced",
            NearMiss::Json { layout: Layout::Indented2, .. } => "body_json_indented_2",
            NearMiss::Json { layout: Layout::Indented4, .. } => "body_json_indented_4",
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
            NearMiss::HeaderName { .. } => "header_name",
            NearMiss::Clock { .. } => "clock",
        }
    }

    /// What it means and what to do.
    pub fn text(&self) -> String {
        let between = "Something between the sender and here changes bodies (a proxy, a firewall, a \
                       script that saves and sends on): let it pass the bytes as they come.";
        match self {
            NearMiss::OtherKey { key } => format!(
                "Signed with the secret of the key `{key}`, which is not the key that the request \
                 names. Give the key that it names this secret too, or have the sender sign with the \
                 right one."
            ),
            NearMiss::OtherRoutesKey { route, key } => format!(
                "Signed with the secret `{key}` of the route `{route}`. Either the sender calls the \
                 wrong address, or the secrets of the two routes are mixed up."
            ),
            NearMiss::OtherRoute { route } => format!(
                "The route `{route}` would take this request as it is: the sender calls the wrong \
                 address. Register the path of `{route}` there."
            ),
            NearMiss::OtherScheme { scheme } => format!(
                "Signed with this secret, but as the scheme `{scheme}` says. Write \
                 scheme = \"{scheme}\" if that is the sender."
            ),
            NearMiss::SecretHasSpace { key } => format!(
                "The configured secret of `{key}` has white space around it that the sender's has \
                 not. Remove it; a file may end in one newline, not in more."
            ),
            NearMiss::SecretLacksSpace { key } => format!(
                "The sender's secret of `{key}` has white space around it (usually a newline that was \
                 copied along). Enter it anew at the sender without it."
            ),
            NearMiss::SecretQuoted { key } => format!(
                "The configured secret of `{key}` stands in quotation marks that are not part of it. \
                 Remove them."
            ),
            NearMiss::SecretForm { key, form } => {
                let form = match form {
                    SecretForm::Text => "as plain text",
                    SecretForm::Hex => "as hexadecimal, decoded",
                    SecretForm::Base64 => "as base64, decoded",
                };
                format!(
                    "The sender takes the secret of `{key}` {form}; the scheme reads it otherwise. Use \
                     the sender's own scheme, or a scheme of your own with another [key]."
                )
            }
            NearMiss::NewlineAdded => {
                format!("The body fits without the newline at its end. {between}")
            }
            NearMiss::NewlineRemoved => {
                format!("The body fits with a newline at its end, which is missing. {between}")
            }
            NearMiss::LineEndsToCrlf => {
                format!("The body fits with LF where it has CRLF. {between}")
            }
            NearMiss::LineEndsToLf => {
                format!("The body fits with CRLF where it has LF. {between}")
            }
            NearMiss::ByteOrderMarkAdded => {
                format!("The body fits without the byte order mark at its start. {between}")
            }
            NearMiss::ByteOrderMarkRemoved => {
                format!("The body fits with a byte order mark at its start. {between}")
            }
            NearMiss::Json { layout, escapes } => format!(
                "The body fits when its JSON is written {}{}. Either something between the sender and \
                 here parses bodies and writes them anew (let it pass the bytes as they come), or the \
                 sender signs another text than it sends.",
                match layout {
                    Layout::Compact => "without white space",
                    Layout::Spaced => "with a space after each comma and colon",
                    Layout::Indented2 => "in lines indented by two spaces",
                    Layout::Indented4 => "in lines indented by four spaces",
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
                "The body came compressed by gzip and is signed as it was before. {between}"
            ),
            NearMiss::BodyDecompressed => format!(
                "The body is signed compressed by gzip and came decompressed. {between}"
            ),
            NearMiss::DigestForBody => "The body's SHA-256 is signed where the scheme signs the body. \
                 If you made the sender: sign the body's bytes; otherwise use the sender's own scheme."
                .to_owned(),
            NearMiss::BodyForDigest => "The body is signed where the scheme signs its SHA-256. If you \
                 made the sender: sign the digest in lower-case hexadecimal; otherwise use the \
                 sender's own scheme."
                .to_owned(),
            NearMiss::TimestampUnit { sent } => format!(
                "The timestamp is in {sent}, the scheme has the other of seconds and milliseconds. \
                 The sender must send the scheme's unit, or the scheme of your own must say \
                 unit = \"auto\"."
            ),
            NearMiss::TimestampSigned { sent } => format!(
                "The timestamp was sent in {sent} and signed in the other of seconds and milliseconds. \
                 The sender must sign the text that it sends."
            ),
            NearMiss::Encoding { header, encoding } => format!(
                "The signature in `{header}` is right, but written as {encoding}. If you made the \
                 sender: write it as the scheme says (`sealgate schemes` tells how)."
            ),
            NearMiss::PrefixMissing { header, prefix } => format!(
                "The signature in `{header}` is right, but `{prefix}` is missing before it. If you \
                 made the sender: write it there; otherwise look for what removes it."
            ),
            NearMiss::PrefixExtra { header, prefix } => format!(
                "The signature in `{header}` is right, but `{prefix}` stands before it. If you made \
                 the sender: leave it out."
            ),
            NearMiss::SignatureForm { header } => format!(
                "The signature in `{header}` is right, but the header is not divided as the scheme \
                 says. `sealgate sign` shows how it must look."
            ),
            NearMiss::HeaderName { expected, found } => format!(
                "What must stand in the header `{expected}` came in {}. If a proxy renames headers, let \
                 it pass them as they come; if you made the sender, correct the name.",
                found.as_ref().map_or("another one".to_owned(), |found| format!("`{found}`"))
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
             (`timedatectl`, chrony); if it is right, the request was held up on its way or was sent \
             once more by somebody. To judge a capture as of its own time: --at."
        )
    }
}
