//! Senders' timestamps: strict grammars, so that no two texts mean the same instant by accident and
//! a signed message stays unambiguous.

use ::time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::scheme::text::every;

/// Milliseconds since the Unix epoch, by our clock or by a sender's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// Returns the instant in RFC 3339, in UTC and with three decimals.
    pub(crate) fn rfc3339(self) -> String {
        let nanos = i128::from(self.0) * 1_000_000;
        let at =
            OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (date, (hour, minute, second, milli)) = (at.date(), at.time().as_hms_milli());
        format!("{date}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
    }
}

/// How a sender writes an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeUnit {
    /// Exactly ten digits: seconds since the Unix epoch (until the year 2286).
    Seconds,
    /// Exactly thirteen digits: milliseconds since the Unix epoch.
    Millis,
    /// Ten digits for seconds or thirteen for milliseconds.
    Auto,
    /// RFC 3339: `2025-01-29T12:00:00.123Z`, any number of decimals up to nine.
    Rfc3339,
}

impl TimeUnit {
    /// Returns whether texts of this grammar can have different lengths and end anywhere, so that
    /// the message must separate them from what follows. RFC 3339 has a fixed end.
    pub(super) fn is_open_ended(self) -> bool {
        match self {
            TimeUnit::Auto => true,
            TimeUnit::Seconds | TimeUnit::Millis | TimeUnit::Rfc3339 => false,
        }
    }

    /// Returns the instant in milliseconds since the Unix epoch; `None` if `text` is outside the
    /// grammar.
    pub(super) fn parse(self, text: &[u8]) -> Option<i64> {
        match self {
            TimeUnit::Seconds if text.len() == 10 => digits(text)?.checked_mul(1000),
            TimeUnit::Millis if text.len() == 13 => digits(text),
            TimeUnit::Auto if text.len() == 10 => digits(text)?.checked_mul(1000),
            TimeUnit::Auto if text.len() == 13 => digits(text),
            TimeUnit::Seconds | TimeUnit::Millis | TimeUnit::Auto => None,
            TimeUnit::Rfc3339 => rfc3339(text),
        }
    }

    /// Returns the unit in which a sender wrote this text.
    pub(super) fn of(self, text: &str) -> TimeUnit {
        match self {
            TimeUnit::Auto if text.len() == 10 => TimeUnit::Seconds,
            TimeUnit::Auto => TimeUnit::Millis,
            unit => unit,
        }
    }

    /// Returns an instant as a sender would write it.
    pub(super) fn render(self, millis: i64) -> String {
        match self {
            TimeUnit::Seconds => format!("{:010}", millis.div_euclid(1000)),
            TimeUnit::Millis | TimeUnit::Auto => format!("{millis:013}"),
            TimeUnit::Rfc3339 => UnixMillis(millis).rfc3339(),
        }
    }
}

fn digits(text: &[u8]) -> Option<i64> {
    // Eighteen digits fit, whatever they are.
    let fits = text.len() <= 18 && every(text, u8::is_ascii_digit);
    let value = |value: i64, digit: &u8| value * 10 + i64::from(digit & 15);
    fits.then(|| text.iter().fold(0, value))
}

/// Parses RFC 3339 with capital letters and at most nine decimals.
fn rfc3339(text: &[u8]) -> Option<i64> {
    let decimals = text.get(20..).unwrap_or_default();
    let decimals = decimals.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let strict =
        text.get(10) == Some(&b'T') && !text.iter().any(u8::is_ascii_lowercase) && decimals <= 9;
    let text = std::str::from_utf8(text).ok().filter(|_| strict)?;
    let instant = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(instant.unix_timestamp_nanos().div_euclid(1_000_000)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn grammars_are_strict() {
        let cases: &[(TimeUnit, &str, Option<i64>)] = &[
            (TimeUnit::Seconds, "1700000000", Some(1_700_000_000_000)),
            (TimeUnit::Seconds, "1700000000000", None),
            (TimeUnit::Seconds, "170000000", None),
            (TimeUnit::Millis, "1700000000000", Some(1_700_000_000_000)),
            (TimeUnit::Millis, "1700000000", None),
            (TimeUnit::Auto, "1700000000", Some(1_700_000_000_000)),
            (TimeUnit::Auto, "1700000000123", Some(1_700_000_000_123)),
            (TimeUnit::Auto, "17000000001", None),
            (TimeUnit::Auto, "", None),
            (TimeUnit::Auto, "-170000000", None),
            (TimeUnit::Auto, "+170000000", None),
            (TimeUnit::Auto, " 170000000", None),
            (TimeUnit::Auto, "1700000000.5", None),
            (TimeUnit::Auto, "17000000e2", None),
            (TimeUnit::Auto, "NaN", None),
            (TimeUnit::Auto, "99999999999999999999", None),
            (TimeUnit::Auto, "\u{0661}\u{0661}\u{0661}\u{0661}\u{0661}", None),
            (TimeUnit::Rfc3339, "1970-01-01T00:00:00Z", Some(0)),
            (TimeUnit::Rfc3339, "2025-01-29T12:00:00Z", Some(1_738_152_000_000)),
            (TimeUnit::Rfc3339, "2022-11-16T10:11:12.634234626Z", Some(1_668_593_472_634)),
            (TimeUnit::Rfc3339, "2020-01-01T00:00:00-07:00", Some(1_577_862_000_000)),
            (TimeUnit::Rfc3339, "2020-02-29T00:00:00Z", Some(1_582_934_400_000)),
            (TimeUnit::Rfc3339, "2021-02-29T00:00:00Z", None),
            (TimeUnit::Rfc3339, "2025-01-29T12:00:00", None),
            (TimeUnit::Rfc3339, "2025-01-29 12:00:00Z", None),
            (TimeUnit::Rfc3339, "2025-01-29T12:00:00.Z", None),
            (TimeUnit::Rfc3339, "2025-01-29T24:00:00Z", None),
            (TimeUnit::Rfc3339, "2025-1-29T12:00:00Z", None),
            (TimeUnit::Rfc3339, "2025-13-29T12:00:00Z", None),
            (TimeUnit::Rfc3339, "2025-01-29T12:00:00+0700", None),
            (TimeUnit::Rfc3339, "2025-01-29T12:00:00Zx", None),
        ];
        for (unit, text, expected) in cases {
            assert_eq!(unit.parse(text.as_bytes()), *expected, "{unit:?} {text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_rendered_is_read(millis in 1_000_000_000_000i64..9_999_999_999_999) {
            prop_assert_eq!(TimeUnit::Rfc3339.parse(TimeUnit::Rfc3339.render(millis).as_bytes()), Some(millis));
            prop_assert_eq!(TimeUnit::Auto.parse(TimeUnit::Auto.render(millis).as_bytes()), Some(millis));
            let seconds = TimeUnit::Seconds.parse(TimeUnit::Seconds.render(millis).as_bytes());
            prop_assert_eq!(seconds, Some(millis / 1000 * 1000));
        }

        #[test]
        fn no_bytes_make_it_panic(text in prop::collection::vec(any::<u8>(), 0..40)) {
            for unit in [TimeUnit::Seconds, TimeUnit::Millis, TimeUnit::Auto, TimeUnit::Rfc3339] {
                let _ = unit.parse(&text);
            }
        }
    }
}
