//! What an upstream may answer, and what becomes of it: nothing of one answer gets into another, and
//! nothing that breaks off passes for an answer.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::kit::{Answer, Event, Setup, Upstream};

fn raw(text: &str) -> Answer {
    Answer::Raw(text.as_bytes().to_vec())
}

/// Answers to one event, each followed by one that must get its own answer.
#[tokio::test]
async fn what_an_upstream_says_ends_with_its_answer() {
    let upstream = Upstream::start().await;
    let gateway =
        Setup::new(&upstream).plain().section("[limits]\nupstream_body = \"1KiB\"").start();
    let chunk = "x".repeat(2000);
    let long = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n{chunk}\r\n");
    let many: String = (0..200).map(|number| format!("X-{number}: 1\r\n")).collect();
    let many = format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 2\r\n\r\nok");
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let cases = [
        // Interim answers are not the answer.
        (format!("HTTP/1.1 100 Continue\r\n\r\n{ok}"), 200, "ok"),
        (format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{ok}"), 200, "ok"),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".to_owned(), 502, ""),
        // Answers without a body have none, whatever they announce.
        ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), 200, ""),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nbytes".to_owned(), 200, ""),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n".to_owned(), 502, ""),
        // More than one answer.
        (format!("{ok}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"), 200, "ok"),
        (format!("{ok}forged"), 200, "ok"),
        (format!("{ok}\r\n\r\n"), 200, "ok"),
        // Framing: a length, chunks, or until the end of the connection.
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
        // Heads that are none.
        ("HTTP/1.1 20 OK\r\n\r\n".to_owned(), 502, ""),
        ("HTTP/3 200 OK\r\n\r\n".to_owned(), 502, ""),
        ("SSH-2.0-OpenSSH_9.9\r\n".to_owned(), 502, ""),
        ("HTTP/1.1 200 OK\r\nA: 1\r\n folded\r\nContent-Length: 0\r\n\r\n".to_owned(), 502, ""),
        ("HTTP/1.1 200 OK\r\nA\0: 1\r\nContent-Length: 0\r\n\r\n".to_owned(), 502, ""),
        // Bounds.
        (many, 502, ""),
        (long, 200, ""),
    ];
    for (answer, status, body) in cases {
        let shown = &answer[..answer.len().min(120)];
        upstream.answer([raw(&answer), Answer::Status(418)]);
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

#[tokio::test]
async fn an_answer_too_many_is_never_the_next_events() {
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
    assert_eq!(upstream.connections(), 50, "no connection with something unread is used again");
    assert_eq!(gateway.metric("sealgate_replay_entries{state=\"done\"}").await, 0.0);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_unknown_outcome() {
    let upstream = Upstream::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    for broken in [
        "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf of",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n14\r\nhalf of",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
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

/// Reads a head, and no more of the body than comes along.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut head).await.expect("readable"), 0, "the gateway hung up");
    }
    String::from_utf8_lossy(&head).to_ascii_lowercase()
}

#[tokio::test]
async fn an_upstream_that_answers_before_the_body_keeps_nobody_waiting() {
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
            let refused = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig";
            stream.write_all(refused).await.expect("written");
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
