//! curl commands, as they are pasted from a terminal or from a browser's "Copy as cURL".

use std::path::Path;

use anyhow::{Context, bail};
use bytes::Bytes;

use super::{CaptureDraft, bytes as file};

/// Options with a value that do not change what is verified.
const IGNORED_WITH_VALUE: [&str; 19] = [
    "-o",
    "--output",
    "-m",
    "--max-time",
    "--connect-timeout",
    "--cacert",
    "--resolve",
    "--connect-to",
    "-w",
    "--write-out",
    "-x",
    "--proxy",
    "--retry",
    "--cert",
    "--key",
    "-c",
    "--cookie-jar",
    "--trace-ascii",
    "--stderr",
];

/// Returns whether the text begins with a curl command, after a prompt.
pub(super) fn is_command(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    let text = text.strip_prefix(b"$ ").or(text.strip_prefix(b"# ")).unwrap_or(text);
    text.starts_with(b"curl ") || text.starts_with(b"curl\\\n") || text.starts_with(b"curl.exe ")
}

/// Parses a curl command. `@file` in it names a file relative to the working directory.
///
/// # Errors
/// An unterminated quote, or an option without its value or that is not supported.
pub(super) fn parse(bytes: &[u8]) -> anyhow::Result<CaptureDraft> {
    let text = std::str::from_utf8(bytes).context("the command is not UTF-8")?;
    let mut words = words(text)?.into_iter().skip_while(|word| !word.starts_with("curl")).skip(1);
    let mut draft = CaptureDraft::default();
    let (mut data, mut is_json, mut in_query): (Option<Vec<u8>>, bool, bool) = (None, false, false);
    while let Some(word) = words.next() {
        let (option, mut attached) = match word.split_once('=') {
            Some((option, value)) if option.starts_with("--") => (option, Some(value.to_owned())),
            _ => (word.as_str(), None),
        };
        // `-XPOST` and `-d{}`.
        let (option, attached) = match option.char_indices().nth(2) {
            Some((end, _)) if attached.is_none() && is_short_with_value(option) => {
                (&option[..end], Some(option[end..].to_owned()))
            }
            _ => (option, attached.take()),
        };
        let mut value = || -> anyhow::Result<String> {
            attached
                .clone()
                .or_else(|| words.next())
                .with_context(|| format!("{option} has no value"))
        };
        match option {
            "-X" | "--request" => draft.method = value()?,
            "--url" => draft.target = value()?,
            "-H" | "--header" => {
                let line = value()?;
                let (name, text) =
                    line.split_once(':').with_context(|| format!("`{line}` is not a header"))?;
                draft.headers.push((name.trim().to_owned(), text.trim().as_bytes().to_vec()));
            }
            "-A" | "--user-agent" => {
                draft.headers.push(("user-agent".to_owned(), value()?.into_bytes()));
            }
            "-e" | "--referer" => draft.headers.push(("referer".to_owned(), value()?.into_bytes())),
            "-b" | "--cookie" => draft.headers.push(("cookie".to_owned(), value()?.into_bytes())),
            "-u" | "--user" => {
                let basic = data_encoding::BASE64.encode(value()?.as_bytes());
                let basic = format!("Basic {basic}").into_bytes();
                draft.headers.push(("authorization".to_owned(), basic));
            }
            "-d" | "--data" | "--data-ascii" | "--data-binary" | "--data-raw" | "--json" => {
                let text = value()?;
                let part = match text.strip_prefix('@').filter(|_| option != "--data-raw") {
                    None => text.into_bytes(),
                    Some(name) => {
                        let mut part = file(Path::new(name))?;
                        if !matches!(option, "--data-binary" | "--json") {
                            part.retain(|byte| !b"\r\n\0".contains(byte));
                        }
                        part
                    }
                };
                is_json |= option == "--json";
                data = Some(match data.take() {
                    Some(first) => {
                        let join: &[u8] = if option == "--json" { b"" } else { b"&" };
                        [&first, join, &part].concat()
                    }
                    None => part,
                });
            }
            "-G" | "--get" => in_query = true,
            "-I" | "--head" => draft.method = "HEAD".to_owned(),
            "-F" | "--form" | "-T" | "--upload-file" | "--data-urlencode" => {
                bail!("{option} is not supported: capture the request instead");
            }
            ignored if IGNORED_WITH_VALUE.contains(&ignored) => drop(value()?),
            flag if flag.starts_with('-') => {}
            url => draft.target = url.to_owned(),
        }
    }
    if draft.target.is_empty() {
        bail!("the curl command has no URL");
    }
    if !draft.target.contains("://") {
        draft.target = format!("http://{}", draft.target);
    }
    match data {
        Some(query) if in_query => {
            let join = if draft.target.contains('?') { '&' } else { '?' };
            draft.target = format!("{}{join}{}", draft.target, String::from_utf8_lossy(&query));
        }
        Some(body) => {
            draft.body = Bytes::from(body);
            if is_json && draft.header("content-type").is_none() {
                let json = b"application/json".to_vec();
                draft.headers.push(("content-type".to_owned(), json));
            }
            draft.add_form_type();
            if draft.method.is_empty() {
                draft.method = "POST".to_owned();
            }
        }
        None => {}
    }
    if draft.method.is_empty() {
        draft.method = "GET".to_owned();
    }
    draft.split_url()?;
    Ok(draft)
}

/// Returns whether a word is a short option with its value attached.
fn is_short_with_value(word: &str) -> bool {
    let mut chars = word.chars();
    chars.next() == Some('-') && chars.next().is_some_and(|c| "XHdAebuomwxc".contains(c))
}

/// Splits a command into words, as a POSIX shell does, and with `$'…'`.
///
/// # Errors
/// An unterminated quote.
fn words(text: &str) -> anyhow::Result<Vec<String>> {
    let mut words = Vec::new();
    let (mut word, mut begun) = (String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('\n') | None => {}
                Some('\r') => drop(chars.next_if_eq(&'\n')),
                Some(escaped) => {
                    word.push(escaped);
                    begun = true;
                }
            },
            '\'' => {
                begun = true;
                loop {
                    match chars.next().context("a single quote is not closed")? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '$' if chars.peek() == Some(&'\'') => {
                chars.next();
                begun = true;
                ansi(&mut chars, &mut word)?;
            }
            '"' => {
                begun = true;
                loop {
                    match chars.next().context("a double quote is not closed")? {
                        '"' => break,
                        '\\' => match chars.next().context("a double quote is not closed")? {
                            c @ ('"' | '\\' | '$' | '`') => word.push(c),
                            '\n' => {}
                            other => word.extend(['\\', other]),
                        },
                        c => word.push(c),
                    }
                }
            }
            c if c.is_whitespace() => {
                if std::mem::take(&mut begun) {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => {
                begun = true;
                word.push(c);
            }
        }
    }
    if begun {
        words.push(word);
    }
    Ok(words)
}

/// Reads the rest of `$'…'`, with the escapes that browsers write.
fn ansi(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    word: &mut String,
) -> anyhow::Result<()> {
    loop {
        match chars.next().context("a single quote is not closed")? {
            '\'' => return Ok(()),
            '\\' => {
                let escaped = chars.next().context("a single quote is not closed")?;
                let digits = match escaped {
                    'u' => 4,
                    'x' => 2,
                    _ => 0,
                };
                if digits == 0 {
                    word.push(match escaped {
                        'n' => '\n',
                        'r' => '\r',
                        't' => '\t',
                        other => other,
                    });
                    continue;
                }
                let mut code = String::new();
                while code.len() < digits
                    && let Some(digit) = chars.next_if(char::is_ascii_hexdigit)
                {
                    code.push(digit);
                }
                let code = u32::from_str_radix(&code, 16).ok().and_then(char::from_u32);
                word.push(code.context("an escape in $'…' is not a character")?);
            }
            c => word.push(c),
        }
    }
}
