use std::{path::Path, time::Duration};

use super::*;

#[test]
fn every_built_in_scheme_compiles_under_its_own_id() {
    let ids: Vec<_> = Scheme::builtin_ids().collect();
    assert!(ids.len() >= 30);
    assert!(ids.is_sorted());
    for id in ids {
        let text = Scheme::builtin_text(id).expect("a text");
        let scheme = Scheme::parse(id, text).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(scheme.id(), id);
        assert!(scheme.memory() >= Duration::from_secs(86_400));
        assert!(scheme.answer_within() >= Duration::from_millis(500), "{id}");
        assert!(!scheme.documents.is_empty(), "{id}");
        let methods = scheme.challenges.iter().map(|h| h.method.as_str());
        for method in methods {
            assert!(scheme.methods().contains(method), "{id}: {method}");
        }
        // What the sender does not sign is said in its notes too.
        assert!(scheme.warning().is_none() || !scheme.notes().is_empty(), "{id}");
    }
    assert!(Scheme::builtin("nobody").is_none());
}

#[test]
fn every_alias_is_the_scheme_under_the_name_of_its_sender() {
    let mut names: Vec<_> = Scheme::builtin_ids().map(str::to_owned).collect();
    let mut senders = std::collections::BTreeSet::new();
    for scheme in Scheme::builtins() {
        senders.insert(scheme.name().to_owned());
        for alias in &scheme.aliases {
            let named = Scheme::builtin(&alias.id).unwrap_or_else(|| panic!("{}", alias.id));
            assert_eq!((named.id(), named.name()), (&*alias.id, &*alias.name));
            assert_eq!(named.file_id(), scheme.id());
            assert_eq!(named.documents(), std::slice::from_ref(&alias.document));
            assert_eq!(named.message_notation(), scheme.message_notation());
            assert_eq!(Scheme::builtin_text(&alias.id), Scheme::builtin_text(scheme.id()));
            names.push(alias.id.to_string());
            assert!(senders.insert(alias.name.clone()), "{}: listed twice", alias.name);
        }
    }
    // HubSpot, GitLab, Shopify and Grafana have several schemes.
    assert!(senders.len() >= 145, "{}", senders.len());
    names.sort();
    assert_eq!(Scheme::builtin_names().collect::<Vec<_>>(), names);
    names.dedup();
    assert_eq!(Scheme::builtin_names().count(), names.len(), "a name has two schemes");
}

#[test]
fn suggests_over_all_names() {
    let suggestion = |name| Scheme::suggestion(name, std::iter::once("own-sender"));
    for (typed, meant) in
        [("opnai", "openai"), ("sripe", "stripe"), ("own-sendr", "own-sender"), ("clrek", "clerk")]
    {
        assert_eq!(suggestion(typed), Some(meant));
    }
    assert_eq!(suggestion("nothing-like-it-at-all"), None);
}

#[test]
fn every_file_of_the_folder_is_built_in() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemes");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    files.sort();
    assert_eq!(files, Scheme::builtin_ids().collect::<Vec<_>>());
}

#[test]
fn the_table_in_the_documentation_is_true() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemes.md");
    let expected = format!(
        "# The built-in schemes\n\n\
         {} names. This table is generated from the files in `schemes/`:\n\
         `SEALGATE_WRITE_DOCS=1 cargo test --lib the_table`. A test keeps it current.\n\n\
         *As*: the sender signs like another one, and the scheme is that one under a second name.\n\n\
         *Unconfirmed*: some facts were not found in the sender's own documents or libraries, so try it\n\
         with `mode = \"observe\"` first. *Sources* are the pages that the description follows.\n\n\
         *Body signed: no*: the sender sends a static token or signs something other than the body. Anyone\n\
         who has seen one request can send another body.\n\n\
         *A replayer can change*: what someone who holds a captured request can change so that it is\n\
         forwarded again. If a header is listed with a grammar, list the values that you expect under\n\
         `require_headers`. Without a window, a captured request is rejected only while its event is on\n\
         record.\n\n\
         `sealgate schemes ID` prints what a sender expects of a response and what is special about it. To\n\
         describe another sender, see [add-a-sender.md](add-a-sender.md).\n\n{}\n\
         ## Requests that test the URL\n\n\
         The gateway responds to these itself, and never forwards them. An unsigned one is recognized by\n\
         its exact shape; anything else is verified as an event.\n\n{}\n\
         ## Methods\n\n\
         All other senders use POST. `methods` of a route replaces the methods of its scheme.\n\n{}",
        Scheme::builtin_names().count(),
        Scheme::table(),
        Scheme::challenge_table(),
        Scheme::method_table(),
    );
    if std::env::var_os("SEALGATE_WRITE_DOCS").is_some() {
        std::fs::write(&path, &expected).expect("written");
    }
    let found = std::fs::read_to_string(&path).expect("docs/schemes.md");
    assert!(found == expected, "docs/schemes.md is not what the schemes say: generate it again");
}

#[test]
fn the_example_of_the_documentation_compiles() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/add-a-sender.md");
    let text = std::fs::read_to_string(path).expect("docs/add-a-sender.md");
    let example = text.split("```toml\n").find(|block| block.starts_with("id = \"acme\""));
    let example = example.and_then(|block| block.split("```").next()).expect("an example");
    let scheme = Scheme::parse("acme.toml", example).unwrap_or_else(|report| panic!("{report}"));
    let verifier = Verifier::new(scheme, "acme", global("acme-secret-0001")).expect("a secret");
    let body = payload(b"{\"id\":\"e1\"}");
    let headers = HeaderMap::new();
    let draft = Draft { method: Method::POST, path: "/webhooks/acme", headers, body: &body };
    let mut head = post(&[]);
    head.headers = verifier.sign(None, draft, UnixMillis(NOW)).expect("signed");
    let verified = verifier.verify(&head, &body, UnixMillis(NOW)).expect("authentic");
    assert_eq!(verified.event_id().map(HeaderValue::as_bytes), Some(&b"e1"[..]));
}

#[test]
fn schemes_in_words() {
    let list = Scheme::list();
    assert_eq!(list.lines().count(), Scheme::builtin_names().count());
    for scheme in Scheme::builtin_names().filter_map(Scheme::builtin) {
        let described = scheme.describe();
        for part in
            ["proof", "configure", "event", "window", "retries", "answer within", "document"]
        {
            assert!(described.contains(&format!("\n  {part} ")), "{}: {part}", scheme.id());
        }
    }
    let described = Scheme::builtin("openai").expect("an alias").describe();
    assert!(described.starts_with("OpenAI (openai)\n  signs as      standard-webhooks\n"));
    assert!(list.lines().any(|line| line.starts_with("github ") && line.contains("HMAC-SHA-256")));
    let described = Scheme::builtin("pitchpoint").expect("built in").describe();
    for part in
        ["JWT RS256", "WARNING", "`jwt.subject`", "403 Forbidden rejected", "x-pps-webhook-id"]
    {
        assert!(described.contains(part), "{part}\n{described}");
    }
    let described = Scheme::builtin("tally").expect("built in").describe();
    assert!(described.contains("UNCONFIRMED"), "{described}");
}
