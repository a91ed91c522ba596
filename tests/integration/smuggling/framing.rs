//! The end of a body: `Content-Length`, `Transfer-Encoding`, chunks, and what follows.

use super::{Case, as_usual, dechunked, forwarded, rejected};

pub(super) fn cases() -> Vec<Case> {
    [lengths(), codings(), chunks(), rejected_chunks(), boundaries()].concat()
}

fn lengths() -> Vec<Case> {
    let mut cases = rejected(
        400,
        &[
            ("the same length twice", "{post}Content-Length: 10\r\n{end}"),
            ("two lengths, the right one last", "{post}Content-Length: 3\r\n{end}"),
            (
                "two lengths, the right one first",
                "{post}Content-Length: 10\r\nContent-Length: 3\r\n\r\n{body}",
            ),
            ("two lengths in two spellings", "{post}CONTENT-LENGTH: 10\r\n{end}"),
            ("no length beside a length", "{post}Content-Length:\r\n{end}"),
            ("a list of lengths", "{post}Content-Length: 10, 10\r\n\r\n{body}"),
            ("a list of lengths without space", "{post}Content-Length: 10,10\r\n\r\n{body}"),
            ("a length with plus", "{post}Content-Length: +10\r\n\r\n{body}"),
            ("a length with minus", "{post}Content-Length: -10\r\n\r\n{body}"),
            ("a hexadecimal length", "{post}Content-Length: 0x0a\r\n\r\n{body}"),
            ("a hexadecimal length without prefix", "{post}Content-Length: a\r\n\r\n{body}"),
            ("a fractional length", "{post}Content-Length: 10.0\r\n\r\n{body}"),
            ("a length with exponent", "{post}Content-Length: 1e1\r\n\r\n{body}"),
            ("a length with space inside", "{post}Content-Length: 1 0\r\n\r\n{body}"),
            ("a length with underscore inside", "{post}Content-Length: 1_0\r\n\r\n{body}"),
            ("a quoted length", "{post}Content-Length: \"10\"\r\n\r\n{body}"),
            ("a length with parameter", "{post}Content-Length: 10;a=b\r\n\r\n{body}"),
            ("an empty length", "{post}Content-Length: \r\n\r\n{body}"),
            ("superscript digits", "{post}Content-Length: \u{b9}\u{b2}\r\n\r\n{body}"),
            (
                "a length that wraps 64 bits",
                "{post}Content-Length: 18446744073709551626\r\n\r\n{body}",
            ),
            ("the longest length", "{post}Content-Length: 18446744073709551615\r\n\r\n{body}"),
            ("a folded length", "{post}Content-Length:\r\n 10\r\n\r\n{body}"),
            ("a length continued on a folded line", "{post}Content-Length: 1\r\n 0\r\n\r\n{body}"),
            ("space between Content-Length and colon", "{post}Content-Length : 10\r\n\r\n{body}"),
            ("tab between Content-Length and colon", "{post}Content-Length\t: 10\r\n\r\n{body}"),
            ("NUL after a length", "{post}Content-Length: 10\0\r\n\r\n{body}"),
            ("vertical tab before a length", "{post}Content-Length: \x0b10\r\n\r\n{body}"),
            ("form feed after a length", "{post}Content-Length: 10\x0c\r\n\r\n{body}"),
            ("no-break space before a length", "{post}Content-Length: \u{a0}10\r\n\r\n{body}"),
            ("an underscore twin of Content-Length", "{post}Content_Length: 3\r\n{end}"),
            ("a length that a bare CR hides", "{post}X: y\rContent-Length: 3\r\n{end}"),
            ("a length that a bare LF hides", "{post}X: y\nContent-Length: 3\r\n{end}"),
        ],
    );
    cases
        .extend(rejected(413, &[("a long length", "{post}Content-Length: 1048577\r\n\r\n{body}")]));
    cases.extend([
        as_usual("the usual request", "{post}{end}"),
        as_usual("a length without space", "{post}Content-Length:10\r\n\r\n{body}"),
        as_usual("a length within white space", "{post}Content-Length: \t 10 \t\r\n\r\n{body}"),
        as_usual("a length with leading zeros", "{post}Content-Length: 0010\r\n\r\n{body}"),
        forwarded(
            "a length in another spelling",
            "{post}cOnTeNt-LeNgTh: 10\r\n\r\n{body}",
            "{post}cOnTeNt-LeNgTh: 10\r\n{ours}\r\n{body}",
        ),
        as_usual("an empty body with its length", "{post}{end}").body(""),
        dechunked("no body and no length", "{post}\r\n").body(""),
    ]);
    cases
}

fn codings() -> Vec<Case> {
    let chunks = "\r\n\r\na\r\n{body}\r\n0\r\n\r\n";
    let coding = |(name, lines): &(&str, &str)| {
        rejected(400, &[(name, &format!("{{post}}{lines}{chunks}"))])
    };
    let mut cases: Vec<Case> = [
        ("length, then chunked", "Content-Length: 10\r\nTransfer-Encoding: chunked"),
        ("chunked, then length", "Transfer-Encoding: chunked\r\nContent-Length: 10"),
        ("chunked beside length 0", "Content-Length: 0\r\nTransfer-Encoding: chunked"),
        ("chunked beside its own length", "Transfer-Encoding: chunked\r\nContent-Length: 20"),
        (
            "chunked beside two lengths",
            "Content-Length: 0\r\nTransfer-Encoding: chunked\r\nContent-Length: 20",
        ),
        ("an unknown coding beside a length", "Content-Length: 20\r\nTransfer-Encoding: x"),
        ("identity beside a length", "Content-Length: 20\r\nTransfer-Encoding: identity"),
        ("gzip, chunked", "Transfer-Encoding: gzip, chunked"),
        ("chunked, gzip", "Transfer-Encoding: chunked, gzip"),
        ("chunked, identity", "Transfer-Encoding: chunked, identity"),
        ("identity, chunked", "Transfer-Encoding: identity, chunked"),
        ("identity", "Transfer-Encoding: identity"),
        ("an empty coding", "Transfer-Encoding:"),
        ("xchunked", "Transfer-Encoding: xchunked"),
        ("chunkedx", "Transfer-Encoding: chunkedx"),
        ("chunked with parameter", "Transfer-Encoding: chunked;a=b"),
        ("chunked in quotes", "Transfer-Encoding: \"chunked\""),
        ("chunked with comma", "Transfer-Encoding: chunked,"),
        ("comma with chunked", "Transfer-Encoding: ,chunked"),
        ("chunked, chunked", "Transfer-Encoding: chunked, chunked"),
        ("chunked on two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ("chunked, then identity", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
        ("identity, then chunked", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
        ("chunked in two spellings", "transfer-encoding: chunked\r\nTRANSFER-ENCODING: chunked"),
        ("a folded coding", "Transfer-Encoding:\r\n chunked"),
        ("a coding continued on a folded line", "Transfer-Encoding: chun\r\n\tked"),
        ("space before the coding's colon", "Transfer-Encoding : chunked"),
        ("space before the coding", " Transfer-Encoding: chunked"),
        ("vertical tab before chunked", "Transfer-Encoding: \x0bchunked"),
        ("form feed after chunked", "Transfer-Encoding: chunked\x0c"),
        ("NUL after chunked", "Transfer-Encoding: chunked\0"),
        ("no-break space before chunked", "Transfer-Encoding: \u{a0}chunked"),
        ("chunked behind a bare CR", "X: y\rTransfer-Encoding: chunked"),
        ("chunked behind a bare LF", "X: y\nTransfer-Encoding: chunked"),
        ("chunked before a bare LF", "Transfer-Encoding: chunked\nX: y"),
        (
            "an underscore twin of Transfer-Encoding",
            "Transfer_Encoding: chunked\r\nContent-Length: 20",
        ),
    ]
    .iter()
    .flat_map(coding)
    .collect();
    let old = "POST /hook HTTP/1.0\r\nHost: localhost\r\n{signed}";
    cases.extend(rejected(
        400,
        &[
            ("chunked in HTTP/1.0", &format!("{old}{{chunked}}a\r\n{{body}}\r\n0\r\n\r\n")),
            (
                "chunked beside a length in HTTP/1.0",
                &format!("{old}Transfer-Encoding: chunked\r\n{{end}}"),
            ),
        ],
    ));
    cases
}

fn chunks() -> Vec<Case> {
    vec![
        dechunked("one chunk", "{post}{chunked}{hex}\r\n{body}\r\n0\r\n\r\n"),
        dechunked(
            "many chunks",
            "{post}{chunked}1\r\na\r\n2\r\nbc\r\n3\r\ndef\r\n4\r\nghij\r\n0\r\n\r\n",
        ),
        dechunked("a size in upper case", "{post}{chunked}A\r\n{body}\r\n0\r\n\r\n"),
        dechunked(
            "sizes of 16 digits",
            "{post}{chunked}000000000000000a\r\n{body}\r\n0000000000000000\r\n\r\n",
        ),
        dechunked("no chunk but the last", "{post}{chunked}0\r\n\r\n").body(""),
        dechunked("CHUNKED", "{post}TRANSFER-ENCODING:CHUNKED\r\n\r\na\r\n{body}\r\n0\r\n\r\n"),
        dechunked(
            "Chunked within white space",
            "{post}Transfer-Encoding:\t Chunked \t\r\n\r\na\r\n{body}\r\n0\r\n\r\n",
        ),
        dechunked("a trailer", "{post}{chunked}a\r\n{body}\r\n0\r\nX-Trailer: y\r\n\r\n"),
        dechunked(
            "trailers in the place of ours",
            "{post}{chunked}a\r\n{body}\r\n0\r\nSealgate-Verified: forged\r\nX-Vivoldi-Event-Id: forged\r\n\r\n",
        ),
        dechunked(
            "an announced trailer",
            "{post}Trailer: X-Trailer\r\nTE: trailers\r\n{chunked}a\r\n{body}\r\n0\r\nX-Trailer: y\r\n\r\n",
        ),
        dechunked("chunks within a chunk", "{post}{chunked}{hex}\r\n{body}\r\n0\r\n\r\n")
            .body("5\r\nabcde\r\n0\r\n\r\n"),
        dechunked("a request within a chunk", "{post}{chunked}{hex}\r\n{body}\r\n0\r\n\r\n")
            .body("0\r\n\r\nGET /hook HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        dechunked(
            "an empty line after the last chunk",
            "{post}{chunked}a\r\n{body}\r\n0\r\n\r\n\r\n",
        ),
    ]
}

fn rejected_chunks() -> Vec<Case> {
    let rest = "\r\n0\r\n\r\n";
    let chunks = |(name, chunks): &(&str, &str)| {
        rejected(400, &[(name, &format!("{{post}}{{chunked}}{chunks}"))])
    };
    let size = |(name, size): &(&str, &str)| {
        rejected(400, &[(name, &format!("{{post}}{{chunked}}{size}\r\n{{body}}{rest}"))])
    };
    let sizes = [
        ("a size with 0x", "0xa"),
        ("a size with plus", "+a"),
        ("a size with minus", "-a"),
        ("space before a size", " a"),
        ("space after a size", "a "),
        ("tab after a size", "a\t"),
        ("a size with comma", "a,"),
        ("a size with underscore", "0_a"),
        ("a size in quotes", "\"a\""),
        ("a size that is no number", "xyz"),
        ("no size", ""),
        ("a size of 17 digits", "0000000000000000a"),
        ("a size that wraps 64 bits", "1000000000000000a"),
        ("NUL after a size", "a\0"),
        ("a chunk extension", "a;a=b"),
        ("an empty chunk extension", "a;"),
        ("an extension with space", "a ;a=b"),
        ("a quoted extension", "a;a=\"\r\n\""),
        ("an extension with a bare LF", "a;\n"),
        ("an extension with a bare CR", "a;\rX"),
        ("an empty line before a size", "\r\na"),
    ];
    let others = [
        ("bare LF after a size", "a\n{body}\r\n0\r\n\r\n"),
        ("bare CR after a size", "a\r{body}\r\n0\r\n\r\n"),
        ("bare LF after a chunk", "a\r\n{body}\n0\r\n\r\n"),
        ("bare CR after a chunk", "a\r\n{body}\r0\r\n\r\n"),
        ("nothing after a chunk", "a\r\n{body}0\r\n\r\n"),
        ("a chunk longer than its size", "9\r\n{body}\r\n0\r\n\r\n"),
        ("a chunk shorter than its size", "b\r\n{body}\r\n0\r\n\r\n"),
        ("two line ends after a chunk", "a\r\n{body}\r\n\r\n0\r\n\r\n"),
        ("an extension of the last chunk", "a\r\n{body}\r\n0;a=b\r\n\r\n"),
        ("space after the last chunk's size", "a\r\n{body}\r\n0 \r\n\r\n"),
        ("bare LF after the last chunk", "a\r\n{body}\r\n0\n\n"),
        ("bare LF after the trailers", "a\r\n{body}\r\n0\r\n\n"),
        ("a trailer Content-Length", "a\r\n{body}\r\n0\r\nContent-Length: 10\r\n\r\n"),
        ("a trailer Transfer-Encoding", "a\r\n{body}\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("a trailer Host", "a\r\n{body}\r\n0\r\nhost: other.example\r\n\r\n"),
        ("a folded trailer", "a\r\n{body}\r\n0\r\nX: y\r\n z\r\n\r\n"),
        ("a trailer with a bare LF", "a\r\n{body}\r\n0\r\nX: y\nZ: z\r\n\r\n"),
        ("a trailer without name", "a\r\n{body}\r\n0\r\n: y\r\n\r\n"),
        ("space before a trailer's colon", "a\r\n{body}\r\n0\r\nX : y\r\n\r\n"),
        (
            "a request in the place of the trailers",
            "a\r\n{body}\r\n0\r\nGET /hook HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ),
    ];
    sizes.iter().flat_map(size).chain(others.iter().flat_map(chunks)).collect()
}

fn boundaries() -> Vec<Case> {
    let seen = "{post}Content-Length: {length}\r\n{ours}\r\n{body}";
    let request = "GET /hook HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let first = |name: &str, then: &str| forwarded(name, &format!("{{post}}{{end}}{then}"), seen);
    let mut cases = vec![
        as_usual("a request in the body", "{post}{end}")
            .body("POST /hook HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"),
        as_usual("the end of chunks in the body", "{post}{end}")
            .body("0\r\n\r\nPOST /hook HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        as_usual("a body of line ends", "{post}{end}").body("\r\n\r\n\n\n\r\r"),
        as_usual("a body of all bytes", "{post}{end}").body("\0\x01\x7f\u{80}\u{fe}\u{ff}"),
        as_usual("a line end after the body", "{post}{end}\r\n"),
        first("a request after the body", request).answers(&[200, 405]),
        first("a request after the body and a line end", &format!("\r\n{request}"))
            .answers(&[200, 405]),
        first("a request after the body and two line ends", &format!("\r\n\r\n{request}"))
            .answers(&[200, 405]),
        forwarded(
            "an Upgrade, then a good request",
            "GET /hook HTTP/1.1\r\nHost: localhost\r\nUpgrade: x\r\n\r\n{post}{end}",
            seen,
        )
        .answers(&[405, 200]),
        first("a byte too many", request.replace("GET", "xGET").as_str())
            .answers(&[200, 400])
            .closes(),
        first("garbage after the body", "\0\u{ff}\r\n").answers(&[200, 400]).closes(),
        first(
            "a good request, then one with two readings",
            "{post}Transfer-Encoding: chunked\r\n{end}",
        )
        .answers(&[200, 400])
        .closes(),
        first("a good request, then a bad chunk", "{post}{chunked}a;\r\n{body}\r\n0\r\n\r\n")
            .answers(&[200, 400])
            .closes(),
        first("a good request, then HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .answers(&[200, 400])
            .closes(),
        forwarded(
            "no route, then a good request",
            &format!("{}{{post}}{{end}}", request.replace("/hook", "/none")),
            seen,
        )
        .answers(&[404, 200]),
        forwarded(
            "the wrong method, then a good request",
            &format!("{request}{{post}}{{end}}"),
            seen,
        )
        .answers(&[405, 200]),
    ];
    let bad = "{post}Transfer-Encoding: chunked\r\nContent-Length: 10\r\n\r\n";
    cases.extend(rejected(
        400,
        &[
            ("two readings, then a good request", &format!("{bad}0\r\n\r\n{{post}}{{end}}")),
            ("a bad head, then a good request", "POST /hook\r\n\r\n{post}{end}"),
            (
                "a bad chunk, then a good request",
                "{post}{chunked}xyz\r\n{body}\r\n0\r\n\r\n{post}{end}",
            ),
            ("a bare LF ends the head, then a good request", "GET / HTTP/1.1\n\n{post}{end}"),
            (
                "two hosts, then a good request",
                "GET /hook HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n{post}{end}",
            ),
        ],
    ));
    cases.extend(rejected(
        404,
        &[(
            "a request in the body that no route takes",
            "POST /none HTTP/1.1\r\nHost: localhost\r\n{end}",
        )],
    ));
    cases.extend(rejected(
        405,
        &[("a request in the body of a GET", "GET /hook HTTP/1.1\r\nHost: localhost\r\n{end}")],
    ));
    cases.extend(rejected(
        401,
        &[(
            "a request in a body that is not signed",
            "POST /hook HTTP/1.1\r\nHost: localhost\r\n{end}",
        )],
    ));
    let hidden = "POST /hook HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
    let unsigned = cases.len() - 3;
    for case in &mut cases[unsigned..] {
        case.body = hidden;
    }
    cases
}
