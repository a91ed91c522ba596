//! How comments and pages are written: lines of at most 100 columns, and none of the words that the
//! project does without.

use std::{fs, path::PathBuf, process::Command};

use super::project;

/// Words that have a plainer or more precise replacement, in lower case. A name in backquotes and a
/// quotation do not count.
const RETIRED: &[&str] = &[
    "tell",
    "tells",
    "told",
    "telling",
    "anew",
    "whoever",
    "lets go",
    "let go",
    "goes on",
    "takes in",
    "at one time",
    "mend",
    "mends",
    "strangers",
    "stranger",
    "for good",
    "of its own",
    "stands for",
    "stands in",
    "judge",
    "judges",
    "judged",
    "patience",
];

/// The files of the project that people read, relative to it.
fn pages() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(project())
        .output()
        .expect("git lists the files");
    let text = String::from_utf8(listed.stdout).expect("names in UTF-8");
    let files: Vec<PathBuf> = text.split_terminator('\0').map(PathBuf::from).collect();
    assert!(files.len() > 200, "git lists the files: {}", files.len());
    files.into_iter().filter(|file| project().join(file).is_file()).collect()
}

/// The lines of prose of a file, numbered from 1: a page's text, or a program's comments.
fn prose<'t>(name: &str, text: &'t str) -> Vec<(usize, &'t str)> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    let comments = |mark: &'static str| {
        let line = lines.clone();
        line.filter(|(_, line)| line.trim_start().starts_with(mark)).collect()
    };
    match name.rsplit('.').next() {
        Some("md") => {
            let mut code = false;
            let of_text = |(_, line): &(usize, &str)| {
                let fence = line.trim_start().starts_with("```");
                code ^= fence;
                !code && !fence && !line.starts_with('|')
            };
            lines.filter(of_text).collect()
        }
        Some("rs" | "java" | "mjs" | "js") => comments("//"),
        Some("toml" | "py" | "yaml" | "yml" | "service") => comments("#"),
        Some(_) | None if name.starts_with("scripts/") || name.ends_with("/run") => comments("#"),
        Some(_) | None => Vec::new(),
    }
}

/// A line without what is quoted: code in backquotes, and text in double quotes.
fn unquoted(line: &str) -> String {
    let outside = |line: &str, mark: char| -> String {
        line.split(mark).step_by(2).collect::<Vec<_>>().join("…")
    };
    outside(&outside(line, '`'), '"').to_lowercase()
}

/// The first retired word of a line.
fn retired(line: &str) -> Option<&'static str> {
    let text = unquoted(line);
    RETIRED.iter().copied().find(|word| {
        text.match_indices(word).any(|(at, _)| {
            let before = text[..at].chars().next_back();
            let after = text[at + word.len()..].chars().next();
            let part =
                |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '-');
            !part(before) && !part(after)
        })
    })
}

/// Whether a line may be longer: a long word such as a link, or a message that a test expects.
fn cannot_wrap(line: &str) -> bool {
    let stated = ["# expect: ", "# warns: ", "# help: "];
    stated.iter().any(|start| line.starts_with(start))
        || line.split_whitespace().any(|word| word.contains("://") || word.chars().count() > 60)
}

#[test]
fn comments_and_pages_are_at_most_100_columns_wide() {
    let mut long = Vec::new();
    for file in pages() {
        let name = file.to_string_lossy();
        let Ok(text) = fs::read_to_string(project().join(&file)) else { continue };
        for (at, line) in prose(&name, &text) {
            if line.chars().count() > 100 && !cannot_wrap(line) {
                long.push(format!("{name}:{at}"));
            }
        }
    }
    assert!(long.is_empty(), "{} lines over 100 columns: {long:#?}", long.len());
}

#[test]
fn no_retired_word_is_used() {
    assert_eq!(retired("// It tells the store."), Some("tells"));
    assert_eq!(retired("// It is `told`, \"anew\"."), None);
    assert_eq!(retired("// An intelligent storyteller."), None);
    let mut used = Vec::new();
    for file in pages().into_iter().filter(|file| !file.ends_with("house/src/wording.rs")) {
        let name = file.to_string_lossy();
        let Ok(text) = fs::read_to_string(project().join(&file)) else { continue };
        for (at, line) in prose(&name, &text) {
            if let Some(word) = retired(line) {
                used.push(format!("{name}:{at}: {word}"));
            }
        }
    }
    assert!(used.is_empty(), "{} retired words: {used:#?}", used.len());
}
