//! The schemes that are built in: the files of `schemes/`.

mod describe;

use std::sync::{Arc, LazyLock, OnceLock};

use crate::scheme::compiled::Scheme;

/// Id and text of every built-in scheme, sorted by id.
const FILES: &[(&str, &str)] = &[
    ("adyen", include_str!("../../schemes/adyen.toml")),
    ("asana", include_str!("../../schemes/asana.toml")),
    ("auth0", include_str!("../../schemes/auth0.toml")),
    ("authorize-net", include_str!("../../schemes/authorize-net.toml")),
    ("bitbucket", include_str!("../../schemes/bitbucket.toml")),
    ("box", include_str!("../../schemes/box.toml")),
    ("brevo", include_str!("../../schemes/brevo.toml")),
    ("buildkite", include_str!("../../schemes/buildkite.toml")),
    ("calendly", include_str!("../../schemes/calendly.toml")),
    ("circleci", include_str!("../../schemes/circleci.toml")),
    ("coinbase-commerce", include_str!("../../schemes/coinbase-commerce.toml")),
    ("discord", include_str!("../../schemes/discord.toml")),
    ("docusign", include_str!("../../schemes/docusign.toml")),
    ("dropbox", include_str!("../../schemes/dropbox.toml")),
    ("flutterwave", include_str!("../../schemes/flutterwave.toml")),
    ("github", include_str!("../../schemes/github.toml")),
    ("gitlab", include_str!("../../schemes/gitlab.toml")),
    ("gitlab-signed", include_str!("../../schemes/gitlab-signed.toml")),
    ("google-pubsub", include_str!("../../schemes/google-pubsub.toml")),
    ("govalid", include_str!("../../schemes/govalid.toml")),
    ("hubspot-v1", include_str!("../../schemes/hubspot-v1.toml")),
    ("hubspot-v2", include_str!("../../schemes/hubspot-v2.toml")),
    ("hubspot-v3", include_str!("../../schemes/hubspot-v3.toml")),
    ("hygraph", include_str!("../../schemes/hygraph.toml")),
    ("intercom", include_str!("../../schemes/intercom.toml")),
    ("jira", include_str!("../../schemes/jira.toml")),
    ("kakao-unlink", include_str!("../../schemes/kakao-unlink.toml")),
    ("kick", include_str!("../../schemes/kick.toml")),
    ("lemon-squeezy", include_str!("../../schemes/lemon-squeezy.toml")),
    ("line", include_str!("../../schemes/line.toml")),
    ("linear", include_str!("../../schemes/linear.toml")),
    ("mailgun", include_str!("../../schemes/mailgun.toml")),
    ("mercado-pago", include_str!("../../schemes/mercado-pago.toml")),
    ("messagebird", include_str!("../../schemes/messagebird.toml")),
    ("meta", include_str!("../../schemes/meta.toml")),
    ("microsoft-graph", include_str!("../../schemes/microsoft-graph.toml")),
    ("microsoft-teams", include_str!("../../schemes/microsoft-teams.toml")),
    ("mollie", include_str!("../../schemes/mollie.toml")),
    ("netlify", include_str!("../../schemes/netlify.toml")),
    ("notion", include_str!("../../schemes/notion.toml")),
    ("okta", include_str!("../../schemes/okta.toml")),
    ("paddle", include_str!("../../schemes/paddle.toml")),
    ("pagerduty", include_str!("../../schemes/pagerduty.toml")),
    ("paystack", include_str!("../../schemes/paystack.toml")),
    ("pitchpoint", include_str!("../../schemes/pitchpoint.toml")),
    ("portone", include_str!("../../schemes/portone.toml")),
    ("postmark", include_str!("../../schemes/postmark.toml")),
    ("razorpay", include_str!("../../schemes/razorpay.toml")),
    ("recurly", include_str!("../../schemes/recurly.toml")),
    ("sanity", include_str!("../../schemes/sanity.toml")),
    ("sendgrid", include_str!("../../schemes/sendgrid.toml")),
    ("sentry", include_str!("../../schemes/sentry.toml")),
    ("shopify", include_str!("../../schemes/shopify.toml")),
    ("slack", include_str!("../../schemes/slack.toml")),
    ("square", include_str!("../../schemes/square.toml")),
    ("standard-webhooks", include_str!("../../schemes/standard-webhooks.toml")),
    ("stripe", include_str!("../../schemes/stripe.toml")),
    ("svix", include_str!("../../schemes/svix.toml")),
    ("telegram", include_str!("../../schemes/telegram.toml")),
    ("telnyx", include_str!("../../schemes/telnyx.toml")),
    ("toss-payments", include_str!("../../schemes/toss-payments.toml")),
    ("trello", include_str!("../../schemes/trello.toml")),
    ("twilio", include_str!("../../schemes/twilio.toml")),
    ("twitch", include_str!("../../schemes/twitch.toml")),
    ("typeform", include_str!("../../schemes/typeform.toml")),
    ("vercel", include_str!("../../schemes/vercel.toml")),
    ("vivoldi", include_str!("../../schemes/vivoldi.toml")),
    ("vivreal", include_str!("../../schemes/vivreal.toml")),
    ("vonage", include_str!("../../schemes/vonage.toml")),
    ("wise", include_str!("../../schemes/wise.toml")),
    ("woocommerce", include_str!("../../schemes/woocommerce.toml")),
    ("workos", include_str!("../../schemes/workos.toml")),
    ("x", include_str!("../../schemes/x.toml")),
    ("xero", include_str!("../../schemes/xero.toml")),
    ("zendesk", include_str!("../../schemes/zendesk.toml")),
    ("zoom", include_str!("../../schemes/zoom.toml")),
];

impl Scheme {
    /// A scheme that is built in, compiled when it is first asked for: many routes may have the
    /// same.
    pub fn builtin(id: &str) -> Option<Arc<Scheme>> {
        static COMPILED: [OnceLock<Arc<Scheme>>; FILES.len()] =
            [const { OnceLock::new() }; FILES.len()];
        let index = FILES.iter().position(|(known, _)| *known == id)?;
        let compile = || {
            let (id, text) = FILES[index];
            Scheme::parse(id, text).expect("every built-in scheme compiles: a test compiles them")
        };
        Some(Arc::clone(COMPILED[index].get_or_init(compile)))
    }

    /// All schemes that are built in, compiled once.
    pub fn builtins() -> &'static [Arc<Scheme>] {
        static ALL: LazyLock<Vec<Arc<Scheme>>> =
            LazyLock::new(|| Scheme::builtin_ids().filter_map(Scheme::builtin).collect());
        &ALL
    }

    /// The ids of all built-in schemes, sorted.
    pub fn builtin_ids() -> impl Iterator<Item = &'static str> {
        FILES.iter().map(|(id, _)| *id)
    }

    /// The text of a built-in scheme.
    pub fn builtin_text(id: &str) -> Option<&'static str> {
        FILES.iter().find(|(known, _)| *known == id).map(|(_, text)| *text)
    }
}
