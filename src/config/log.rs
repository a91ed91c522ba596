//! `[log]`: what is logged.

use crate::document::Section;

/// The levels, from the least to the most.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// A level, or a list of levels and `target=level`, as [`log_filter`] returns it.
    pub level: String,
    /// Lines per second for each client network, about requests without a verified sender.
    pub unverified_lines: u32,
}

/// Reads `[log]`.
pub(super) fn read(section: Option<Section<'_>>) -> LogOptions {
    let mut options = LogOptions { level: "info".to_owned(), unverified_lines: 4 };
    let Some(section) = section else { return options };
    if let Some(field) = section.get("level")
        && let Some(text) = field.text()
    {
        match log_filter(&text) {
            Ok(level) => options.level = level,
            Err(problem) => field.error(problem, None),
        }
    }
    if let Some(lines) = section.get("unverified_lines").and_then(|field| field.integer(0..=10_000))
    {
        options.unverified_lines = u32::try_from(lines).unwrap_or(u32::MAX);
    }
    section.finish();
    options
}

/// Checks a level, or a list of levels and `target=level`. A bare word that is not a level is an
/// error: it would be a target, and silence everything else.
///
/// # Errors
/// One sentence with the word that is not a level.
pub fn log_filter(text: &str) -> Result<String, String> {
    let directive = |directive: &str| {
        let directive = directive.trim();
        let (target, level) = match directive.rsplit_once('=') {
            Some((target, level)) => (Some(target), level.trim()),
            None => (None, directive),
        };
        let lower = level.to_ascii_lowercase();
        let known = if lower == "warning" { "warn" } else { lower.as_str() };
        if !LEVELS.contains(&known) {
            return Err(format!(
                "`{level}` is not a log level; the levels are off, error, warn, info, debug and \
                 trace"
            ));
        }
        Ok(target.map_or(known.to_owned(), |target| format!("{target}={known}")))
    };
    let directives: Vec<_> = text.split(',').map(directive).collect::<Result<_, _>>()?;
    Ok(directives.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_word_is_a_level() {
        for valid in ["info", "WARN", "warning", "off", "info,sealgate::replay=warning"] {
            assert!(log_filter(valid).is_ok(), "{valid}");
        }
        for invalid in ["", "verbose", "info,", "sealgate", "sealgate=loud", "info debug"] {
            let error = log_filter(invalid).expect_err(invalid);
            assert!(error.contains("error, warn, info, debug"), "{invalid}: {error}");
        }
    }
}
