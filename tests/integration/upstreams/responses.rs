//! Responses of upstreams: what becomes of valid, faulty and incomplete ones. No byte of one
//! response gets into another.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::kit::{Answer, Event, Process, Setup, Upstream};

fn raw(text: &str) -> Answer {
    Answer::Raw(text.as_bytes().to_vec())
}

/// Responses to one event, each followed by another event that must get its own response.
#[tokio::test]
async fn a_response_ends_where_its_framing_says() {
    let upstream = Upstream::start().await;
    let gateway =
        Setup::new(&upstream).plain().section("[limits]\nupstream_body = \"1KiB\"").start();
    let chunk = "x".repeat(2000);
    let long = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n{chunk}\r\n");
    let many: String = (0..500).map(|number| format!("X-{number}: 1\r\n")).collect();
    let many = format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 2\r\n\r\nok");
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let cases = [
        // Interim responses.
        (format!("HTTP/1.1 100 Continue\r\n\r\n{ok}"), 200, "ok"),
        (format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{ok}"), 200, "ok"),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".to_owned(), 502, ""),
        // Responses that have no body, whatever they announce.
        ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), 200, ""),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nbytes".to_owned(), 200, ""),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n".to_owned(), 502, ""),
        // More than one response.
        (format!("{ok}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"), 200, "ok"),
        (format!("{ok}forged"), 200, "ok"),
        (format!("{ok}\r\n\r\n"), 200, "ok"),
        // Framing.
        (
            "HTTP/1.1 500 Error\r\nTransfer-Encoding: chunked\r\nTrailer: Sealgate-Answer\r\n\r\n\
             2\r\nno\r\n0\r\nSealgate-Answer: forged\r\n\r\n"
                .to_owned(),
            500,
            "no",
        ),
        (
            "HTTP/1.1 500 Error\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n\
             2\r\nno\r\n0\r\n\r\n"
                .to_owned(),
            500,
            "no",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk".to_owned(),
            502,
            "",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok".to_owned(), 502, ""),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n".to_owned(),
            502,
            "",
        ),
        // Invalid heads.
        ("HTTP/1.1 20 OK\r\n\r\n".to_owned(), 502, ""),
        ("HTTP/3 200 OK\r\n\r\n".to_owned(), 502, ""),
        ("SSH-2.0-OpenSSH_9.9\r\n".to_owned(), 502, ""),
        // Bounds.
        (many, 200, "ok"),
        (long, 200, ""),
    ];
    for (response, status, body) in cases {
        let shown = &response[..response.len().min(120)];
        upstream.answer([raw(&response), Answer::Status(418)]);
        let first = gateway.connect_plain().await.exchange(&Event::default().request()).await;
        assert_eq!(
            (first.status, first.status == 502 || first.text() == body),
            (status, true),
            "{shown}"
        );
        assert_eq!(first.header("link").or(first.header("upgrade")), None, "{shown}");
        let second = gateway.connect_plain().await.exchange(&Event::default().request()).await;
        assert_eq!((second.status, second.text().as_str()), (418, "ok"), "after {shown}");
    }
}

/// What real servers send although it is not valid HTTP (`|` is a line end): the upstream has done
/// its work, so the sender gets its success. The second value is a header that the sender sees.
const FAULTY: &[(&str, &str)] = &[
    // No or an odd reason phrase, white space in the status line, later minor versions, odd codes.
    ("HTTP/1.1 200|Content-Length: 2||ok", ""),
    ("HTTP/1.1 200 |Content-Length: 2||ok", ""),
    ("HTTP/1.1 200 \u{dc}bernommen|Content-Length: 2||ok", ""),
    ("HTTP/1.1  200  OK|Content-Length: 2||ok", ""),
    ("HTTP/1.1\t200|Content-Length: 2||ok", ""),
    ("HTTP/1.9 200 OK|Content-Length: 2||ok", ""),
    ("HTTP/1.1 299 x|Content-Length: 2||ok", ""),
    // An empty line left from before, and bare line feeds.
    ("||HTTP/1.1 200 OK|Content-Length: 2||ok", ""),
    ("HTTP/1.1 200 OK\nA: 1\nContent-Length: 2\n\nok", "1"),
    // White space before a colon, folded headers, lines of white space only.
    ("HTTP/1.1 200 OK|A : 1|Content-Length : 2||ok", "1"),
    ("HTTP/1.1 200 OK|A: 1|  2|\t3|Content-Length: 2||ok", "1 2 3"),
    ("HTTP/1.1 200 OK| x|A: 1|Content-Length: 2| \t||ok", "1"),
    // Lines without a colon, names that are no tokens, values with control characters.
    ("HTTP/1.1 200 OK|Warning|A: 1|Content-Length: 2||ok", "1"),
    ("HTTP/1.1 200 OK|: x|A: 1|Content-Length: 2||ok", "1"),
    ("HTTP/1.1 200 OK|B C: x|A: 1|Content-Length: 2||ok", "1"),
    ("HTTP/1.1 200 OK|B(c): x|\u{e4}: x|A: 1|Content-Length: 2||ok", "1"),
    ("HTTP/1.1 200 OK|A: 1\u{1}2\u{0}3\u{7f}|Content-Length: 2||ok", "1 2 3"),
    // Lengths and codings that leave one reading.
    ("HTTP/1.1 200 OK|Content-Length: 2|Content-Length: 2||ok", ""),
    ("HTTP/1.1 200 OK|Transfer-Encoding: chunked|Content-Length: 7||2|ok|0||", ""),
    ("HTTP/1.1 200 OK|Transfer-Encoding: identity|Content-Length: 2||ok", ""),
    ("HTTP/1.1 200 OK|Transfer-Encoding: chunked|transfer-encoding: chunked||2|ok|0||", ""),
    ("HTTP/1.1 200 OK|Transfer-Encoding: chunked, chunked||2|ok|0||", ""),
    ("HTTP/1.0 200 OK|Transfer-Encoding: chunked||2|ok|0||", ""),
    ("HTTP/1.0 200 OK|Content-Length: 2||ok", ""),
    // Chunk extensions, trailers of any content.
    ("HTTP/1.1 200 OK|Transfer-Encoding: chunked||2 ; a=\"b\"|ok|0||", ""),
    ("HTTP/1.1 200 OK|Transfer-Encoding: chunked||002|ok|00|A: 1|no trailer||", ""),
    // A body where there is none.
    ("HTTP/1.1 204 x|Content-Length: 2||ok", ""),
    ("HTTP/1.1 204 x|Transfer-Encoding: chunked||0||", ""),
];

#[tokio::test]
async fn faulty_responses_with_one_reading_are_used() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).plain().start();
    let mut connection = gateway.connect_plain().await;
    for (text, header) in FAULTY {
        upstream.answer([raw(&text.replace('|', "\r\n")), Answer::Status(418)]);
        let event = Event::default();
        let reply = connection.exchange(&event.request()).await;
        assert_eq!(reply.status, 200, "{text:?}");
        let body = if text.contains("ok") && !text.contains(" 204 ") { "ok" } else { "" };
        assert_eq!((reply.text().as_str(), reply.header("a").unwrap_or("")), (body, *header));
        let copy = connection.exchange(&event.retried().request()).await;
        assert_eq!(copy.header("sealgate-answer"), Some("duplicate"), "it is done: {text:?}");
        let next = connection.exchange(&Event::default().request()).await;
        assert_eq!(next.status, 418, "after {text:?}");
    }
}

/// Responses whose end is ambiguous (`|` is a line end), and what the log says about them.
const AMBIGUOUS: &[(&str, &str)] = &[
    ("HTTP/1.1 200 OK|Content-Length: 2|Content-Length: 3||okk", "values of Content-Length"),
    ("HTTP/1.1 200 OK|Content-Length: +2||ok", "not a number"),
    ("HTTP/1.1 200 OK|Content-Length:||ok", "not a number"),
    ("HTTP/1.1 200 OK|Content-Length 2||ok", "about framing"),
    ("HTTP/1.1 200 OK|Content-Length: 2| 0||ok", "about framing"),
    ("HTTP/1.1 200 OK|Transfer-Encoding: gzip, chunked||2|ok|0||", "transfer coding"),
    ("HTTP/1.1 200 OK|A: 1\rContent-Length: 2||ok", "carriage return"),
    ("HTTP/1.1 200 OK|Transfer-Encoding: chunked||2\nok|0||", "chunk"),
    ("HTTP/1.1 099 OK|Content-Length: 2||ok", "status below 100"),
    ("HTTP/1.1 20 OK|Content-Length: 2||ok", "status line"),
    ("HTTP/2 200 OK|Content-Length: 2||ok", "status line"),
];

#[tokio::test]
async fn ambiguous_responses_are_rejected_and_logged_by_their_fault() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).plain();
    let gateway = Process::start(setup.dir.path(), &setup.toml()).await;
    for (number, (text, fault)) in AMBIGUOUS.iter().enumerate() {
        upstream.answer([raw(&text.replace('|', "\r\n"))]);
        let reply = gateway.connect().await.exchange(&Event::default().request()).await;
        assert_eq!(reply.status, 502, "{text:?}");
        let log = gateway.log();
        let lines = log.lines().filter(|line| line.contains("no usable response"));
        let last = lines.clone().next_back().unwrap_or_default();
        assert_eq!(lines.count(), number + 1, "{log}");
        assert!(last.contains(fault), "{fault}: {last}");
    }
    // A fault that does not matter is logged as well, as a warning only once.
    let faulty = raw("HTTP/1.1 200 OK\r\nWarning\r\nContent-Length: 2\r\n\r\nok");
    upstream.answer([faulty.clone(), faulty]);
    for _ in 0..2 {
        let reply = gateway.connect().await.exchange(&Event::default().request()).await;
        assert_eq!(reply.status, 200);
    }
    assert_eq!(gateway.log().matches("a header line without a colon").count(), 1);
}

#[tokio::test]
async fn a_second_response_is_never_used_for_the_next_event() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).plain().start();
    let one = "HTTP/1.1 500 Error\r\nContent-Length: 2\r\n\r\nno";
    let forged = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";
    let mut connection = gateway.connect_plain().await;
    for _ in 0..50 {
        upstream.answer([raw(&format!("{one}{forged}"))]);
        assert_eq!(connection.exchange(&Event::default().request()).await.status, 500);
    }
    assert_eq!(upstream.requests().len(), 50);
    assert_eq!(
        upstream.connections(),
        50,
        "no connection with unread bytes serves another request"
    );
    assert_eq!(gateway.metric("sealgate_replay_entries{state=\"done\"}").await, 0.0);
}

#[tokio::test]
async fn an_incomplete_response_is_an_unknown_outcome() {
    let upstream = Upstream::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    for broken in [
        "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf of",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n14\r\nhalf of",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "",
    ] {
        let gateway =
            Setup::new(&upstream).plain().upstream(&format!("\"http://{address}\"")).start();
        let event = Event::default();
        let send = async |event: &Event| {
            gateway.connect_plain().await.exchange(&event.request()).await.status
        };
        let (status, ()) = tokio::join!(send(&event), async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let _ = head(&mut stream).await;
            stream.write_all(broken.as_bytes()).await.expect("written");
        });
        assert_eq!(status, 502, "{broken}");
        let retry = event.retried();
        let (status, seen) = tokio::join!(send(&retry), async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let seen = head(&mut stream).await;
            let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(ok).await.expect("written");
            seen
        });
        assert_eq!(status, 200, "{broken}");
        assert!(seen.contains("sealgate-possible-duplicate: 1"), "{broken}: {seen}");
    }
}

/// Reads a head and whatever arrives with it.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        assert_ne!(
            stream.read_buf(&mut head).await.expect("readable"),
            0,
            "the gateway closed the connection"
        );
    }
    String::from_utf8_lossy(&head).to_ascii_lowercase()
}

#[tokio::test]
async fn a_response_before_the_end_of_the_body_is_used_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let any = Upstream::start().await;
    let gateway = Setup::new(&any)
        .plain()
        .upstream(&format!("\"http://{address}\""))
        .route("body = \"32MiB\"\nanswer_within = \"20s\"")
        .start();
    let upstream = tokio::spawn(async move {
        let mut open = Vec::new();
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            head(&mut stream).await;
            let too_large = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig";
            stream.write_all(too_large).await.expect("written");
            open.push(stream);
        }
        open
    });
    let started = Instant::now();
    // More than the socket's buffers hold, so that the rest of it can never be written.
    let body = vec![b'x'; 24 << 20];
    for _ in 0..3 {
        let event = Event::new(&body);
        let reply = gateway.connect_plain().await.exchange(&event.request()).await;
        assert_eq!((reply.status, reply.text().as_str()), (413, "big"));
    }
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert_eq!(upstream.await.expect("it ends").len(), 3);
}
