//! The table of the requests to which the gateway responds itself, for the documentation.

use std::fmt::Write;

use crate::scheme::compiled::{Scheme, challenge::ChallengeRule};

impl Scheme {
    /// Returns a table of the challenges of all built-in schemes in Markdown, without aliases.
    pub fn challenge_table() -> String {
        let mut text = String::from(
            "| sender | `scheme` | request | recognized by | signed | response |\n\
             | --- | --- | --- | --- | --- | --- |\n",
        );
        for scheme in Scheme::builtins() {
            for challenge in &scheme.challenges {
                // Writing to a String cannot fail.
                let _ = writeln!(
                    text,
                    "| {} | `{}` | {} | {} | {} | {} |",
                    scheme.name,
                    scheme.id(),
                    challenge.method,
                    scheme.recognized_by(challenge),
                    if challenge.signed { "yes" } else { "**no**" },
                    Scheme::responded_with(challenge),
                );
            }
        }
        text
    }

    /// Returns the table of the senders that use other methods than POST.
    pub fn method_table() -> String {
        let mut text = String::from("| sender | `scheme` | methods |\n| --- | --- | --- |\n");
        for scheme in Scheme::builtins().filter(|scheme| scheme.methods() != "POST") {
            let _ =
                writeln!(text, "| {} | `{}` | {} |", scheme.name, scheme.id(), scheme.methods());
        }
        text
    }

    fn recognized_by(&self, challenge: &ChallengeRule) -> String {
        let mut parts: Vec<String> = challenge
            .when
            .iter()
            .map(|(source, value)| {
                format!("{} is `{value}`", self.spell(source, &challenge.reader))
            })
            .collect();
        if let Some(source) = &challenge.challenge {
            parts.push(self.spell(source, &challenge.reader));
        }
        if !challenge.fields.is_empty() {
            let fields: Vec<_> = challenge.fields.iter().map(|name| format!("`{name}`")).collect();
            parts.push(format!("no other fields than {}", fields.join(", ")));
        }
        for source in &challenge.unless {
            parts.push(format!("no {}", self.spell(source, &challenge.reader)));
        }
        if parts.is_empty() { "the method".to_owned() } else { parts.join("; ") }
    }

    fn responded_with(challenge: &ChallengeRule) -> &'static str {
        match (challenge.mac.is_some(), &challenge.header, challenge.reply.0.is_empty()) {
            (true, _, _) => "200 with a MAC of the challenge",
            (false, Some(_), _) => "200 with the challenge in a header",
            (false, None, false) => "200 with the challenge",
            (false, None, true) => "200",
        }
    }
}
