//! The inspector: one page, whose files are embedded in the binary. It uses only the admin API.

use std::{io::Write, sync::LazyLock};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
    header::{
        ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
        ETAG, IF_NONE_MATCH, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    },
    request::Parts,
};
use sha2::{Digest, Sha256};

use super::reply::{AdminResponse, CallError, CallResult};
use crate::reject::Reason;

/// The browser loads the page's own files, connects to the page's own origin, and parses no markup
/// from strings.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

/// The headers of all files.
const HEADERS: [(HeaderName, &str); 8] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (CACHE_CONTROL, "no-cache"),
    (VARY, "accept-encoding"),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A file of the page.
struct PageFile {
    path: &'static str,
    kind: &'static str,
    plain: Bytes,
    gzip: Bytes,
    tag: HeaderValue,
}

/// All files, compressed at the first request.
static FILES: LazyLock<Vec<PageFile>> = LazyLock::new(|| {
    macro_rules! files {
        ($($name:literal: $kind:expr),* $(,)?) => {
            [$((concat!("/inspector/", $name), $kind, include_str!(concat!("inspector/", $name)))),*]
        };
    }
    let listed = files! {
        "api.js": SCRIPT,
        "app.js": SCRIPT,
        "body.js": SCRIPT,
        "copy.js": SCRIPT,
        "detail.js": SCRIPT,
        "dialogs.js": SCRIPT,
        "dom.js": SCRIPT,
        "events.js": SCRIPT,
        "facts.js": SCRIPT,
        "filters.js": SCRIPT,
        "format.js": SCRIPT,
        "icon.svg": SVG,
        "list.js": SCRIPT,
        "login.js": SCRIPT,
        "overview.js": SCRIPT,
        "pretty.js": SCRIPT,
        "rejected.js": SCRIPT,
        "style.css": CSS,
    };
    let page = ("/", HTML, include_str!("inspector/index.html"));
    let files = listed.into_iter().chain([page]);
    let mut files: Vec<_> = files
        .map(|(path, kind, text)| PageFile::new(path, kind, Bytes::from_static(text.as_bytes())))
        .collect();
    files.push(PageFile::new("/inspector/reasons.js", SCRIPT, reasons().into()));
    files
});

/// Returns a module with what each rejection reason means.
fn reasons() -> String {
    let meanings = Reason::ALL.map(|reason| (reason.label().to_owned(), reason.meaning().into()));
    let meanings = serde_json::Map::from_iter(meanings);
    format!("export const REASONS = {};\n", serde_json::Value::Object(meanings))
}

impl PageFile {
    fn new(path: &'static str, kind: &'static str, plain: Bytes) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let gzip = encoder.write_all(&plain).and_then(|()| encoder.finish());
        let gzip = gzip.expect("writing to memory cannot fail").into();
        let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(&plain)[..16]);
        // Weak, because both encodings have it.
        let tag = HeaderValue::try_from(format!("W/\"{digest}\"")).expect("hexadecimal");
        PageFile { path, kind, plain, gzip, tag }
    }

    /// Returns the file as the request's headers ask for it.
    fn response(&self, request: &HeaderMap) -> AdminResponse {
        let mut response = Response::new(Bytes::new().into());
        let headers = response.headers_mut();
        headers.extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
        headers.insert(ETAG, self.tag.clone());
        if request.get_all(IF_NONE_MATCH).iter().any(|known| has_tag(known, &self.tag)) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
        let body = if accepts_gzip(request) {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            &self.gzip
        } else {
            &self.plain
        };
        *response.body_mut() = body.clone().into();
        response
    }
}

/// Returns the response to a request for a file of the page.
///
/// # Errors
/// 404 for an unknown path; 405 for a method that does not read.
pub(super) fn respond(request: &Parts) -> CallResult {
    let Some(file) = FILES.iter().find(|file| file.path == request.uri.path()) else {
        return Err(CallError::not_found("not found"));
    };
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(CallError::method("GET, HEAD"));
    }
    Ok(file.response(&request.headers))
}

/// Returns whether `If-None-Match` names the tag.
fn has_tag(known: &HeaderValue, tag: &HeaderValue) -> bool {
    let mut known = known.as_bytes().split(|byte| *byte == b',');
    known.any(|known| known.trim_ascii() == tag.as_bytes())
}

fn accepts_gzip(request: &HeaderMap) -> bool {
    let lines = request.get_all(ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().trim_start_matches("q=");
        name.trim().eq_ignore_ascii_case("gzip") && weight.parse().map_or(true, |q: f32| q > 0.0)
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, io::Read, path::Path};

    use http::Request;
    use http_body_util::BodyExt;

    use super::*;

    /// Everything that a browser loads, compressed.
    const LARGEST: usize = 150 << 10;

    #[test]
    fn all_files_together_are_small() {
        let compressed: usize = FILES.iter().map(|file| file.gzip.len()).sum();
        println!("{} files, {compressed} bytes compressed", FILES.len());
        assert!(compressed < LARGEST, "{compressed}");
    }

    #[test]
    fn serves_every_file_in_the_directory() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/inspector");
        let names = std::fs::read_dir(dir).expect("a directory").map(|entry| {
            let name = entry.expect("an entry").file_name().into_string().expect("text");
            if name == "index.html" { "/".to_owned() } else { format!("/inspector/{name}") }
        });
        let mut names: BTreeSet<_> = names.collect();
        names.insert("/inspector/reasons.js".to_owned());
        let served: BTreeSet<_> = FILES.iter().map(|file| file.path.to_owned()).collect();
        assert_eq!(served, names);
    }

    #[test]
    fn scripts_parse_no_markup_and_no_code_from_strings() {
        for file in FILES.iter().filter(|file| file.kind == SCRIPT) {
            let text = std::str::from_utf8(&file.plain).expect("text");
            for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("]
            {
                assert!(!text.contains(sink), "{}: {sink}", file.path);
            }
        }
        assert!(!POLICY.contains("unsafe"));
    }

    #[tokio::test]
    async fn compresses_and_revalidates() {
        let request = |path: &str, headers: &[(HeaderName, &'static str)]| {
            let (mut head, ()) = Request::get(path).body(()).expect("a request").into_parts();
            head.headers.extend(
                headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))),
            );
            head
        };
        let get = |headers: &[_]| respond(&request("/", headers)).expect("the page");
        let plain = get(&[(ACCEPT_ENCODING, "gzip;q=0, br")]);
        assert!(plain.headers()[CONTENT_TYPE].as_bytes().starts_with(b"text/html"));
        let plain = plain.into_body().collect().await.expect("a body").to_bytes();
        let response = get(&[(ACCEPT_ENCODING, "br, gzip;q=0.5")]);
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
        let tag = response.headers()[ETAG].to_str().expect("text").to_owned();
        let gzip = response.into_body().collect().await.expect("a body").to_bytes();
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&*gzip).read_to_end(&mut unpacked).expect("gzip");
        assert_eq!(unpacked, plain);
        let response = get(&[(IF_NONE_MATCH, tag.leak())]);
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(response.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
        let mut post = request("/", &[]);
        post.method = Method::POST;
        for (request, status) in [
            (request("/inspector/", &[]), StatusCode::NOT_FOUND),
            (post, StatusCode::METHOD_NOT_ALLOWED),
        ] {
            let rejected = respond(&request).expect_err("an error").into_response();
            assert_eq!(rejected.status(), status);
        }
    }
}
