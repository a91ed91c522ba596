//! Secrets: from the environment, from a file, or (for tests and demos) as they stand. No message
//! ever shows one.

use std::os::unix::fs::PermissionsExt;

use super::Surroundings;
use crate::{document::Field, secret::Secret};

/// Shorter ones can be found by trying.
const SHORT: usize = 16;

/// How secrets begin that were copied from a sender's documentation.
const PLACEHOLDERS: &[&str] = &[
    "your-",
    "your ",
    "your_",
    "<",
    "changeme",
    "change-me",
    "change_me",
    "replace",
    "example",
    "placeholder",
    "todo",
    "xxx",
];

/// One secret or a list of them. What is wrong with any is recorded; only good ones are given.
pub(super) fn read_all(field: &Field<'_>, surroundings: &Surroundings<'_>) -> Vec<Secret> {
    let items = field.items();
    if items.is_empty() {
        field.error(format!("`{}` has no secret", field.path()), None);
    }
    items.iter().filter_map(|item| read(item, surroundings)).collect()
}

/// One secret, in one of its forms.
pub(super) fn read(field: &Field<'_>, surroundings: &Surroundings<'_>) -> Option<Secret> {
    let (bytes, place) = if field.is_text() {
        let help = "use { env = \"NAME\" } or { file = \"path\" }";
        field.warning(
            format!("`{}` stands in the file itself: for tests and demos only", field.path()),
            Some(help.to_owned()),
        );
        (field.text()?.into_bytes(), "it".to_owned())
    } else if field.is_table() {
        from_elsewhere(field, surroundings)?
    } else {
        let help = "write { env = \"NAME\" }, { file = \"path\" } or, for tests, a string";
        field.error(format!("`{}` is no secret", field.path()), Some(help.to_owned()));
        return None;
    };
    checked(field, Secret::new(bytes), &place)
}

fn from_elsewhere(field: &Field<'_>, surroundings: &Surroundings<'_>) -> Option<(Vec<u8>, String)> {
    let section = field.section()?;
    let (env, file) = (section.get("env"), section.get("file"));
    let found = match (env, file) {
        (Some(env), None) => env.text().and_then(|name| {
            let value = (surroundings.environment)(&name);
            if value.is_none() {
                let help =
                    format!("export {name}=… before the start, or use {{ file = \"path\" }}");
                env.error(format!("the environment has no variable {name}"), Some(help));
            }
            value.map(|value| (value.into_bytes(), format!("the variable {name}")))
        }),
        (None, Some(file)) => file.text().and_then(|name| {
            let path = surroundings.base.join(name);
            let place = path.display().to_string();
            match std::fs::read(&path) {
                Ok(mut bytes) => {
                    if bytes.last() == Some(&b'\n') {
                        bytes.pop();
                        if bytes.last() == Some(&b'\r') {
                            bytes.pop();
                        }
                    }
                    let mode = std::fs::metadata(&path).map_or(0, |m| m.permissions().mode());
                    if mode & 0o007 != 0 {
                        let help = format!("chmod o-rwx {place}");
                        file.warning(format!("{place} is open to everybody"), Some(help));
                    }
                    Some((bytes, place))
                }
                Err(error) => {
                    file.error(format!("{place} cannot be read: {error}"), None);
                    None
                }
            }
        }),
        _ => {
            field.error("a secret has either `env` or `file`", None);
            None
        }
    };
    section.finish();
    found
}

fn checked(field: &Field<'_>, secret: Secret, place: &str) -> Option<Secret> {
    let bytes = secret.expose();
    let refuse = |what: &str, help: &str| {
        field.error(format!("the secret for `{}` {what}", field.path()), Some(help.to_owned()));
        None
    };
    if bytes.trim_ascii().is_empty() {
        return refuse("is empty", &format!("put the key that the sender shows into {place}"));
    }
    let lower = bytes.to_ascii_lowercase();
    let placeholder = PLACEHOLDERS.iter().any(|start| lower.starts_with(start.as_bytes()))
        || [b"secret".as_slice(), b"password", b"test", b"whsec_"].contains(&lower.as_slice());
    if placeholder {
        return refuse(
            "is a placeholder that anybody can read in a documentation",
            &format!("put the key that the sender shows into {place}"),
        );
    }
    if bytes.len() != bytes.trim_ascii().len() {
        let help = "if the sender's key has none there, remove it";
        let what = format!("the secret for `{}` begins or ends with white space", field.path());
        field.warning(what, Some(help.to_owned()));
    }
    if bytes.len() < SHORT {
        let help = "let the sender make a longer one";
        let what = format!("the secret for `{}` is shorter than {SHORT} bytes", field.path());
        field.warning(what, Some(help.to_owned()));
    }
    Some(secret)
}
