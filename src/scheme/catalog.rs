//! The schemes that are built in: the files of `schemes/`.

mod challenges;
mod describe;
pub(super) mod guess;

use std::sync::{Arc, LazyLock, OnceLock};

use crate::{document::nearest, scheme::compiled::Scheme};

macro_rules! files {
    ($($id:literal,)*) => {
        &[$(($id, include_str!(concat!("../../schemes/", $id, ".toml"))),)*]
    };
}

/// ID and text of every built-in scheme, sorted by ID.
const FILES: &[(&str, &str)] = files![
    "ably",
    "adyen",
    "affirm",
    "aftership",
    "airship",
    "airtable",
    "airwallex",
    "alertmanager",
    "amazon-sns",
    "amazon-sns-v1",
    "asana",
    "ashby",
    "attio",
    "auth0",
    "authorize-net",
    "autodesk",
    "basic",
    "bearer",
    "bitbucket",
    "bolt",
    "box",
    "brevo",
    "btcpay",
    "buildkite",
    "cal-com",
    "calendly",
    "checkout-com",
    "checkr",
    "circleci",
    "clickup",
    "coinbase-cdp",
    "coinbase-commerce",
    "contentful",
    "creem",
    "cronofy",
    "customer-io",
    "deel",
    "discord",
    "discourse",
    "docusign",
    "doppler",
    "dropbox",
    "dub",
    "dwolla",
    "easypost",
    "ebay",
    "elevenlabs",
    "finch",
    "firecrawl",
    "flutterwave",
    "front",
    "getstream",
    "gitea",
    "github",
    "gitlab",
    "gitlab-signed",
    "gocardless",
    "gogs",
    "google-pubsub",
    "google-pubsub-unwrapped",
    "govalid",
    "grafana",
    "grafana-timestamp",
    "hcp-terraform",
    "heroku",
    "http-message-signatures",
    "http-message-signatures-ecdsa",
    "http-message-signatures-hmac",
    "http-message-signatures-rsa",
    "http-message-signatures-rsa-pss",
    "hubspot-v1",
    "hubspot-v2",
    "hubspot-v3",
    "hygraph",
    "intercom",
    "jira",
    "kakao-unlink",
    "kick",
    "knock",
    "langfuse",
    "launchdarkly",
    "lemon-squeezy",
    "line",
    "linear",
    "linkedin",
    "livekit",
    "mailchannels",
    "mailersend",
    "mailgun",
    "mailgun-form",
    "mandrill",
    "maxio",
    "mercado-pago",
    "merge",
    "messagebird",
    "meta",
    "microsoft-graph",
    "microsoft-teams",
    "modern-treasury",
    "mollie",
    "monday",
    "mongodb-atlas",
    "mux",
    "netlify",
    "notion",
    "npm",
    "nylas",
    "okta",
    "onfido",
    "onfleet",
    "paddle",
    "pagerduty",
    "paypal",
    "paystack",
    "pitchpoint",
    "plaid",
    "plain",
    "planetscale",
    "podium",
    "portone",
    "postmark",
    "primer",
    "pusher",
    "qstash",
    "quickbooks",
    "razorpay",
    "recurly",
    "retell",
    "sanity",
    "segment",
    "sendbird",
    "sendgrid",
    "sentry",
    "shippo",
    "shopify",
    "shopify-events",
    "sinch-conversation",
    "slack",
    "sonarqube",
    "square",
    "squarespace",
    "standard-webhooks",
    "standard-webhooks-ed25519",
    "standard-webhooks-text",
    "stripe",
    "svix",
    "tailscale",
    "tally",
    "telegram",
    "telnyx",
    "terra",
    "tiktok",
    "toss-payments",
    "trello",
    "twilio",
    "twitch",
    "typeform",
    "vapi",
    "vercel",
    "viber",
    "vivoldi",
    "vivreal",
    "vonage",
    "webflow",
    "wise",
    "woocommerce",
    "workos",
    "x",
    "xero",
    "zendesk",
    "zoom",
];

/// A name under which a built-in scheme can be found.
struct CatalogEntry {
    name: &'static str,
    /// The index of its file.
    file: usize,
    compiled: OnceLock<Arc<Scheme>>,
}

/// Returns every name, sorted: the ID of each file, and its aliases. Only the lines of the aliases
/// are read, so a start does not pay for schemes that no route uses.
fn entries() -> &'static [CatalogEntry] {
    static ENTRIES: LazyLock<Vec<CatalogEntry>> = LazyLock::new(|| {
        let names = FILES.iter().enumerate().flat_map(|(file, (id, text))| {
            let sections = text.lines().filter_map(|line| line.strip_prefix("[aliases."));
            let aliases = sections.filter_map(|section| section.strip_suffix(']'));
            std::iter::once(*id).chain(aliases).map(move |name| (name, file))
        });
        let entry = |(name, file)| CatalogEntry { name, file, compiled: OnceLock::new() };
        let mut entries: Vec<_> = names.map(entry).collect();
        entries.sort_by_key(|entry| entry.name);
        entries
    });
    &ENTRIES
}

fn entry(name: &str) -> Option<&'static CatalogEntry> {
    let entries = entries();
    entries.binary_search_by_key(&name, |entry| entry.name).ok().map(|at| &entries[at])
}

impl CatalogEntry {
    /// Returns the scheme, compiled when it is first asked for: many routes may have the same.
    fn scheme(&self) -> &Arc<Scheme> {
        self.compiled.get_or_init(|| {
            let (id, text) = FILES[self.file];
            if self.name == id {
                return Scheme::parse(id, text)
                    .expect("every built-in scheme compiles: a test compiles them");
            }
            let named = entry(id).and_then(|primary| primary.scheme().under_alias(self.name));
            Arc::new(named.expect("every alias is read: a test compares them"))
        })
    }
}

impl Scheme {
    /// Returns the built-in scheme with this ID or alias. Under an alias, the scheme has the
    /// alias as its ID, and the name and the documents of that sender.
    pub fn builtin(name: &str) -> Option<Arc<Scheme>> {
        entry(name).map(|entry| Arc::clone(entry.scheme()))
    }

    /// Returns all built-in schemes without their aliases.
    pub fn builtins() -> impl Iterator<Item = &'static Arc<Scheme>> {
        FILES.iter().filter_map(|(id, _)| entry(id)).map(CatalogEntry::scheme)
    }

    /// Returns the IDs of all built-in schemes without their aliases, sorted.
    pub fn builtin_ids() -> impl Iterator<Item = &'static str> {
        FILES.iter().map(|(id, _)| *id)
    }

    /// Returns every name of a built-in scheme, sorted: IDs and aliases.
    pub fn builtin_names() -> impl Iterator<Item = &'static str> {
        entries().iter().map(|entry| entry.name)
    }

    /// Returns the file of the built-in scheme with this ID or alias.
    pub fn builtin_text(name: &str) -> Option<&'static str> {
        entry(name).map(|entry| FILES[entry.file].1)
    }

    /// Returns the name of a built-in scheme, or of one of `own`, that `name` could be a mistake
    /// for.
    pub fn suggestion<'n>(name: &str, own: impl Iterator<Item = &'n str>) -> Option<&'n str> {
        let built_in: Vec<&str> = Scheme::builtin_names().collect();
        nearest(name, own.chain(built_in))
    }

    /// Returns the scheme as that of the sender called `alias`.
    fn under_alias(&self, alias: &str) -> Option<Scheme> {
        let found = self.aliases.iter().find(|known| *known.id == *alias)?;
        Some(Scheme {
            id: Arc::clone(&found.id),
            name: found.name.clone(),
            documents: vec![found.document.clone()],
            confirmed: found.confirmed,
            notes: found.notes.iter().chain(&self.notes).cloned().collect(),
            same_as: Some(Arc::clone(&self.id)),
            ..self.clone()
        })
    }
}
