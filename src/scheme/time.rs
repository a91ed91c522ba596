//! Senders' timestamps: strict grammars, so that no two texts mean the same instant by accident and
//! a signed message stays unambiguous.

use crate::scheme::text::every;

/// Milliseconds since the Unix epoch, by our clock or by a sender's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixMillis(pub i64);

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
    /// Whether texts of this grammar can have different lengths and end anywhere, so that the
    /// message must separate them from what follows. RFC 3339 has a fixed end.
    pub(super) fn is_open_ended(self) -> bool {
        match self {
            TimeUnit::Auto => true,
            TimeUnit::Seconds | TimeUnit::Millis | TimeUnit::Rfc3339 => false,
        }
    }

    /// The instant in milliseconds since the Unix epoch; `None` if `text` is outside the grammar.
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

    /// An instant as a sender would write it.
    pub(super) fn render(self, millis: i64) -> String {
        match self {
            TimeUnit::Seconds => format!("{:010}", millis.div_euclid(1000)),
            TimeUnit::Millis | TimeUnit::Auto => format!("{millis:013}"),
            TimeUnit::Rfc3339 => {
                let (year, month, day) = civil(millis.div_euclid(86_400_000));
                let within = millis.rem_euclid(86_400_000);
                let (seconds, millis) = (within / 1000, within % 1000);
                let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
                format!(
                    "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
                )
            }
        }
    }
}

fn digits(text: &[u8]) -> Option<i64> {
    // Eighteen digits fit, whatever they are.
    let fits = text.len() <= 18 && every(text, u8::is_ascii_digit);
    let value = |value: i64, digit: &u8| value * 10 + i64::from(digit & 15);
    fits.then(|| text.iter().fold(0, value))
}

/// RFC 3339 with capital letters; a leap second counts as the second after it.
fn rfc3339(text: &[u8]) -> Option<i64> {
    let (head, tail) = text.split_at_checked(19)?;
    let number = |at: usize, length: usize| digits(&head[at..at + length]);
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if marks.iter().any(|(at, mark)| head[*at] != *mark) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        _ => return None,
    };
    if !(1..=longest).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (millis, zone) = match tail.strip_prefix(b".") {
        None => (0, tail),
        Some(tail) => {
            let length = tail.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if !(1..=9).contains(&length) {
                return None;
            }
            let kept = length.min(3);
            let scale = [100, 10, 1][kept - 1];
            (digits(&tail[..kept])? * scale, &tail[length..])
        }
    };
    let offset = match zone {
        [b'Z'] => 0,
        [sign @ (b'+' | b'-'), rest @ ..] if rest.len() == 5 && rest[2] == b':' => {
            let (hours, minutes) = (digits(&rest[..2])?, digits(&rest[3..])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * 60 + minutes;
            if *sign == b'-' { -offset } else { offset }
        }
        _ => return None,
    };
    let minutes = (days(year, month, day) * 24 + hour) * 60 + minute - offset;
    Some((minutes * 60 + second) * 1000 + millis)
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar, counted in years that begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The inverse of [`days`].
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
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
