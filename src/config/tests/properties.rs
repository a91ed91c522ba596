//! Properties of any input: reading never panics, every rejection has a reason, and no report
//! contains a secret.

use proptest::prelude::*;

use super::*;

/// Parts of the canary, because a damaged secret must not appear either.
const PARTS: [&str; 3] = ["canary-bird", "bird-in-a-coal", "coal-mine"];

/// Every valid file, also with its secrets inline, where a report could quote them.
fn originals() -> Vec<String> {
    let mut originals: Vec<_> = table::files("valid")
        .iter()
        .map(|path| fs::read_to_string(path).expect("readable"))
        .collect();
    let plain = |text: &String| {
        let mut number = 0;
        let parts = text.split("{ env = \"").map(|part| match part.split_once("\" }") {
            Some((_, rest)) if number > 0 => {
                number += 1;
                format!("\"{CANARY}-{number}\"{rest}")
            }
            Some(_) | None => {
                number += 1;
                part.to_owned()
            }
        });
        parts.collect::<String>()
    };
    originals.extend(originals.iter().map(plain).collect::<Vec<_>>());
    originals
}

/// A small damage, as an editor or a merge causes it. At most one is a removal, so that no secret
/// becomes the value of a key that may be quoted.
#[derive(Clone, Debug)]
enum Damage {
    /// Characters removed.
    Remove(usize, usize),
    /// A text inserted.
    Insert(usize, String),
    /// A line moved or duplicated.
    Line { from: usize, to: usize, stays: bool },
}

fn addition() -> impl Strategy<Value = Damage> {
    let piece = prop_oneof![
        Just("\"".to_owned()),
        Just("\n".to_owned()),
        Just("=".to_owned()),
        Just("[".to_owned()),
        Just("]".to_owned()),
        Just("{".to_owned()),
        Just("}".to_owned()),
        Just("#".to_owned()),
        Just("'''".to_owned()),
        Just("\"\"\"".to_owned()),
        Just("\\".to_owned()),
        Just(",".to_owned()),
        Just(".".to_owned()),
        Just("é".to_owned()),
        Just("-1".to_owned()),
        any::<char>().prop_map(String::from),
    ];
    prop_oneof![
        (any::<usize>(), piece).prop_map(|(at, piece)| Damage::Insert(at, piece)),
        (any::<usize>(), any::<usize>(), any::<bool>())
            .prop_map(|(from, to, stays)| Damage::Line { from, to, stays }),
    ]
}

fn removal() -> impl Strategy<Value = Damage> {
    (any::<usize>(), 1..9usize).prop_map(|(at, length)| Damage::Remove(at, length))
}

fn damaged(text: &str, damages: &[Damage]) -> String {
    let mut text = text.to_owned();
    for damage in damages {
        let place = |at: usize| text.floor_char_boundary(at % (text.len() + 1));
        match damage {
            Damage::Remove(at, length) => {
                let (start, end) = (place(*at), place(at % (text.len() + 1) + length));
                text.replace_range(start.min(end)..end.max(start), "");
            }
            Damage::Insert(at, piece) => text.insert_str(place(*at), piece),
            Damage::Line { from, to, stays } => {
                let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
                if !lines.is_empty() {
                    let from = from % lines.len();
                    let line = if *stays { lines[from].clone() } else { lines.remove(from) };
                    lines.insert(to % (lines.len() + 1), line);
                }
                text = lines.join("\n");
            }
        }
    }
    text
}

fn judge(text: &str) -> Result<(), TestCaseError> {
    let parsed = parse("gateway.toml", text, Path::new("/nonexistent"), &table::environment);
    let (fatal, report) = match &parsed {
        Ok((_, report)) => (false, report),
        Err(report) => (true, report),
    };
    prop_assert_eq!(report.is_fatal(), fatal);
    let shown = report.to_string();
    let lines: String = report.lines().map(|(_, line)| line + "\n").collect();
    for part in PARTS {
        prop_assert!(!shown.contains(part) && !lines.contains(part), "{shown}\nof\n{text}");
    }
    if let Ok((config, _)) = &parsed {
        let config = format!("{config:?}");
        prop_assert!(PARTS.iter().all(|part| !config.contains(part)), "{config}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_reader_panic(text in ".*", bytes in any::<Vec<u8>>()) {
        let soup = String::from_utf8_lossy(&bytes);
        for text in [text.as_str(), soup.as_ref()] {
            let parsed = parse("x", text, Path::new("/nonexistent"), &|_| None);
            prop_assert!(parsed.is_err_and(|report| report.is_fatal()));
        }
    }

    #[test]
    fn damaged_files_are_judged_without_panic_and_without_quoting_a_secret(
        original in prop::sample::select(originals()),
        removal in prop::option::of(removal()),
        additions in prop::collection::vec(addition(), 0..3),
    ) {
        let damages: Vec<_> = removal.into_iter().chain(additions).collect();
        judge(&damaged(&original, &damages))?;
    }
}
