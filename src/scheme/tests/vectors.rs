//! The known answers of `tests/vectors`: each scheme accepts and refuses what its sender's
//! documents, libraries and tests say.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::*;
use crate::{scheme::compiled::ProofKind, tls::ServerTrust};

#[derive(Deserialize)]
struct File {
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
pub(super) struct Vector {
    pub(super) name: String,
    pub(super) scheme: String,
    pub(super) label: String,
    pub(super) source: String,
    pub(super) route: String,
    #[serde(default = "default_method")]
    pub(super) method: String,
    #[serde(default = "default_path")]
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
    pub(super) now: i64,
    pub(super) keys: Option<String>,
    pub(super) roots: Option<String>,
    pub(super) expect: String,
}

fn default_method() -> String {
    "POST".to_owned()
}

fn default_path() -> String {
    "/webhooks/x".to_owned()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn texts(table: &toml::Table, key: &str) -> Vec<String> {
    match table.get(key) {
        None => Vec::new(),
        Some(toml::Value::Array(items)) => {
            items.iter().map(|item| item.as_str().expect("a string").to_owned()).collect()
        }
        Some(value) => vec![value.as_str().expect("a string").to_owned()],
    }
}

fn secrets(table: &toml::Table, key: &str) -> Vec<Secret> {
    texts(table, key).iter().map(|text| secret(text)).collect()
}

fn credentials(route: &toml::Table, keys: &Path) -> Credentials {
    let mut groups = Vec::new();
    for (space, table) in route.get("secrets").and_then(|s| s.as_table()).into_iter().flatten() {
        let table = table.as_table().expect("a table");
        for index in table.keys() {
            groups.push((space.clone(), index.parse().expect("a number"), secrets(table, index)));
        }
    }
    let empty = toml::Table::new();
    let jwt = route.get("jwt").and_then(|jwt| jwt.as_table()).unwrap_or(&empty);
    let folder = keys.parent().expect("a folder");
    let jwks = jwt.get("jwks").map(|_| KeySet::new("file:KEYS", folder, None).expect("a key set"));
    Credentials {
        global: secrets(route, "secret"),
        groups,
        public_keys: secrets(route, "public_key"),
        public_url: texts(route, "public_url").pop(),
        jwt: JwtCredentials {
            issuer: texts(jwt, "issuer"),
            audience: texts(jwt, "audience"),
            subject: texts(jwt, "subject"),
            jwks,
        },
        ..Credentials::default()
    }
}

/// The settings of a vector's route.
fn settings(scheme: &Scheme, route: &toml::Table) -> Vec<(Box<str>, Vec<Secret>)> {
    let empty = toml::Table::new();
    let table = route.get("settings").and_then(|table| table.as_table()).unwrap_or(&empty);
    let given: Vec<_> = table.keys().map(|name| (name.clone(), secrets(table, name))).collect();
    scheme.setting_values(&given).expect("the settings of the scheme")
}

/// The verifier of a vector's route.
fn judging(vector: &Vector) -> Verifier {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = folder.path().join("KEYS");
    if let Some(text) = &vector.keys {
        std::fs::write(&keys, text).expect("written");
    }
    let text = format!("[route]\n{}", vector.route);
    let route: toml::Table = toml::from_str(&text).expect("TOML");
    let route = route["route"].as_table().expect("a table");
    let scheme = Scheme::builtin(&vector.scheme).expect("a built-in scheme");
    let mut credentials = credentials(route, &keys);
    credentials.settings = settings(&scheme, route);
    let trust = match &vector.roots {
        Some(roots) => {
            let file = folder.path().join("ROOTS");
            std::fs::write(&file, roots).expect("written");
            ServerTrust::read(&file).expect("certificates")
        }
        None => ServerTrust::System,
    };
    credentials.named_keys = scheme.named_keys(&credentials.settings, trust);
    if let Some(named) = &credentials.named_keys {
        named.set_time(vector.now);
        let text = vector.keys.as_deref().expect("the keys that the sender serves");
        let served: BTreeMap<String, String> = serde_json::from_str(text).expect("keys by name");
        for (name, response) in served {
            // What cannot be used is as absent as what was not fetched.
            let _ = named.put(&name, response.as_bytes());
        }
    }
    Verifier::new(scheme, "r", credentials)
        .unwrap_or_else(|problems| panic!("{}: {problems:?}", vector.name))
}

fn judge(vector: &Vector) -> String {
    let verifier = judging(vector);
    let headers: Vec<_> =
        vector.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let method = vector.method.parse().expect("a method");
    let head = head(method, &vector.path, &headers);
    let body = payload(vector.body.as_bytes());
    match verifier.verify(&head, &body, UnixMillis(vector.now * 1000)) {
        Ok(verified) if verified.is_stale() => "reject:stale".to_owned(),
        Ok(_) => "accept".to_owned(),
        Err(Reject::NotAccepted(reason)) => format!("reject:{}", reason.label()),
        Err(reject) => format!("{reject}"),
    }
}

/// Returns every accepted vector with its verifier.
pub(super) fn accepted() -> Vec<(Vector, Verifier)> {
    let vectors = files().into_iter().flat_map(|file| file.vectors);
    let accepted = vectors.filter(|vector| vector.expect == "accept");
    let with_verifier = accepted.map(|vector| {
        let verifier = judging(&vector);
        (vector, verifier)
    });
    with_verifier.collect()
}

/// Returns the head and the body of a vector's request.
pub(super) fn request(vector: &Vector) -> (Parts, Vec<u8>) {
    let headers: Vec<_> =
        vector.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let sent = head(vector.method.parse().expect("a method"), &vector.path, &headers);
    (sent, vector.body.clone().into_bytes())
}

/// All vectors, by file.
fn files() -> Vec<File> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder()).expect("the folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = std::fs::read_to_string(&path).expect("a file");
            let file: File = serde_json::from_str(&text).expect("vectors");
            assert!(!file.vectors.is_empty(), "{}", path.display());
            files.push(file);
        }
    }
    files
}

/// Every byte of every header and of the body, changed one at a time: nothing panics, and where the
/// body is signed no changed body is authentic.
#[test]
fn changed_requests() {
    for vector in files().iter().flat_map(|file| &file.vectors) {
        if vector.expect != "accept" || vector.name.ends_with("at-the-edge") {
            continue;
        }
        let verifier = judging(vector);
        let now = UnixMillis(vector.now * 1000);
        let headers: Vec<_> =
            vector.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let sent = head(vector.method.parse().expect("a method"), &vector.path, &headers);
        for place in 0..vector.body.len() {
            let mut body = vector.body.clone().into_bytes();
            body[place] ^= 1;
            let judged = verifier.verify(&sent, &payload(&body), now);
            let form = vector.scheme == "twilio";
            assert!(
                judged.is_err() || form || !verifier.scheme().covers_body(),
                "{}: byte {place}",
                vector.name
            );
        }
        let body = payload(vector.body.as_bytes());
        for (number, (_, value)) in headers.iter().enumerate() {
            for place in 0..value.len() {
                let mut changed = headers.clone();
                let mut text = value.to_string().into_bytes();
                text[place] = text[place].wrapping_add(1).clamp(0x20, 0x7e);
                let text = String::from_utf8(text).expect("ASCII");
                changed[number].1 = &text;
                let sent = head(vector.method.parse().expect("a method"), &vector.path, &changed);
                let _ = verifier.verify(&sent, &body, now);
                let _ = verifier.challenge(&sent, &body, now);
            }
        }
    }
}

#[test]
fn all_vectors_agree_and_every_scheme_has_enough_of_them() {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut wrong = Vec::new();
    for file in files() {
        for vector in file.vectors {
            let labels = ["published", "independent", "derived"];
            assert!(labels.contains(&vector.label.as_str()), "{}", vector.name);
            assert!(!vector.source.is_empty(), "{}", vector.name);
            let found = judge(&vector);
            if found != vector.expect {
                wrong.push(format!("{}: {found}, not {}", vector.name, vector.expect));
            }
            let count = counts.entry(vector.scheme).or_default();
            match vector.expect.as_str() {
                "accept" => count.0 += 1,
                _ => count.1 += 1,
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for id in Scheme::builtin_ids() {
        let (accepted, refused) = counts.get(id).copied().unwrap_or_default();
        assert!(accepted >= 1 && refused >= 3, "{id}: {accepted} accepted, {refused} refused");
    }
}

/// Each accepted request is recognized by its headers, if they contain its signature and not a
/// token that could be anyone's.
#[test]
fn guesses_the_scheme_of_each_accepted_request() {
    let mut guessed = 0;
    for (vector, verifier) in accepted() {
        let scheme = verifier.scheme();
        let mut names = scheme.signature_headers();
        let is_token = matches!(scheme.kind, ProofKind::Token | ProofKind::Basic);
        let (sent, _) = request(&vector);
        let signed = names
            .any(|name| sent.headers.contains_key(name) && !(is_token && name == "authorization"));
        let found = Scheme::guesses(&sent.headers);
        let found: Vec<_> = found.iter().map(|guess| guess.scheme.id()).collect();
        assert!(!signed || !found.is_empty(), "{}", vector.name);
        guessed += usize::from(found.contains(&scheme.id()));
        // Other headers and the form of the signature leave few senders with the same header.
        assert!(found.len() <= 12, "{}: {found:?}", vector.name);
    }
    assert!(guessed >= 130, "{guessed}");
    let mut headers = HeaderMap::new();
    headers.insert("x-shopify-hmac-sha256", HeaderValue::from_static("no signature"));
    headers.insert("authorization", HeaderValue::from_static("Bearer anyone"));
    assert!(Scheme::guesses(&headers).is_empty());
}
