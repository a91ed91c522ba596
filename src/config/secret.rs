//! Secrets from the environment, from a file, or (for tests and demos) from the configuration
//! itself. No message quotes a secret or a value written in place of one.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, hash_map::Entry},
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use http::HeaderValue;
use zeroize::Zeroizing;

use super::Surroundings;
use crate::{document::Field, scheme::Scheme, secret::Secret};

/// Secrets with fewer bytes than this can be guessed by brute force.
const SHORT: usize = 16;

/// The longest file that is accepted as a secret, in bytes.
const LONGEST: usize = 64 << 10;

/// Prefixes of placeholders that were copied from a sender's documentation, separated by `|`.
const PLACEHOLDER_STARTS: &str = "your-|your_|your |<|${|{{|[|...|changeme|change-me|change_me|\
    change me|replace-|replace_|replace |insert-|insert_|insert |enter-|enter_|enter |example|\
    placeholder|todo|fixme|xxx|my-secret|my_secret|mysecret|secret-key|secret_key|secretkey|\
    webhook-secret|webhook_secret|whsec_your|whsec_xxx|whsec_example|whsec_placeholder|\
    whsec_secret|whsec_test_secret|whsec_...|whsec_<";

/// Placeholders that are too short to serve as prefixes.
const PLACEHOLDERS: &str = "secret|password|test|key|token|none|null|undefined|default|whsec_|\
    mykey|foobar|hunter2";

/// What a value in one of the forms of a secret is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Verifies requests: weak, published and shared secrets are reported.
    Verify,
    /// A public key, which is not confidential.
    PublicKey,
    /// A header value sent to the upstream.
    Header,
    /// The address of a store, which may contain a password.
    Address,
    /// The key of the event store.
    Encryption,
}

/// The secrets that were read so far, to find one that several keys use.
#[derive(Default)]
pub(super) struct KnownSecrets {
    first: RefCell<HashMap<Secret, FirstUse>>,
    by_owner: RefCell<BTreeMap<String, Vec<Secret>>>,
}

/// The key that used a secret first.
struct FirstUse {
    owner: String,
    line: usize,
    /// The ID of its scheme, and whether the scheme answers challenges with MACs.
    scheme: Option<(String, bool)>,
}

impl KnownSecrets {
    /// Records that `secret` is a key of `owner`, and reports whether another key uses it too.
    ///
    /// That is an error between different schemes if one of them answers challenges with MACs:
    /// anyone could have it sign a text, and send that to the other route as an event.
    pub(super) fn add(
        &self,
        field: &Field<'_>,
        secret: &Secret,
        owner: &str,
        scheme: Option<&Scheme>,
    ) {
        let scheme = scheme.map(|scheme| (scheme.id().to_owned(), scheme.answers_with_macs()));
        match self.first.borrow_mut().entry(secret.clone()) {
            Entry::Occupied(other) => {
                let FirstUse { owner: other, line, scheme: others } = other.get();
                let what =
                    format!("the secret for {owner} is the same as for {other} (line {line})");
                let signing = [&scheme, others].into_iter().flatten().find(|(_, signs)| *signs);
                match signing {
                    Some((id, _)) if scheme != *others => {
                        let help = format!(
                            "the challenges of `{id}` sign texts that anyone may choose: use \
                             different secrets"
                        );
                        field.error(what, Some(help));
                    }
                    _ => {
                        let help = "create a secret for each: with a shared secret, one of them can \
                                    forge events of the other";
                        field.warning(what, Some(help.to_owned()));
                    }
                }
            }
            Entry::Vacant(free) => {
                free.insert(FirstUse { owner: owner.to_owned(), line: field.line(), scheme });
            }
        }
        self.by_owner.borrow_mut().entry(owner.to_owned()).or_default().push(secret.clone());
    }

    /// Returns all secrets, by owner.
    pub(super) fn by_owner(&self) -> BTreeMap<String, Vec<Secret>> {
        self.by_owner.borrow().clone()
    }
}

/// Reads one secret or a list. An invalid one is `None`, and its error is recorded.
pub(super) fn read_all<'r>(
    field: &Field<'r>,
    purpose: Use,
    surroundings: &Surroundings<'_>,
) -> Vec<(Field<'r>, Option<Secret>)> {
    let items = field.items();
    if items.is_empty() {
        field.error(format!("`{}` has no secret", field.path()), None);
    }
    let read = |item: Field<'r>| {
        let secret = read(&item, purpose, surroundings);
        (item, secret)
    };
    items.into_iter().map(read).collect()
}

/// Reads a value in one of the forms of a secret: `{ env = "NAME" }`, `{ file = "path" }`,
/// `"text"`.
pub(super) fn read(
    field: &Field<'_>,
    purpose: Use,
    surroundings: &Surroundings<'_>,
) -> Option<Secret> {
    let forms = "{ env = \"NAME\" } or { file = \"path\" }";
    let (secret, place) = if field.is_text() {
        field.conceal();
        let secret = Secret::new(field.text()?.into_bytes());
        let open = match purpose {
            Use::Verify | Use::Header => true,
            Use::Address | Use::Encryption => secret.expose().contains(&b'@'),
            Use::PublicKey => false,
        };
        if open {
            let what = format!(
                "the secret for `{}` is written in the configuration: use this for tests and demos only",
                field.path()
            );
            field.warning(what, Some(format!("use {forms}")));
        }
        (secret, "this value".to_owned())
    } else if field.is_table() {
        from_elsewhere(field, purpose, surroundings)?
    } else {
        field.conceal();
        let what = format!("`{}` must be {forms}", field.path());
        field.error(what, Some("or, for tests and demos only, a string".to_owned()));
        return None;
    };
    checked(field, secret, purpose, &place)
}

/// Returns the value that `{ env = … }` or `{ file = … }` refers to, and a name for its source.
fn from_elsewhere(
    field: &Field<'_>,
    purpose: Use,
    surroundings: &Surroundings<'_>,
) -> Option<(Secret, String)> {
    let section = field.section()?;
    let (env, file) = (section.get("env"), section.get("file"));
    let found = match (env, file) {
        (Some(env), None) => from_environment(&env, surroundings),
        (None, Some(file)) => from_file(&file, purpose, surroundings),
        (Some(_), Some(_)) => {
            field.conceal();
            field.error("a secret has either `env` or `file`, not both", None);
            None
        }
        (None, None) => {
            let help = "write { env = \"NAME\" } or { file = \"path\" }".to_owned();
            section.error(format!("`{}` has neither `env` nor `file`", field.path()), Some(help));
            None
        }
    };
    section.finish();
    found
}

fn from_environment(env: &Field<'_>, surroundings: &Surroundings<'_>) -> Option<(Secret, String)> {
    let name = env.text()?;
    if let Some(value) = (surroundings.environment)(&name) {
        return Some((Secret::new(value.into_bytes()), format!("the variable {name}")));
    }
    if is_usual_name(&name) {
        let help =
            format!("export {name}=… before you start sealgate, or use {{ file = \"path\" }}");
        env.error(format!("the environment has no variable `{name}`"), Some(help));
    } else {
        env.conceal();
        let help = "`env` is the name of the variable that contains the secret".to_owned();
        env.error("the environment has no variable of this name", Some(help));
    }
    None
}

/// Returns whether a text looks like the name of a variable. Any other text may be the secret
/// itself, written here by mistake.
fn is_usual_name(name: &str) -> bool {
    let usual = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    name.len() <= 64 && name.chars().all(usual)
}

fn from_file(
    file: &Field<'_>,
    purpose: Use,
    surroundings: &Surroundings<'_>,
) -> Option<(Secret, String)> {
    let path = surroundings.file(&file.text()?);
    let place = path.display().to_string();
    let mut bytes = match bounded(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let help = "the path is relative to the directory of this file; the user that runs \
                        the gateway must be able to read it";
            file.error(format!("{place} cannot be read: {error}"), Some(help.to_owned()));
            return None;
        }
    };
    if bytes.len() > LONGEST {
        file.error(
            format!("{place} is longer than {} KiB, so it is not a secret", LONGEST >> 10),
            None,
        );
        return None;
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    if purpose != Use::PublicKey {
        // Secrets from systemd and Kubernetes belong to root and are readable by the service's
        // group.
        warn_if_open(file, &path, 0o027);
    }
    Some((Secret::new(std::mem::take(&mut *bytes)), place))
}

/// Reads at most one byte more than the longest secret. The buffer never grows, so no copy remains
/// in memory: its capacity is the file's length, or the longest secret if the length is unknown.
fn bounded(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path)?;
    let data = file.metadata()?;
    let length = usize::try_from(data.len()).unwrap_or(usize::MAX);
    let known = data.is_file() && (1..LONGEST).contains(&length);
    let most = if known { length } else { LONGEST + 1 };
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 64));
    file.take(most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Warns if a file that contains a secret has any of these permissions.
pub(super) fn warn_if_open(field: &Field<'_>, path: &Path, permissions: u32) {
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if mode & permissions != 0 {
        let place = path.display();
        let help = format!("chmod 600 {place}");
        let what = format!("{place} is open to other users (mode {:03o})", mode & 0o777);
        field.warning(what, Some(help));
    }
}

/// Rejects values that cannot be a secret, and warns about weak ones. `place` names the source.
fn checked(field: &Field<'_>, secret: Secret, purpose: Use, place: &str) -> Option<Secret> {
    let bytes = secret.expose();
    let path = field.path();
    let help = match purpose {
        Use::Verify | Use::PublicKey => "the key that the sender shows",
        Use::Header => "a long random value (openssl rand -hex 32)",
        Use::Address => "the address",
        Use::Encryption => "a random key (openssl rand -base64 32)",
    };
    let help = format!("put {help} into {place}");
    if bytes.is_empty() {
        field.error(format!("the secret for `{path}` is empty"), Some(help));
        return None;
    }
    if bytes.trim_ascii().is_empty() {
        field.error(format!("the secret for `{path}` contains only white space"), Some(help));
        return None;
    }
    if matches!(purpose, Use::Address | Use::Encryption) {
        return Some(secret);
    }
    if is_placeholder(bytes) {
        let what = format!("the secret for `{path}` is a placeholder from documentation");
        field.error(what, Some(help));
        return None;
    }
    if purpose == Use::PublicKey {
        return Some(secret);
    }
    let padded = bytes.len() != bytes.trim_ascii().len();
    if purpose == Use::Header && (padded || HeaderValue::from_bytes(bytes).is_err()) {
        let what = format!("the secret for `{path}` is not a valid header value");
        field
            .error(what, Some("use visible characters without surrounding white space".to_owned()));
        return None;
    }
    if let Some((what, help)) = misencoded(bytes) {
        field.warning(format!("the secret for `{path}` {what}"), Some(help.to_owned()));
    }
    if padded {
        let help = "remove it unless the sender's key contains it";
        let what = format!("the secret for `{path}` begins or ends with white space");
        field.warning(what, Some(help.to_owned()));
    }
    if bytes.len() < SHORT {
        let help = match purpose {
            Use::Header => "create a longer one: openssl rand -hex 32",
            Use::Verify | Use::PublicKey | Use::Address | Use::Encryption => {
                "ask the sender for a longer one"
            }
        };
        let what = format!("the secret for `{path}` is shorter than {SHORT} bytes");
        field.warning(what, Some(help.to_owned()));
    }
    Some(secret)
}

/// Returns how a secret was damaged by an editor or a shell, and how to repair it.
fn misencoded(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let utf16 = |mark: [u8; 2], zero: usize| {
        let text = bytes.strip_prefix(&mark);
        text.is_some_and(|text| text.chunks_exact(2).all(|unit| unit[zero] == 0))
    };
    let quoted = |quote: u8| bytes.len() > 1 && bytes[0] == quote && bytes.ends_with(&[quote]);
    if utf16([0xff, 0xfe], 1) || utf16([0xfe, 0xff], 0) {
        Some((
            "is encoded in UTF-16",
            "save the file as ASCII or as UTF-8 without a byte order mark",
        ))
    } else if bytes.starts_with(b"\xef\xbb\xbf") {
        Some(("begins with a byte order mark", "save the file as UTF-8 without a byte order mark"))
    } else if quoted(b'"') || quoted(b'\'') {
        Some(("is enclosed in quotes", "remove the quotes unless the sender's key contains them"))
    } else {
        None
    }
}

/// Returns whether a text is a placeholder from documentation, in any case, quoted or not.
fn is_placeholder(bytes: &[u8]) -> bool {
    let lower = Zeroizing::new(bytes.to_ascii_lowercase());
    let text = lower.trim_ascii();
    let text = text.strip_prefix(b"\"").or(text.strip_prefix(b"'")).unwrap_or(text);
    let one_character = text.len() > 1 && text.iter().all(|byte| *byte == text[0]);
    one_character
        || PLACEHOLDER_STARTS.split('|').any(|start| text.starts_with(start.as_bytes()))
        || PLACEHOLDERS.split('|').any(|known| text == known.as_bytes())
}
