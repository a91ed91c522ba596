//! The texts of near misses, for people.

use super::NearMiss;
use crate::{diagnose::rewrite::JsonLayout, scheme::SecretForm};

impl NearMiss {
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
