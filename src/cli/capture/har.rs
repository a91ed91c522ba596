//! HAR files (HTTP Archive 1.2), or a single entry or request of one.

use anyhow::{Context, bail};
use serde_json::Value;

use super::CaptureDraft;

/// Parses the only request of a HAR file. If there are several, the only one with a body.
///
/// # Errors
/// JSON that is not HAR, or several requests.
pub(super) fn parse(bytes: &[u8]) -> anyhow::Result<CaptureDraft> {
    let json: Value = serde_json::from_slice(bytes).context("it is not a HAR file")?;
    let entries = json.pointer("/log/entries").or_else(|| json.get("entries"));
    let requests: Vec<&Value> = match entries.and_then(Value::as_array) {
        Some(entries) => entries.iter().filter_map(|entry| entry.get("request")).collect(),
        None => vec![json.get("request").unwrap_or(&json)],
    };
    let with_body = || requests.iter().filter(|request| request.get("postData").is_some());
    let request = match (requests.as_slice(), with_body().count()) {
        ([only], _) => *only,
        (_, 1) => with_body().next().copied().unwrap_or(&Value::Null),
        (several, _) => bail!("the HAR file has {} requests: keep one entry", several.len()),
    };
    let text = |name: &str| request.get(name).and_then(Value::as_str);
    let mut draft = CaptureDraft {
        method: text("method").context("it has no `request.method`, so it is not HAR")?.to_owned(),
        target: text("url").context("it has no `request.url`, so it is not HAR")?.to_owned(),
        ..CaptureDraft::default()
    };
    for header in request.get("headers").and_then(Value::as_array).into_iter().flatten() {
        let part = |name: &str| header.get(name).and_then(Value::as_str).unwrap_or("");
        // The URL has what the pseudo-headers of HTTP/2 say.
        if !part("name").starts_with(':') {
            draft.headers.push((part("name").to_owned(), part("value").as_bytes().to_vec()));
        }
    }
    if let Some(data) = request.get("postData") {
        let part = |name: &str| data.get(name).and_then(Value::as_str);
        draft.body = match (part("text"), part("encoding")) {
            (Some(text), Some("base64")) => {
                data_encoding::BASE64.decode(text.as_bytes()).context("postData.text")?.into()
            }
            (Some(text), _) => text.to_owned().into_bytes().into(),
            (None, _) => bail!("`postData` has no `text`: the body was not captured"),
        };
        if let (Some(media_type), None) = (part("mimeType"), draft.header("content-type")) {
            draft.headers.push(("content-type".to_owned(), media_type.as_bytes().to_vec()));
        }
    }
    draft.split_url()?;
    Ok(draft)
}
