//! Every file in `tests/config/invalid` is rejected with exactly the problems that its comments
//! list: `# expect: LINE:COLUMN text` for an error, `# warns: LINE:COLUMN text` for a warning, and
//! `# help: text` for a part of the help. Every file in `tests/config/valid` loads with exactly the
//! warnings that its comments list.

use super::*;

pub(super) fn files(kind: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(kind);
    let entries = fs::read_dir(&directory).expect("the directory of the table");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files
}

fn name_of(path: &Path) -> String {
    path.file_name().expect("a file").to_string_lossy().into_owned()
}

/// The environment of the files.
pub(super) fn environment(name: &str) -> Option<String> {
    Some(match name {
        "SECRET" => format!("{CANARY}-1"),
        "OTHER_SECRET" => format!("{CANARY}-2"),
        "THIRD_SECRET" => format!("{CANARY}-3"),
        "HEADER" => format!("{CANARY}-5"),
        "OTHER_HEADER" => format!("Bearer {CANARY}-6"),
        "REDIS_URL" => format!("rediss://:{CANARY}@127.0.0.1:6379/0"),
        "DATABASE_URL" => format!("postgres://gateway:{CANARY}@db.internal/shop"),
        "WRONG_URL" => format!("http://:{CANARY}@127.0.0.1:6379/0"),
        "EVENTS_KEY" => "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff".into(),
        "EMPTY" => String::new(),
        "BLANK" => " \t\n".to_owned(),
        "YOURS" => "your-global-secret-key".to_owned(),
        "YOURS_LOUD" => "\"YOUR_SECRET_HERE\"".to_owned(),
        "WHSEC" => "whsec_your_signing_secret_0000".to_owned(),
        "CHANGE_ME" => "changeme".to_owned(),
        "SAME_CHARACTER" => "0".repeat(32),
        "SHORT" => "k9-x2-w7".to_owned(),
        "EAB_KEY" => "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W".to_owned(),
        "PADDED" => format!(" {CANARY}-4\n"),
        _ => return None,
    })
}

/// Parses a file, and returns the problems in the notation of the comments and the report's text.
fn parsed(path: &Path, text: &str) -> (Result<Config, ()>, Vec<String>, String) {
    let base = path.parent().expect("a directory");
    let (config, report) = match parse("gateway.toml", text, base, &environment) {
        Ok((config, report)) => (Ok(config), report),
        Err(report) => (Err(()), report),
    };
    let here = format!("{}/", base.display());
    let found = report.lines().map(|(severity, line)| {
        let line = line.strip_prefix("gateway.toml:").expect("the name of the file").to_owned();
        let line = line.replacen(": ", " ", 1).replace(&here, "");
        match severity {
            Severity::Error => format!("expect: {line}"),
            Severity::Warning => format!("warns: {line}"),
        }
    });
    let found = found.collect();
    (config, found, report.to_string())
}

/// Compares the listed problems of a file with those found.
///
/// # Errors
/// A description of the differences.
fn compare(path: &Path, text: &str, found: &[String], shown: &str) -> Result<(), String> {
    let name = name_of(path);
    let mut stated: Vec<&str> = Vec::new();
    for comment in text.lines().filter_map(|line| line.strip_prefix("# ")) {
        if comment.starts_with("expect: ") || comment.starts_with("warns: ") {
            stated.push(comment);
        } else if let Some(help) = comment.strip_prefix("help: ") {
            let told = shown.lines().any(|l| l.starts_with("  help: ") && l.contains(help));
            if !told {
                return Err(format!("{name}: no such help: {help}\n{shown}"));
            }
        }
    }
    let same = stated.len() == found.len()
        && stated.iter().zip(found).all(|(stated, found)| found.starts_with(stated));
    if !same {
        return Err(format!("{name}: stated {stated:#?}, found {found:#?}\n{shown}"));
    }
    if shown.contains(CANARY) {
        return Err(format!("{name}: the report quotes a secret\n{shown}"));
    }
    Ok(())
}

#[test]
fn invalid_files_are_refused_with_what_they_state() {
    let files = files("invalid");
    assert!(files.len() >= 40, "only {} files", files.len());
    let mut wrong = Vec::new();
    for path in &files {
        let text = fs::read_to_string(path).expect("readable");
        let (config, found, shown) = parsed(path, &text);
        if config.is_ok() {
            wrong.push(format!("{} is taken", name_of(path)));
        }
        wrong.extend(compare(path, &text, &found, &shown).err());
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn valid_files_load_with_the_warnings_that_they_state() {
    let files = files("valid");
    assert!(files.len() >= 4, "only {} files", files.len());
    let mut wrong = Vec::new();
    for path in &files {
        let text = fs::read_to_string(path).expect("readable");
        let (config, found, shown) = parsed(path, &text);
        if config.is_err() {
            wrong.push(format!("{} is refused", name_of(path)));
        }
        wrong.extend(compare(path, &text, &found, &shown).err());
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
