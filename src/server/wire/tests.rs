use std::{cell::RefCell, collections::VecDeque, convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use proptest::{collection::vec, prelude::*, sample::select};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{target, upstream::HeaderCase};

const LIMITS: Limits = Limits {
    connections: 1,
    requests: 1,
    address_share: 100,
    first_request: Duration::from_secs(1),
    head: Duration::from_secs(1),
    idle: Duration::from_secs(1),
    write: Duration::from_secs(1),
    queue_time: Duration::from_secs(1),
    head_bytes: 8192,
    headers: 20,
    streams: 1,
    resets: 1,
};

/// A stream that returns its pieces one by one, and then ends.
struct Pieces(VecDeque<Vec<u8>>);

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(mut piece) = self.0.pop_front() {
            let rest = piece.split_off(piece.len().min(buffer.remaining()));
            buffer.put_slice(&piece);
            if !rest.is_empty() {
                self.0.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The result of a connection: the bytes that hyper read, the rejected head, and why a body failed.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    bytes: Vec<u8>,
    rejected: Option<(usize, Reject)>,
    body: Option<String>,
}

fn read(pieces: &[&[u8]], buffer: usize) -> Seen {
    let facts = FactsQueue::default();
    let pieces = pieces.iter().filter(|piece| !piece.is_empty()).map(|piece| piece.to_vec());
    let mut wire = Wire::new(Pieces(pieces.collect()), &LIMITS, &facts);
    let mut bytes = Vec::new();
    let mut space = vec![0; buffer];
    let body = loop {
        let mut buffer = ReadBuf::new(&mut space);
        let mut context = Context::from_waker(std::task::Waker::noop());
        match Pin::new(&mut wire).poll_read(&mut context, &mut buffer) {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => break None,
            Poll::Ready(Ok(())) => bytes.extend_from_slice(buffer.filled()),
            Poll::Ready(Err(error)) => break Some(error.to_string()),
            Poll::Pending => unreachable!("the stream is always ready"),
        }
    };
    let rejected = |(number, facts): (usize, WireFacts)| Some((number, facts.rejection?));
    let rejected = facts.drain().into_iter().enumerate().find_map(rejected);
    Seen { bytes, rejected, body }
}

fn whole(bytes: &[u8]) -> Seen {
    read(&[bytes], 1 << 16)
}

const GOOD: &str =
    "POST /a?b[]=%20c HTTP/1.1\r\nHost: a\r\nX: \t\u{e9} \r\nContent-Length: 3\r\n\r\nabc";

#[test]
fn passes_unambiguous_requests_on_unchanged() {
    let cases = [
        GOOD,
        "GET / HTTP/1.0\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST http://a/b?c HTTP/1.1\r\nHost: a\r\n\r\n",
        "M-SEARCH / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length:003\r\n\r\n\0\r\n",
        "POST / HTTP/1.1\r\ncontent-length: \t 3\t \r\n\r\n\n\n\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTRANSFER-ENCODING:ChUnKeD\r\n\r\n00A\r\n0123456789\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n\n\r\n0\r\nX: y\r\n\r\n",
    ];
    for case in cases {
        for twice in [case.to_owned(), case.repeat(2)] {
            let seen = whole(twice.as_bytes());
            let expected = Seen { bytes: twice.into(), rejected: None, body: None };
            assert_eq!(seen, expected, "{case:?}");
        }
    }
}

/// Returns heads with a fault, and the name of the fault.
fn faulty_heads() -> Vec<(String, &'static str)> {
    let line = |line: &str| format!("{line}\r\nHost: a\r\n\r\n");
    let header = |header: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n");
    let mut cases = Vec::new();
    let mut add = |fault, heads: Vec<String>| {
        cases.extend(heads.into_iter().map(|head| (head, fault)));
    };
    let lines = [
        "POST /",
        "POST  / HTTP/1.1",
        "POST / HTTP/1.1 ",
        " POST / HTTP/1.1",
        "POST / x HTTP/1.1",
        "POST",
        " ",
    ];
    add("request line", lines.map(line).into());
    let lines = ["post / HTTP/1.1", "P\tT / HTTP/1.1", "P\0 / HTTP/1.1", "P@ / HTTP/1.1"];
    add("method", lines.map(line).into());
    let lines = [
        "POST /a#b HTTP/1.1",
        "POST # HTTP/1.1",
        "POST /\t HTTP/1.1",
        "POST /\0 HTTP/1.1",
        "POST /\x7f HTTP/1.1",
        "POST /é HTTP/1.1",
        "POST /\\ HTTP/1.1",
        "POST a HTTP/1.1",
        "POST * HTTP/1.1",
        "POST ?a HTTP/1.1",
        "CONNECT a:1 HTTP/1.1",
        "POST ftp://a/ HTTP/1.1",
        "POST http:/a HTTP/1.1",
        "POST http:///a HTTP/1.1",
        "POST /\" HTTP/1.1",
    ];
    add("request target", lines.map(line).into());
    let lines = [
        "POST / HTTP/2.0",
        "POST / HTTP/1.10",
        "POST / http/1.1",
        "POST / HTTP/1.2",
        "POST / HTTP/0.9",
        "POST / HTTP/1.1\t",
        "POST / XTTP/1.1",
        "POST / HTTP/01.1",
    ];
    add("HTTP version", lines.map(line).into());
    add(
        "bare LF",
        vec![
            "POST / HTTP/1.1\nHost: a\r\n\r\n".into(),
            header("X: a\nY: b"),
            header("X: a\n b"),
            "POST / HTTP/1.1\r\nHost: a\r\n\n".into(),
            "\nPOST / HTTP/1.1\r\n\r\n".into(),
        ],
    );
    add(
        "bare CR",
        vec![
            "POST / HTTP/1.1\rHost: a\r\r".into(),
            "POST / HTTP/1.1\r\nX: a\rb".into(),
            "POST / HTTP/1.1\r\r\n".into(),
            header("X: a\rY: b"),
            header("X:\r"),
            "POST /a\rb HTTP/1.1".into(),
        ],
    );
    let headers = ["X: a\0", "X: \x1b", "X: a\x7f", "X:\x0b"];
    add("control character in a header", headers.map(header).into());
    add("folded header line", [" X: a", "X: a\r\n b", "X: a\r\n\tb", "\tX: a"].map(header).into());
    add("header line without colon", ["X", "GET"].map(header).into());
    let headers =
        [": a", "X : a", "X\t: a", "X\0: a", "X Y: a", "(X): a", "é: a", "Content-Length : 3"];
    add("header name", headers.map(header).into());
    let twice = ["3\r\nContent-Length: 3", "3\r\nContent-Length: 4", "0\r\ncontent-length: 0"];
    add(
        "two Content-Length headers",
        twice.map(|l| header(&format!("Content-Length: {l}"))).into(),
    );
    let lengths = [
        "",
        "+3",
        "-3",
        "0x3",
        "3,3",
        "3, 3",
        "3 3",
        "3.0",
        "3;",
        "\"3\"",
        "3e0",
        "½",
        "18446744073709551616",
        "18446744073709551615",
        "9223372036854775808",
    ];
    add("Content-Length", lengths.map(|l| header(&format!("Content-Length: {l}"))).into());
    let codings = [
        "",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, identity",
        "identity",
        "xchunked",
        "chunked;",
        "\"chunked\"",
        "chunked,",
        ",chunked",
        "chunked chunked",
        "chunked, chunked",
        "chunked\r\nTransfer-Encoding: chunked",
        "chunked\r\nTransfer-Encoding: identity",
    ];
    let coding = |coding| header(&format!("Transfer-Encoding: {coding}"));
    add("Transfer-Encoding other than chunked", codings.map(coding).into());
    let both = [
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Content-Length: 0\r\ntransfer-encoding: CHUNKED",
    ];
    add("Transfer-Encoding and Content-Length", both.map(header).into());
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    add("Transfer-Encoding in HTTP/1.0", vec![old.into()]);
    cases
}

#[test]
fn replaces_a_head_with_a_fault_and_discards_the_rest() {
    let cases = faulty_heads();
    assert!(cases.len() > 80);
    for (head, fault) in cases {
        let stream = [GOOD, &head, "abc", GOOD].concat();
        let bytes = [GOOD.as_bytes(), STAND_IN].concat();
        let rejected = Some((1, Reject::BadRequest(fault)));
        assert_eq!(whole(stream.as_bytes()), Seen { bytes, rejected, body: None }, "{head:?}");
    }
}

#[test]
fn a_body_with_a_fault_fails_its_read() {
    let cases = [
        ("", "\n", "bare LF"),
        ("", "1\nx\r\n0\r\n\r\n", "bare LF"),
        ("", "\r\n", "chunk size"),
        ("", "0x1\r\nx\r\n", "chunk size"),
        ("", "+1\r\nx\r\n", "chunk size"),
        ("", "-1\r\nx\r\n", "chunk size"),
        ("", " 1\r\nx\r\n", "chunk size"),
        ("", "1 \r\nx\r\n", "chunk size"),
        ("", "1;a=b\r\nx\r\n", "chunk size"),
        ("", "1;\r\nx\r\n", "chunk size"),
        ("", "1,1\r\nx\r\n", "chunk size"),
        ("", "1_0\r\nx\r\n", "chunk size"),
        ("", "00000000000000001\r\nx\r\n", "chunk size"),
        ("", "11111111111111111", "chunk size"),
        ("", "1\rx\r\n", "bare CR"),
        ("1\r\nx", "\n0\r\n\r\n", "chunk longer than its size"),
        ("1\r\nx", "y\r\n0\r\n\r\n", "chunk longer than its size"),
        ("1\r\nx", "0\r\n\r\n", "chunk longer than its size"),
        ("1\r\nx", "\r0\r\n\r\n", "chunk longer than its size"),
        ("0\r\n", "\n", "bare LF"),
        ("0\r\n", "Content-Length: 3\r\n\r\n", "header that must not be a trailer"),
        ("0\r\n", "transfer-encoding: chunked\r\n\r\n", "header that must not be a trailer"),
        ("0\r\n", "HOST: b\r\n\r\n", "header that must not be a trailer"),
        ("0\r\n", "X : y\r\n\r\n", "header name"),
        ("0\r\n", "GET / HTTP/1.1\r\n\r\n", "header name"),
        ("0\r\nX: y\r\n", " z\r\n\r\n", "folded header line"),
    ];
    let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (good, bad, fault) in cases {
        let stream = [GOOD, head, good, bad, GOOD].concat();
        let bytes = [GOOD, head, good].concat().into_bytes();
        let body = Some(Reject::BadRequest(fault).to_string());
        let seen = whole(stream.as_bytes());
        assert_eq!(seen, Seen { bytes, rejected: None, body }, "{good:?} {bad:?}");
    }
}

#[test]
fn heads_and_trailers_are_bounded() {
    let too_large = |head: &str| {
        assert_eq!(whole(head.as_bytes()).rejected, Some((0, Reject::HeadTooLarge)), "{head}");
    };
    let line = "GET / HTTP/1.1\r\n";
    let longest = "x".repeat(LIMITS.head_bytes - line.len() - "X:\r\n\r\n".len());
    let most = "X: y\r\n".repeat(LIMITS.headers);
    for good in [format!("{line}X:{longest}\r\n\r\n"), format!("{line}{most}\r\n")] {
        assert_eq!(whole(good.as_bytes()).rejected, None);
    }
    too_large(&format!("{line}X:{longest}x\r\n\r\n"));
    too_large(&format!("{line}X:{longest}xxxxx"));
    too_large(&format!("{line}{most}X: y\r\n\r\n"));
    too_large(&format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(LIMITS.head_bytes)));

    let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
    for trailers in ["X: y\r\n".repeat(LIMITS.head_bytes), "x".repeat(LIMITS.head_bytes + 1)] {
        let seen = whole(format!("{chunked}{trailers}").as_bytes());
        assert_eq!(seen.body, Some(Reject::HeadTooLarge.to_string()));
    }
}

#[test]
fn holds_an_incomplete_head_and_releases_its_memory() {
    let facts = FactsQueue::default();
    let mut framing = Wire::new(Pieces(VecDeque::new()), &LIMITS, &facts);
    framing.stream.0.push_back(GOOD.as_bytes()[..20].to_vec());
    let mut space = [0; 512];
    let mut context = Context::from_waker(std::task::Waker::noop());
    let mut buffer = ReadBuf::new(&mut space);
    assert!(Pin::new(&mut framing).poll_read(&mut context, &mut buffer).is_ready());
    assert_eq!((buffer.filled().len(), framing.held.len()), (0, 20));
    framing.stream.0.push_back(GOOD.as_bytes()[20..].to_vec());
    assert!(Pin::new(&mut framing).poll_read(&mut context, &mut buffer).is_ready());
    assert_eq!((buffer.filled(), framing.held.capacity()), (GOOD.as_bytes(), 0));
}

#[test]
fn hyper_accepts_every_target_that_passes() {
    for byte in 0..=255u8 {
        for line in [
            [b"POST /a".as_slice(), &[byte], b"b HTTP/1.1"].concat(),
            [b"POST /?a".as_slice(), &[byte], b"b HTTP/1.1"].concat(),
            [b"POST /".as_slice(), &[byte], b" HTTP/1.1"].concat(),
        ] {
            if grammar::request_line(&line).is_ok() {
                let sent = &line[5..line.len() - 9];
                let held = target::substituted(sent).unwrap_or(sent.to_vec());
                let uri = Uri::try_from(held.as_slice()).expect("a URI");
                let kept = target::path_and_query(&uri).expect("a path");
                assert_eq!(kept.as_bytes(), sent);
            }
        }
    }
}

#[test]
fn raw_characters_of_a_query_are_substituted_wherever_the_bytes_are_split() {
    let sent = format!("{GOOD}POST /a?\"<b>|\" HTTP/1.1\r\nHost: a\r\n\r\n{GOOD}");
    let read_by_hyper = sent.replace("?\"<b>|\"", "?\u{a2}\u{bc}b\u{be}|\u{a2}");
    let expected = Seen { bytes: read_by_hyper.into(), rejected: None, body: None };
    assert_eq!(whole(sent.as_bytes()), expected);
    for at in 0..sent.len() {
        let (one, other) = sent.as_bytes().split_at(at);
        assert_eq!(read(&[one, other], 1 << 16), expected, "split at {at}");
        assert_eq!(read(&[one, other], 7), expected, "split at {at}");
    }
    let longest = "\"".repeat(LIMITS.head_bytes - 100);
    let seen = whole(format!("POST /?{longest} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    assert_eq!(seen.rejected, Some((0, Reject::HeadTooLarge)));
}

#[test]
fn the_result_does_not_depend_on_how_bytes_are_split() {
    let chunked =
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n";
    let ends = [
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    for end in ends {
        let stream = [GOOD, chunked, "\r\n", GOOD, end, GOOD].concat().into_bytes();
        let expected = whole(&stream);
        for at in 0..=stream.len() {
            let (left, right) = stream.split_at(at);
            for buffer in [1, 7, 4096] {
                assert_eq!(read(&[left, right], buffer), expected, "split at {at}, {buffer}");
            }
        }
        let single: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(read(&single, 4096), expected);
    }
}

/// What the service behind hyper saw: method, target, header lines, body.
type Request1 = (String, String, Vec<u8>, Option<Vec<u8>>);

/// Returns the header lines of a request as they are forwarded. Each name must be in the position
/// in which the wire saw it.
fn lines(headers: &HeaderMap, header_case: &HeaderCase) -> Vec<u8> {
    let (mut lines, mut written_so) = (Vec::new(), HeaderCase::default());
    header_case.each(headers, |(written, name, value)| {
        assert!(written.eq_ignore_ascii_case(name.as_str().as_bytes()));
        written_so.push(written);
        lines.extend_from_slice(&[written, b":", value.as_bytes(), b"\r\n"].concat());
    });
    assert_eq!(&written_so, header_case, "{headers:?}");
    lines
}

/// Serves the pieces of a connection with hyper behind the wire. Returns the requests that were not
/// rejected, the number of rejected ones, and the responses.
fn serve(pieces: &[&[u8]]) -> (Vec<Request1>, usize, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let facts = FactsQueue::default();
    let requests = RefCell::new(Vec::new());
    let rejected = RefCell::new(0);
    let service = service_fn(async |request: Request<Incoming>| {
        let wire = facts.pop();
        if wire.rejection.is_none() {
            let (head, body) = request.into_parts();
            let lines = lines(&head.headers, &wire.header_case);
            let body = body.collect().await.ok().map(|body| body.to_bytes().to_vec());
            let request = (head.method.to_string(), head.uri.to_string(), lines, body);
            requests.borrow_mut().push(request);
        } else {
            *rejected.borrow_mut() += 1;
        }
        facts.finish();
        let response = Response::builder().header("x-service", "1").body(Full::new(Bytes::new()));
        Ok::<_, Infallible>(response.expect("a response"))
    });
    let answers = runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let stream = TokioIo::new(Wire::new(server, &LIMITS, &facts));
        let serving = async {
            let _ = http1::Builder::new()
                .half_close(true)
                .max_headers(LIMITS.headers)
                .max_header_size(LIMITS.head_bytes)
                .max_buf_size(LIMITS.head_bytes + (16 << 10))
                .serve_connection(stream, service)
                .await;
        };
        let talking = async {
            for piece in pieces {
                let _ = client.write_all(piece).await;
                tokio::task::yield_now().await;
            }
            let _ = client.shutdown().await;
            let mut answers = String::new();
            let _ = client.read_to_string(&mut answers).await;
            answers
        };
        tokio::join!(serving, talking).1
    });
    (requests.into_inner(), rejected.into_inner(), answers)
}

/// Returns a request on the wire, and the request that hyper should see.
fn requests() -> impl Strategy<Value = (Vec<u8>, Request1)> {
    let method = select(vec!["GET", "POST", "PUT", "OPTIONS", "PURGE"]);
    let target = "/[a-z0-9%2f.;/]{0,12}(\\?[a-z=&\\[\\]]{0,8})?";
    // Some names are repeated, with different case.
    let name = prop_oneof!["[A-Za-z_-]{1,12}", "[aA][bB]?"];
    let header = (name, "[ \t]{0,2}[ -~\t\u{80}-\u{ff}]{0,20}[ \t]{0,2}")
        .prop_map(|(name, value)| format!("{name}:{value}"));
    let headers = vec(header, 0..9).prop_filter("headers that hyper acts on", |headers| {
        headers.iter().all(|header| {
            let name = header.to_ascii_lowercase();
            !["connection", "content-length", "transfer-encoding", "upgrade", "expect"]
                .iter()
                .any(|known| name.starts_with(&format!("{known}:")))
        })
    });
    let body = vec(vec(any::<u8>(), 1..40), 0..4);
    (method, target, headers, body, any::<bool>(), any::<bool>()).prop_map(
        |(method, target, headers, chunks, chunked, empty_line)| {
            let body = chunks.concat();
            let framing = if chunked {
                "Transfer-Encoding:chunked".to_owned()
            } else {
                format!("Content-Length:{}", body.len())
            };
            let mut bytes = if empty_line { b"\r\n".to_vec() } else { Vec::new() };
            bytes.extend_from_slice(format!("{method} {target} HTTP/1.1\r\n").as_bytes());
            let mut lines = Vec::new();
            for header in headers.iter().chain([&framing]) {
                bytes.extend_from_slice(header.as_bytes());
                bytes.extend_from_slice(b"\r\n");
                let (name, value) = header.split_once(':').expect("a header line");
                let value = value.trim_matches([' ', '\t']);
                lines.extend_from_slice(format!("{name}:{value}\r\n").as_bytes());
            }
            bytes.extend_from_slice(b"\r\n");
            if chunked {
                for chunk in chunks {
                    bytes.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(&chunk);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            } else {
                bytes.extend_from_slice(&body);
            }
            (bytes, (method.to_owned(), target, lines, Some(body)))
        },
    )
}

proptest! {
    #[test]
    fn hyper_sees_exactly_the_requests_that_pass(
        requests in vec(requests(), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let stream: Vec<u8> = requests.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let expected: Vec<Request1> = requests.into_iter().map(|(_, request)| request).collect();
        let (left, right) = stream.split_at(cut.index(stream.len()));
        let (seen, rejected, _) = serve(&[left, right]);
        prop_assert_eq!((seen, rejected), (expected, 0));
    }

    /// However valid requests are changed: hyper never rejects what passes, and sees no more
    /// requests than heads passed.
    #[test]
    fn hyper_understands_everything_that_passes(
        requests in vec(requests(), 1..4),
        edits in vec((any::<prop::sample::Index>(), 0..3u8, select(b"\r\n\0 \t:;,#+-/0aAxX\x7f\xff".to_vec())), 1..4),
    ) {
        let mut stream: Vec<u8> = requests.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        for (at, edit, byte) in edits {
            let at = at.index(stream.len());
            match edit {
                0 => stream[at] = byte,
                1 => stream.insert(at, byte),
                _ => {
                    stream.remove(at);
                }
            }
        }
        let mut framing = Framing::new(LIMITS.head_bytes, LIMITS.headers);
        let facts = FactsQueue::default();
        let mut rest = stream.as_slice();
        let fault = loop {
            let passed = framing.pass(rest, &facts);
            match passed.replaced {
                Some(replaced) => rest = &rest[passed.bytes + replaced.length..],
                None => break passed.fault,
            }
        };
        let whole = facts.drain().len();
        let (seen, rejected, answers) = serve(&[&stream]);
        prop_assert_eq!(answers.matches("HTTP/1.").count(), answers.matches("x-service").count());
        let rejected_heads = usize::from(matches!(fault, Some(Fault::Head(_))));
        if stream.windows(8).any(|version| version == b"HTTP/1.0") {
            // hyper ends the connection after a request of HTTP/1.0.
            prop_assert!(seen.len() <= whole && rejected <= rejected_heads);
        } else {
            prop_assert_eq!((seen.len(), rejected), (whole, rejected_heads));
        }
    }
}
