//! Ambiguous requests on raw sockets, with and without TLS. All of them are authentic, so that only
//! the HTTP rules can keep them from the upstream, which records every byte.

mod framing;
mod heads;
mod targets;

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::kit::{Connection, Event, Gateway, SECRET, Setup};

/// The body of a request, unless the case has its own.
const BODY: &str = "abcdefghij";

/// A request to a path that no route serves. It gets 404 only if the connection is at the boundary
/// between two requests.
const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// One conversation. Texts are Latin-1, and these words in them are filled in for each run:
///
/// - `{post}`: request line, `Host` and the signed headers of a new event;
/// - `{signed}`: only the signed headers;
/// - `{body}`, `{length}`, `{hex}`: the event's body and its length, decimal and hexadecimal;
/// - `{end}`: `Content-Length`, the empty line and the body;
/// - `{chunked}`: `Transfer-Encoding: chunked` and the empty line.
#[derive(Clone)]
struct Case {
    name: String,
    sent: String,
    body: &'static str,
    /// The host that the upstream receives.
    host: &'static str,
    /// The statuses of all answers, in order.
    answers: Vec<u16>,
    /// All that reaches the upstream. Further words: `{ours}`, the headers that the gateway adds,
    /// and `{ours-dechunked}`, the same behind a `Content-Length` that did not come.
    forwarded: Option<String>,
    closes: Closes,
}

/// Whether the gateway closes the connection after the last response.
#[derive(Clone, Copy)]
enum Closes {
    Yes,
    No,
    /// It may: it has not read the body, and whether it does so is a matter of cost.
    Maybe,
}

/// Returns cases that get one status and are not forwarded.
fn rejected(status: u16, cases: &[(&str, &str)]) -> Vec<Case> {
    let closes = match status {
        400 | 431 => Closes::Yes,
        401 => Closes::No,
        _ => Closes::Maybe,
    };
    let case = |(name, sent): &(&str, &str)| Case {
        name: (*name).to_owned(),
        sent: (*sent).to_owned(),
        body: BODY,
        host: "localhost",
        answers: vec![status],
        forwarded: None,
        closes,
    };
    cases.iter().map(case).collect()
}

/// Returns a case that gets 200, with what the upstream sees.
fn forwarded(name: &str, sent: &str, forwarded: &str) -> Case {
    Case {
        name: name.to_owned(),
        sent: sent.to_owned(),
        body: BODY,
        host: "localhost",
        answers: vec![200],
        forwarded: Some(forwarded.to_owned()),
        closes: Closes::No,
    }
}

/// Returns a case that is forwarded like the most common request.
fn as_usual(name: &str, sent: &str) -> Case {
    forwarded(name, sent, "{post}Content-Length: {length}\r\n{ours}\r\n{body}")
}

/// Returns a case with a chunked body, which is forwarded with its length.
fn dechunked(name: &str, sent: &str) -> Case {
    forwarded(name, sent, "{post}{ours-dechunked}\r\n{body}")
}

impl Case {
    fn body(mut self, body: &'static str) -> Self {
        self.body = body;
        self
    }

    fn host(mut self, host: &'static str) -> Self {
        self.host = host;
        self
    }

    fn answers(mut self, statuses: &[u16]) -> Self {
        self.answers = statuses.to_vec();
        self
    }

    fn closes(mut self) -> Self {
        self.closes = Closes::Yes;
        self
    }

    /// Talks to the gateway, and says what is not as it should be.
    async fn run(
        &self,
        mut connection: Connection,
        proto: &str,
        upstream: &Recorder,
    ) -> Result<(), String> {
        let event = Event::new(&latin1(self.body));
        connection.write(&latin1(&self.fill(&self.sent, &event, proto, ""))).await;
        let mut request_id = String::new();
        for (number, expected) in self.answers.iter().enumerate() {
            let answer = connection.read().await;
            let answer = answer.ok_or(format!("hung up instead of answering {expected}"))?;
            let seen = || format!("answer {number} is {}", answer.head);
            if answer.status != *expected {
                return Err(format!("{} instead of {expected}", seen()));
            }
            let id = answer.header("sealgate-request-id");
            if answer.status != 100 && id.is_none() {
                return Err(format!("{} without a request id", seen()));
            }
            let kind = answer.header("content-type");
            if answer.status >= 400 && kind != Some("application/problem+json") {
                return Err(format!("{} without a problem document", seen()));
            }
            if answer.status == 200 {
                id.unwrap_or("").clone_into(&mut request_id);
            }
        }
        connection.write(PROBE).await;
        match (self.closes, connection.read().await.map(|answer| answer.status)) {
            (Closes::Yes | Closes::Maybe, None) | (Closes::No | Closes::Maybe, Some(404)) => {}
            (_, status) => return Err(format!("then {status:?}")),
        }
        let seen = upstream.take();
        let expected = self.forwarded.as_ref().map_or(Vec::new(), |expected| {
            latin1(&self.fill(expected, &event, proto, &request_id))
        });
        if seen != expected {
            let (seen, expected) = (seen.escape_ascii(), expected.escape_ascii());
            return Err(format!("the upstream saw\n    {seen}\n  instead of\n    {expected}"));
        }
        Ok(())
    }

    fn fill(&self, text: &str, event: &Event, proto: &str, request_id: &str) -> String {
        let signed: String =
            event.header_lines().iter().map(|line| format!("{line}\r\n")).collect();
        let ours = |length: &str| {
            format!(
                "{length}x-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: {proto}\r\n\
                 x-forwarded-host: {}\r\nsealgate-request-id: {request_id}\r\n\
                 sealgate-verified: vivoldi\r\nsealgate-key: global\r\n\
                 sealgate-event-id: {}\r\n",
                self.host, event.id
            )
        };
        text.replace("{ours}", &ours(""))
            .replace("{ours-dechunked}", &ours("content-length: {length}\r\n"))
            .replace("{post}", "POST /hook HTTP/1.1\r\nHost: localhost\r\n{signed}")
            .replace("{end}", "Content-Length: {length}\r\n\r\n{body}")
            .replace("{chunked}", "Transfer-Encoding: chunked\r\n\r\n")
            .replace("{signed}", &signed)
            .replace("{length}", &event.body.len().to_string())
            .replace("{hex}", &format!("{:x}", event.body.len()))
            .replace("{body}", self.body)
    }
}

fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|char| u8::try_from(char).expect("Latin-1")).collect()
}

/// An upstream that records the bytes of all connections and answers each request that is framed by
/// `Content-Length`.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<u8>>>);

impl Recorder {
    async fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let recorder = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(recorder.clone().serve(stream));
            }
        });
        address
    }

    /// What came since it was last asked.
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().expect("not poisoned"))
    }

    async fn serve(self, mut stream: TcpStream) {
        let (mut came, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            let count = stream.read(&mut piece).await.unwrap_or(0);
            if count == 0 {
                return;
            }
            self.0.lock().expect("not poisoned").extend_from_slice(&piece[..count]);
            came.extend_from_slice(&piece[..count]);
            while let Some(length) = request_length(&came).filter(|length| *length <= came.len()) {
                came.drain(..length);
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Returns the length of the first request, once its head is complete.
fn request_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"))?;
    Some(head + length.trim().parse::<usize>().ok()?)
}

async fn start() -> (Gateway, Recorder) {
    let upstream = Recorder::default();
    let address = upstream.start().await;
    let route = |name: &str, path: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\npath = \"{path}\"\nscheme = \"vivoldi\"\n\
             upstream = \"http://{address}\"\nsecret = \"{SECRET}\"\n"
        )
    };
    let routes = [route("exact", "/hook"), route("below", "/hooks/*")].concat();
    // The kit's own upstream has nothing to do here.
    let unused = crate::kit::Upstream::start().await;
    (Setup::new(&unused).routes(&routes).start(), upstream)
}

#[tokio::test]
async fn the_upstream_sees_one_unambiguous_request_or_none() {
    let cases = [framing::cases(), heads::cases(), targets::cases()].concat();
    let names: HashSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    let passing = cases.iter().filter(|case| case.forwarded.is_some()).count();
    assert_eq!(names.len(), cases.len(), "each case has a name of its own");
    assert!(cases.len() >= 100 && passing >= 30, "{} cases, {passing} forwarded", cases.len());

    let (mut gateway, upstream) = start().await;
    let mut failures = Vec::new();
    for case in &cases {
        for proto in ["http", "https"] {
            let connection = match proto {
                "http" => gateway.connect_plain().await,
                _ => gateway.connect().await,
            };
            if let Err(failure) = case.run(connection, proto, &upstream).await {
                failures.push(format!("{} ({proto}): {failure}", case.name));
                upstream.take();
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {}:\n{}",
        failures.len(),
        2 * cases.len(),
        failures.join("\n")
    );
    gateway.drain().await;
    assert_eq!(upstream.take(), b"", "nothing comes late");
}
