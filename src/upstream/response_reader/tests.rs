use proptest::{prelude::*, sample::Index};

use super::*;

const LIMITS: ResponseLimits = ResponseLimits { head_bytes: 2048, body_bytes: 1024 };

/// The result of reading a connection: status, body, whether the body was omitted, whether the
/// connection is persistent, and what is left in the buffer.
type Seen = Option<(u16, Vec<u8>, bool, bool, Vec<u8>)>;

/// Reads pieces one by one, and then the end of the connection.
fn read_whole(pieces: &[&[u8]], to_head: bool) -> Option<(ReceivedResponse, Vec<u8>)> {
    let mut reader = ResponseReader::new(LIMITS, to_head);
    let mut buffer = BytesMut::new();
    for (at, piece) in pieces.iter().enumerate() {
        buffer.extend_from_slice(piece);
        if let Some(whole) = reader.advance(&mut buffer).ok()? {
            pieces[at + 1..].iter().for_each(|piece| buffer.extend_from_slice(piece));
            return Some((whole, buffer.to_vec()));
        }
    }
    reader.finish(&mut buffer).ok().map(|whole| (whole, buffer.to_vec()))
}

fn read(pieces: &[&[u8]], to_head: bool) -> Seen {
    let (whole, left) = read_whole(pieces, to_head)?;
    let ReceivedResponse { response, omission, persistent, .. } = whole;
    let is_omitted = omission == Some(BodyOmission::TooLong);
    Some((response.status.as_u16(), response.body.to_vec(), is_omitted, persistent, left))
}

fn lines(text: &str) -> String {
    text.replace('|', "\r\n")
}

/// Whether a connection serves another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Kept,
    Closed,
}

use self::After::{Closed, Kept};

/// Responses (`|` is a line end), their status and body, and whether the connection is kept.
fn responses() -> Vec<(&'static str, u16, &'static str, After)> {
    vec![
        // Versions and persistence.
        ("HTTP/1.1 200 OK|Content-Length: 2||ok", 200, "ok", Kept),
        ("HTTP/1.1 200|Content-Length: 2||ok", 200, "ok", Kept),
        ("|HTTP/1.1 200 OK|Content-Length: 2||ok", 200, "ok", Kept),
        ("\n|HTTP/1.1 200 OK|Content-Length: 2||ok", 200, "ok", Kept),
        ("HTTP/1.1 999 x|Content-Length: 2||ok", 999, "ok", Kept),
        ("HTTP/1.0 200 OK|Transfer-Encoding: chunked||2|ok|0||", 200, "ok", Closed),
        ("HTTP/1.1 200 |Content-Length: 2||ok", 200, "ok", Kept),
        ("HTTP/1.1 299 Gr\u{fc}\u{df}e|Content-Length: 2||ok", 299, "ok", Kept),
        ("HTTP/1.1 599 x|Content-Length: 0||", 599, "", Kept),
        ("HTTP/1.0 200 OK|Content-Length: 2||ok", 200, "ok", Closed),
        ("HTTP/1.0 200 OK|Connection: Keep-Alive|Content-Length: 2||ok", 200, "ok", Kept),
        ("HTTP/1.0 200 OK|Connection: keep-alive, close|Content-Length: 2||ok", 200, "ok", Closed),
        ("HTTP/1.1 200 OK|Connection: close|Content-Length: 2||ok", 200, "ok", Closed),
        ("HTTP/1.1 200 OK|Connection: x, CLOSE|Content-Length: 2||ok", 200, "ok", Closed),
        (
            "HTTP/1.1 200 OK|Connection: close|Connection: keep-alive|Content-Length: 2||ok",
            200,
            "ok",
            Closed,
        ),
        ("HTTP/1.1 200 OK|Proxy-Connection: close|Content-Length: 2||ok", 200, "ok", Kept),
        // Bare line feeds.
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok", 200, "ok", Kept),
        ("HTTP/1.1 200 OK|Content-Length: 2\n|ok", 200, "ok", Kept),
        // Interim responses.
        ("HTTP/1.1 100 Continue||HTTP/1.1 200 OK|Content-Length: 2||ok", 200, "ok", Kept),
        (
            "HTTP/1.1 103 x|Link: a||HTTP/1.1 102 x||HTTP/1.1 200 OK|Content-Length: 2||ok",
            200,
            "ok",
            Kept,
        ),
        ("HTTP/1.1 100 x|Content-Length: 3||HTTP/1.1 204 x||", 204, "", Kept),
        ("HTTP/1.1 100 x|Connection: close||HTTP/1.1 204 x||", 204, "", Kept),
        // No body.
        ("HTTP/1.1 204 x||", 204, "", Kept),
        ("HTTP/1.1 204 x|Content-Length: 0||", 204, "", Kept),
        ("HTTP/1.1 204 x|Content-Length: 5||", 204, "", Closed),
        ("HTTP/1.1 204 x|Transfer-Encoding: chunked||", 204, "", Closed),
        ("HTTP/1.1 304 x|Content-Length: 5||", 304, "", Kept),
        ("HTTP/1.1 304 x|Transfer-Encoding: chunked||", 304, "", Kept),
        // Lengths.
        ("HTTP/1.1 200 OK|Content-Length: 0||", 200, "", Kept),
        ("HTTP/1.1 200 OK|content-length:\t002 ||ok", 200, "ok", Kept),
        ("HTTP/1.1 200 OK|Content-Length: 2|Content-Length: 2||ok", 200, "ok", Kept),
        ("HTTP/1.1 200 OK|Content-Length: 2, 2,\t2||ok", 200, "ok", Kept),
        // Until the end of the connection.
        ("HTTP/1.1 200 OK||", 200, "", Closed),
        ("HTTP/1.1 200 OK||ok", 200, "ok", Closed),
        (
            "HTTP/1.1 200 OK|Connection: keep-alive||ok||HTTP/1.1 200 OK||",
            200,
            "ok||HTTP/1.1 200 OK||",
            Closed,
        ),
        ("HTTP/1.0 200 OK||ok", 200, "ok", Closed),
        // Chunks.
        ("HTTP/1.1 200 OK|Transfer-Encoding: chunked||0||", 200, "", Kept),
        ("HTTP/1.1 200 OK|transfer-encoding: CHUNKED||2|ok|0||", 200, "ok", Kept),
        ("HTTP/1.1 200 OK|Transfer-Encoding: chunked||1|o|1|k|0||", 200, "ok", Kept),
        (
            "HTTP/1.1 200 OK|Transfer-Encoding: chunked||1|a|1|b|01|c|000d|0123456789abc|00||",
            200,
            "abc0123456789abc",
            Kept,
        ),
        ("HTTP/1.1 200 OK|Transfer-Encoding: chunked||2;a=b;c=\"d\"|ok|0;e||", 200, "ok", Kept),
        ("HTTP/1.1 200 OK|Transfer-Encoding: chunked||2 \t|ok|0 ;x||", 200, "ok", Kept),
        ("HTTP/1.1 200 OK|Transfer-Encoding: chunked||2|ok|0|A: 1|B:||", 200, "ok", Kept),
        ("HTTP/1.1 200 OK|Transfer-Encoding: chunked||2|ok|0|A| b||", 200, "ok", Kept),
        ("HTTP/1.1 200 OK|Transfer-Encoding: chunked||2|ok|0|\n", 200, "ok", Kept),
        ("HTTP/1.1 200 OK|Transfer-Encoding: chunked||2|ok|0|A: 1\n\n", 200, "ok", Kept),
        ("HTTP/1.1 200 OK|Transfer-Encoding: chunked||2|||0||", 200, "|", Kept),
        ("HTTP/1.1 200 OK|Transfer-Encoding: chunked||A|0123456789|0||", 200, "0123456789", Kept),
        (
            "HTTP/1.1 200 OK|Transfer-Encoding: chunked|Content-Length: 9||2|ok|0||",
            200,
            "ok",
            Closed,
        ),
        (
            "HTTP/1.1 200 OK|Content-Length: x|Transfer-Encoding: chunked||2|ok|0||",
            200,
            "ok",
            Closed,
        ),
    ]
}

#[test]
fn reads_responses_by_their_framing() {
    let cases = responses();
    assert!(cases.len() >= 40);
    for (text, status, body, after) in cases {
        let bytes = lines(text).into_bytes();
        let whole = (status, lines(body).into_bytes(), false, after == Kept, Vec::new());
        assert_eq!(read(&[&bytes], false), Some(whole.clone()), "{text:?}");
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read(&single, false), Some(whole), "{text:?}");
    }
}

type FaultyResponse = (&'static str, u16, &'static str, (&'static str, &'static str), &'static str);

/// Responses of real servers that RFC 9112 does not allow, their status and body, a header that is
/// passed on, and the fault.
const FAULTY: &[FaultyResponse] = &[
    ("HTTP/1.1  200 OK|Content-Length: 2||ok", 200, "ok", ("", ""), "status line"),
    ("HTTP/1.1\t200\tOK|Content-Length: 2||ok", 200, "ok", ("", ""), "status line"),
    ("HTTP/1.2 200 OK|Content-Length: 2||ok", 200, "ok", ("", ""), "status line"),
    (
        "HTTP/1.1 200 OK|A: 1|\tfolded|A: 2|Content-Length: 0||",
        200,
        "",
        ("a", "1 folded"),
        "folded",
    ),
    ("HTTP/1.1 200 OK| folded|A: 1|Content-Length: 0||", 200, "", ("a", "1"), "without a header"),
    ("HTTP/1.1 200 OK|A : 1|Content-Length : 2||ok", 200, "ok", ("a", "1"), "before a colon"),
    (
        "HTTP/1.1 200 OK|PHP Warning|A: 1|Content-Length: 2||ok",
        200,
        "ok",
        ("a", "1"),
        "without a colon",
    ),
    ("HTTP/1.1 200 OK|: 1|A: 1|Content-Length: 2||ok", 200, "ok", ("a", "1"), "without a name"),
    (
        "HTTP/1.1 200 OK|B c: 1|  d|A: 1|Content-Length: 2||ok",
        200,
        "ok",
        ("a", "1"),
        "invalid header name",
    ),
    (
        "HTTP/1.1 200 OK|\u{e4}: 1|A: 1|Content-Length: 2||ok",
        200,
        "ok",
        ("a", "1"),
        "invalid header name",
    ),
    ("HTTP/1.1 200 OK|A: \x00\x7f1\x1b2|Content-Length: 2||ok", 200, "ok", ("a", "1 2"), "control"),
    (
        "HTTP/1.1 200 OK|Transfer-Encoding: identity|Content-Length: 2||ok",
        200,
        "ok",
        ("", ""),
        "identity",
    ),
    ("HTTP/1.1 200 OK|Transfer-Encoding: Identity||ok", 200, "ok", ("", ""), "identity"),
    ("HTTP/1.1 200 OK|Transfer-Encoding: chunked, chunked||2|ok|0||", 200, "ok", ("", ""), "twice"),
    (
        "HTTP/1.1 200 OK|Transfer-Encoding: chunked|Transfer-Encoding: chunked||2|ok|0||",
        200,
        "ok",
        ("", ""),
        "twice",
    ),
    ("HTTP/1.1 200 OK|Transfer-Encoding: chunked||2|ok|0|", 200, "ok", ("", ""), "trailers"),
    ("HTTP/1.1 200 OK|Transfer-Encoding: chunked||2|ok|0|A: 1|", 200, "ok", ("", ""), "trailers"),
];

#[test]
fn uses_faulty_responses_that_have_one_reading() {
    for (text, status, body, (name, value), fault) in FAULTY {
        let bytes = lines(text).into_bytes();
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        for pieces in [&[bytes.as_slice()][..], &single] {
            let (seen, left) = read_whole(pieces, false).unwrap_or_else(|| panic!("{text:?}"));
            assert_eq!(seen.response.status.as_u16(), *status, "{text:?}");
            assert_eq!((&*seen.response.body, left.len()), (body.as_bytes(), 0), "{text:?}");
            let header = seen.response.headers.get(*name).map_or(b"".as_slice(), |v| v.as_bytes());
            assert_eq!(header, value.as_bytes(), "{text:?}");
            assert!(!seen.persistent, "{text:?}");
            assert!(seen.faults.iter().any(|known| known.contains(fault)), "{:?}", seen.faults);
        }
    }
}

#[test]
fn leaves_what_follows_a_response_in_the_buffer() {
    let forged = "HTTP/1.1 200 OK|Content-Length: 6||forged";
    let framed = |text: &str| text.contains("ength:") || text.contains("chunked||");
    let cases: Vec<_> = responses().into_iter().filter(|(text, ..)| framed(text)).collect();
    assert!(cases.len() >= 30);
    for (text, status, body, after) in cases {
        let bytes = lines(&format!("{text}{forged}")).into_bytes();
        let left = lines(forged).into_bytes();
        let whole = (status, lines(body).into_bytes(), false, after == Kept, left);
        assert_eq!(read(&[&bytes], false), Some(whole), "{text:?}");
    }
}

#[test]
fn a_response_to_head_has_no_body() {
    for (text, after) in [
        ("HTTP/1.1 200 OK|Content-Length: 5||", Kept),
        ("HTTP/1.1 200 OK|Transfer-Encoding: chunked||", Kept),
        ("HTTP/1.1 200 OK||", Kept),
        ("HTTP/1.1 200 OK|Connection: close||", Closed),
    ] {
        let whole = (200, Vec::new(), false, after == Kept, Vec::new());
        assert_eq!(read(&[lines(text).as_bytes()], true), Some(whole), "{text}");
    }
}

#[test]
fn rejects_what_can_be_read_in_two_ways() {
    let ok = "HTTP/1.1 200 OK|";
    let mut cases: Vec<String> = [
        // Status lines.
        "",
        "|",
        " HTTP/1.1 200 OK||",
        "http/1.1 200 OK||",
        "HTTP/2 200 OK||",
        "HTTP/0.9 200 OK||",
        "HTTP/1.1 20 OK||",
        "HTTP/1.1 2000 OK||",
        "HTTP/1.1 -20 OK||",
        "HTTP/1.1 099 OK||",
        "HTTP/1.1 200 O\0K||",
        "HTTP/1.1 200 O\rK||",
        "SSH-2.0-OpenSSH_9.9|",
        "HTTP/1.1 200 OK",
        "HTTP/1.1 200 OK|",
        "HTTP/1.1 200 OK|A: b|",
        "HTTP/1.1 101 Switching Protocols|Upgrade: x||",
        "HTTP/1.1 100 Continue||",
    ]
    .map(str::to_owned)
    .into();
    assert!(cases.len() > 15);
    for head in [
        // Header lines.
        "A: 1\rB: 2|Content-Length: 0||",
        "A: 1|\rContent-Length: 0||",
        // Faulty lines that may be about framing.
        "Content-Length 2||ok",
        "Content Length: 2||ok",
        "Content-Length\0: 2||ok",
        " Content-Length: 2||ok",
        "Content-Length: 2| 3||ok",
        "Content-Length: 2\0||ok",
        "Transfer-Encoding|A: 1||ok",
        "Transfer-Encoding: chunked| x||0||",
        "\u{e4}Transfer-Encoding: chunked||0||",
        "A: 1|\r|Content-Length: 0||",
        // Lengths.
        "Content-Length: ||",
        "Content-Length: -2||ok",
        "Content-Length: +2||ok",
        "Content-Length: 2x||ok",
        "Content-Length: 0x2||ok",
        "Content-Length: 2 2||ok",
        "Content-Length: 2,||ok",
        "Content-Length: ,2||ok",
        "Content-Length: 2, 3||okk",
        "Content-Length: 2|Content-Length: 3||okk",
        "Content-Length: 2|Content-Length: 2, 3||okk",
        "Content-Length: 18446744073709551616||ok",
        "Content-Length: 3||ok",
        // Codings.
        "Transfer-Encoding: ||0||",
        "Transfer-Encoding: gzip||0||",
        "Transfer-Encoding: gzip, chunked||0||",
        "Transfer-Encoding: chunked, gzip||0||",
        "Transfer-Encoding: xchunked||0||",
    ] {
        cases.push(format!("{ok}{head}"));
    }
    for body in [
        "",
        "|",
        "zz|ok|0||",
        "+2|ok|0||",
        "-2|ok|0||",
        "0x2|ok|0||",
        " 2|ok|0||",
        "2_0|ok|0||",
        "2 0|ok|0||",
        ";2|ok|0||",
        "2\n|ok|0||",
        "2\nok|0||",
        "2\r\rok|0||",
        "2;\0|ok|0||",
        "2;\r|ok|0||",
        "2;a\nb|ok|0||",
        "2|ok0||",
        "2|okk|0||",
        "3|ok|0||",
        "2|ok\n0||",
        "2|ok",
        "2|ok|",
        "2|ok|0",
        "2|ok|0\n||",
        "00000000000000002|ok|0||",
        "10000000000000000|ok|0||",
    ] {
        cases.push(format!("{ok}Transfer-Encoding: chunked||{body}"));
    }
    assert!(cases.len() > 70);
    for case in cases {
        let bytes = lines(&case).into_bytes();
        assert_eq!(read(&[&bytes], false), None, "{case:?}");
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read(&single, false), None, "{case:?}");
    }
}

#[test]
fn bounds_heads_interim_responses_and_chunk_lines() {
    let is_none = |text: String| assert_eq!(read(&[lines(&text).as_bytes()], false), None);
    let ok = "HTTP/1.1 200 OK|";
    let longest = |more: usize| {
        let filled = LIMITS.head_bytes - lines("HTTP/1.1 204 x|A:||").len() + more;
        format!("HTTP/1.1 204 x|A:{}||", "x".repeat(filled))
    };
    assert!(read(&[lines(&longest(0)).as_bytes()], false).is_some());
    is_none(longest(1));
    is_none(format!("{ok}{}", "x".repeat(LIMITS.head_bytes)));
    // More lines than are parsed without an allocation.
    assert!(
        read(&[lines(&format!("HTTP/1.1 204 x|{}|", "A: 1|".repeat(250))).as_bytes()], false)
            .is_some()
    );
    is_none(format!("{}HTTP/1.1 204 x||", "HTTP/1.1 100 x||".repeat(MAX_INTERIM + 1)));
    let interim = format!("{}HTTP/1.1 204 x||", "HTTP/1.1 100 x||".repeat(MAX_INTERIM));
    assert!(read(&[lines(&interim).as_bytes()], false).is_some());
    let chunked = format!("{ok}Transfer-Encoding: chunked||");
    is_none(format!("{chunked}1;{}|x|0||", "x".repeat(MAX_EXTENSIONS)));
    is_none(format!("{chunked}1;{}", "x".repeat(MAX_EXTENSIONS + MAX_SIZE_DIGITS + 3)));
    let many = format!("1;{}|x|", "x".repeat(99)).repeat(MAX_EXTENSIONS / 100 + 1);
    is_none(format!("{chunked}{many}0||"));
    is_none(format!("{chunked}0|A: {}||", "x".repeat(LIMITS.head_bytes)));
}

#[test]
fn omits_a_body_over_the_limit_and_keeps_the_status() {
    let long = "x".repeat(1024);
    let until_end = format!("||{long}x");
    for (text, is_omitted) in [
        (format!("|Content-Length: 1024||{long}"), false),
        ("|Content-Length: 1025||".to_owned(), true),
        ("|Content-Length: 18446744073709551615||".to_owned(), true),
        (format!("|Transfer-Encoding: chunked||400|{long}|0||"), false),
        ("|Transfer-Encoding: chunked||401|".to_owned(), true),
        (format!("|Transfer-Encoding: chunked||400|{long}|1|"), true),
        (format!("|Transfer-Encoding: chunked||400|{long}|ffffffffffffffff|"), true),
        (format!("||{long}"), false),
        (until_end, true),
    ] {
        let text = format!("HTTP/1.1 202 x{text}");
        let seen = read(&[lines(&text).as_bytes()], false).expect("a response");
        assert_eq!(
            (seen.0, seen.1.len(), seen.2),
            (202, if is_omitted { 0 } else { 1024 }, is_omitted)
        );
        assert!(!is_omitted || !seen.3, "{text}");
    }
}

#[test]
fn passes_on_end_to_end_headers_only() {
    let text = "HTTP/1.1 200 OK|Connection: X-Hop, close|x-hop: 1|Keep-Alive: 1|Transfer-Encoding: chunked|\
                Trailer: A|Upgrade: a|TE: a|Proxy-Authenticate: a|Sealgate-SanitizedResponse: forged|Content-Length: 9|\
                X-ONE: 1|Set-Cookie: a|set-cookie: b|ETag: \"\u{e9}\"|X-Empty:||0|A: trailer||";
    let (whole, _) = read_whole(&[lines(text).as_bytes()], false).expect("a response");
    let seen: Vec<_> =
        whole.response.headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect();
    let expected: &[(&str, &[u8])] = &[
        ("x-one", b"1"),
        ("set-cookie", b"a"),
        ("set-cookie", b"b"),
        ("etag", "\"\u{e9}\"".as_bytes()),
        ("x-empty", b""),
    ];
    assert_eq!(seen, expected);
}

proptest! {
    /// The result does not depend on how the bytes are cut into reads.
    #[test]
    fn reads_do_not_change_a_response(
        case in any::<Index>(),
        cuts in prop::collection::vec(any::<Index>(), 0..8),
        edit in prop::option::of((any::<Index>(), prop::sample::select(b"\r\n\0 \t:;,0aAxH\x7f\xff".to_vec()))),
    ) {
        let cases = responses();
        let mut bytes = lines(case.get(&cases).0).into_bytes();
        if let Some((at, byte)) = edit {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
        prop_assert_eq!(read(&pieces, false), read(&[&bytes], false));
    }
}
