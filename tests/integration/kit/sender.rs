//! A sender that signs as Vivoldi's guide describes, without using the gateway's code.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::Full;
use sha2::{Digest, Sha256};

/// Global secret of the default configuration.
pub(crate) const SECRET: &str = "a-global-secret-of-the-tests";

/// Webhook request, editable before and after signing.
#[derive(Clone)]
pub(crate) struct Event {
    pub(crate) path: String,
    pub(crate) secret: String,
    pub(crate) id: String,
    pub(crate) request_id: String,
    pub(crate) timestamp: String,
    pub(crate) body: Vec<u8>,
    /// Headers of the unsigned context, sent verbatim.
    pub(crate) context: Vec<(String, String)>,
    /// Replaces the value of the signature header; `{v1}` and `{t}` are substituted.
    pub(crate) signature: Option<String>,
    /// Additional header lines at the end, verbatim.
    pub(crate) extra: Vec<String>,
    /// Headers that are omitted.
    pub(crate) without: Vec<&'static str>,
    /// Body that is sent in place of the signed one.
    pub(crate) tampered: Option<Vec<u8>>,
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string");
        text
    })
}

pub(crate) fn hmac_sha256(secret: &str, message: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
    mac.update(message);
    hex(&mac.finalize().into_bytes())
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Returns the Unix time in milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("before the year 584,000,000")
}

/// Returns a name that is unique on this machine.
pub(crate) fn unique(kind: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{kind}{:08x}{:016x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Default for Event {
    fn default() -> Self {
        Event::new(br#"{"grpIdx": 574, "cpnNo": "ZJLF0399WQBEQZJM"}"#)
    }
}

impl Event {
    /// Creates a GLOBAL event with the current time.
    pub(crate) fn new(body: &[u8]) -> Self {
        let context = [
            ("X-Vivoldi-Webhook-Type", "GLOBAL"),
            ("X-Vivoldi-Resource-Type", "COUPON"),
            ("X-Vivoldi-Action-Type", "NONE"),
            ("X-Vivoldi-Comp-Idx", "50742"),
        ];
        Event {
            path: "/webhooks/vivoldi".to_owned(),
            secret: SECRET.to_owned(),
            id: unique("e"),
            request_id: unique("r"),
            timestamp: now_ms().to_string(),
            body: body.to_vec(),
            context: context.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            signature: None,
            extra: Vec::new(),
            without: Vec::new(),
            tampered: None,
        }
    }

    /// Creates a GROUP event with the current time.
    pub(crate) fn group(resource: &str, secret: &str, body: &[u8]) -> Self {
        let mut event = Event::new(body);
        secret.clone_into(&mut event.secret);
        event.set("X-Vivoldi-Webhook-Type", "GROUP").set("X-Vivoldi-Resource-Type", resource);
        event
    }

    /// Adds header lines at the end, verbatim.
    pub(crate) fn with(mut self, lines: &[&str]) -> Self {
        self.extra.extend(lines.iter().map(|line| (*line).to_owned()));
        self
    }

    /// Changes or adds a header of the context.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.context.retain(|(known, _)| known != name);
        self.context.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Returns a retry by the sender: the same event ID, a new request ID, a new signature.
    pub(crate) fn retried(&self) -> Self {
        let timestamp = (now_ms() + 1).max(self.timestamp.parse().unwrap_or(0) + 1).to_string();
        Event { request_id: unique("r"), timestamp, ..self.clone() }
    }

    /// Returns `v1` as the guide computes it.
    pub(crate) fn v1(&self) -> String {
        let message = format!("{}.{}.{}", self.timestamp, self.id, sha256(&self.body));
        hmac_sha256(&self.secret, message.as_bytes())
    }

    /// Returns the header lines of the scheme, without line ends.
    pub(crate) fn header_lines(&self) -> Vec<String> {
        let signature = self.signature.as_deref().unwrap_or("t={t},v1={v1},alg=hmac-sha256");
        let signature = signature.replace("{t}", &self.timestamp).replace("{v1}", &self.v1());
        let own = [
            ("X-Vivoldi-Request-Id", self.request_id.clone()),
            ("X-Vivoldi-Event-Id", self.id.clone()),
            ("X-Vivoldi-Timestamp", self.timestamp.clone()),
            ("X-Content-SHA256", sha256(&self.body)),
            ("X-Vivoldi-Signature", signature),
        ];
        let context = self.context.iter().map(|(name, value)| (name.as_str(), value.clone()));
        own.into_iter()
            .chain(context)
            .filter(|(name, _)| !self.without.contains(name))
            .map(|(name, value)| format!("{name}: {value}"))
            .chain(self.extra.iter().cloned())
            .collect()
    }

    /// Returns the HTTP/1.1 request on the wire, with `Content-Length`.
    pub(crate) fn request(&self) -> Vec<u8> {
        let body = self.tampered.as_ref().unwrap_or(&self.body);
        let mut head = format!(
            "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n",
            self.path
        );
        for line in self.header_lines() {
            head.push_str(&line);
            head.push_str("\r\n");
        }
        write!(head, "Content-Length: {}\r\n\r\n", body.len()).expect("a string");
        [head.as_bytes(), body].concat()
    }

    /// Returns the HTTP/2 request.
    pub(crate) fn http2_request(&self) -> http::Request<Full<Bytes>> {
        let mut request = http::Request::post(format!("https://localhost{}", self.path));
        for line in self.header_lines() {
            let (name, value) = line.split_once(": ").expect("a header");
            request = request.header(name, value);
        }
        request.body(Full::new(Bytes::from(self.body.clone()))).expect("a request")
    }
}
