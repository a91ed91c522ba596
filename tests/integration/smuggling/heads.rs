//! Header lines: case, twins, repetitions, hop-by-hop headers, hosts.

use super::{Case, as_usual, forwarded, rejected};

pub(super) fn cases() -> Vec<Case> {
    [lines(), twins(), hops(), hosts(), headers_that_pass()].concat()
}

/// Returns cases with these additional header lines.
fn with_lines(status: u16, cases: &[(&str, &str)]) -> Vec<Case> {
    let case = |(name, lines): &(&str, &str)| {
        rejected(status, &[(name, &format!("{{post}}{lines}\r\n{{end}}"))])
    };
    cases.iter().flat_map(case).collect()
}

fn lines() -> Vec<Case> {
    let mut cases = with_lines(
        400,
        &[
            ("a folded line", "X: y\r\n z"),
            ("a line folded by tab", "X: y\r\n\tz"),
            ("an empty folded line", "X: y\r\n \r\nZ: z"),
            ("space before a name", " X: y"),
            ("space before a colon", "X : y"),
            ("space in a name", "X Y: z"),
            ("no name", ": y"),
            ("no colon", "X-Y"),
            ("a request line among the headers", "GET /hook HTTP/1.1"),
            ("a pseudo-header", ":authority: localhost"),
            ("parentheses in a name", "X(Y): z"),
            ("a slash in a name", "X/Y: z"),
            ("a name that is not ASCII", "X\u{e9}: y"),
            ("NUL in a name", "X\0: y"),
            ("NUL in a value", "X: y\0z"),
            ("a control character in a value", "X: y\x08z"),
            ("DEL in a value", "X: \x7f"),
            ("bare CR in a value", "X: y\rz"),
            ("bare CR at the end of a value", "X: y\r"),
            ("bare LF in a value", "X: y\nz"),
            ("a header behind a bare LF", "X: y\nX-Vivoldi-Event-Id: z"),
            ("two CRs at a line end", "X: y\r\r"),
        ],
    );
    cases.extend(rejected(
        400,
        &[
            (
                "bare LF after the request line",
                "POST /hook HTTP/1.1\nHost: localhost\r\n{signed}{end}",
            ),
            ("bare LFs only", "POST /hook HTTP/1.1\nHost: localhost\nContent-Length: 10\n\n{body}"),
            ("bare LF ends the head", "{post}Content-Length: 10\r\n\n{body}"),
            ("bare CRs only", "POST /hook HTTP/1.1\rHost: localhost\rContent-Length: 10\r\r{body}"),
            (
                "space before the first header",
                "POST /hook HTTP/1.1\r\n Host: localhost\r\n{signed}{end}",
            ),
        ],
    ));
    let many = "X: y\r\n".repeat(101);
    let long = format!("X: {}", "y".repeat(32 << 10));
    cases.extend(with_lines(
        431,
        &[("too many headers", many.trim_end()), ("a long header", &long)],
    ));
    cases
}

fn twins() -> Vec<Case> {
    let mut cases = with_lines(
        401,
        &[
            ("an underscore twin of the signature", "X_Vivoldi_Signature: t=1,v1=00"),
            ("half an underscore twin of the signature", "X-Vivoldi_Signature: t=1,v1=00"),
            ("an underscore twin of the event id", "x_vivoldi_event_id: forged"),
            ("an underscore twin of the group", "X_VIVOLDI_WEBHOOK_TYPE: GROUP"),
            ("a second signature", "X-Vivoldi-Signature: t=1,v1=00"),
            ("a second signature in another spelling", "x-vivoldi-signature: t=1,v1=00"),
            ("a second event id", "X-Vivoldi-Event-Id: forged"),
            ("a second timestamp", "X-Vivoldi-Timestamp: 1"),
            ("a second digest", "x-content-sha256: 00"),
        ],
    );
    cases.extend(with_lines(
        400,
        &[("an underscore twin of Content-Encoding", "Content_Encoding: gzip")],
    ));
    cases.extend(with_lines(
        415,
        &[
            ("gzip", "Content-Encoding: gzip"),
            ("identity and gzip", "Content-Encoding: identity\r\nContent-Encoding: gzip"),
            ("identity, gzip", "Content-Encoding: identity, gzip"),
            ("utf-8, gzip", "Content-Encoding: utf-8, gzip"),
            ("br", "Content-Encoding: br"),
        ],
    ));
    cases
}

fn hops() -> Vec<Case> {
    let mut cases = with_lines(
        400,
        &[
            ("Connection names the signature", "Connection: X-Vivoldi-Signature"),
            ("Connection names the event id", "Connection: keep-alive, x-vivoldi-event-id"),
            ("Connection names the digest", "Connection: close,X-CONTENT-SHA256"),
            ("Connection names what is pinned", "Connection: X-Vivoldi-Resource-Type"),
            ("Connection names Content-Length", "Connection: Content-Length"),
            ("Connection names Transfer-Encoding", "Connection: transfer-encoding"),
            ("Connection names Host", "Connection: Host"),
            (
                "a second Connection names the signature",
                "Connection: x\r\nConnection: \tX-Vivoldi-Signature\t",
            ),
            ("an unknown expectation", "Expect: 200-ok"),
            ("an expectation and another", "Expect: 100-continue, x"),
            ("two expectations", "Expect: 100-continue\r\nExpect: 100-continue"),
        ],
    );
    cases.extend(rejected(
        404,
        &[(
            "Expect where no route is",
            "POST /none HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n{signed}{end}",
        )],
    ));
    cases.extend([
        as_usual("Connection: close", "{post}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}").closes(),
        as_usual("Connection: keep-alive", "{post}Content-Length: 10\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n{body}"),
        as_usual("Connection names another header", "{post}Content-Length: 10\r\nConnection: X-Hop, ,\r\nX-Hop: y\r\n\r\n{body}"),
        as_usual("Connection names what is ours", "{post}Content-Length: 10\r\nConnection: Sealgate-Verified, X-Forwarded-For\r\n\r\n{body}"),
        as_usual("Connection: Upgrade alone", "{post}Content-Length: 10\r\nConnection: Upgrade\r\n\r\n{body}"),
        as_usual("an offer of h2c", "{post}Content-Length: 10\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n{body}"),
        as_usual("an offer of h2c without Connection", "{post}Content-Length: 10\r\nUpgrade: h2c\r\n\r\n{body}"),
        as_usual("an offer of TLS", "{post}Content-Length: 10\r\nUpgrade: TLS/1.2\r\nConnection: Upgrade\r\n\r\n{body}"),
        as_usual("an offer of websocket", "{post}Content-Length: 10\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n{body}"),
        as_usual("an offer in HTTP/1.0", "POST /hook HTTP/1.0\r\nHost: localhost\r\n{signed}Content-Length: 10\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n{body}").closes(),
        as_usual("an empty Upgrade", "{post}Content-Length: 10\r\nUpgrade:\r\n\r\n{body}"),
        as_usual("an empty expectation", "{post}Content-Length: 10\r\nExpect:\r\n\r\n{body}"),
        as_usual("HTTP2-Settings alone", "{post}Content-Length: 10\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n{body}"),
        as_usual("Proxy-Connection", "{post}Content-Length: 10\r\nProxy-Connection: keep-alive\r\n\r\n{body}"),
        as_usual("Proxy-Authorization", "{post}Content-Length: 10\r\nProxy-Authorization: Basic eDp5\r\n\r\n{body}"),
        as_usual("TE: trailers", "{post}Content-Length: 10\r\nTE: trailers\r\n\r\n{body}"),
        as_usual("Expect: 100-continue", "{post}Content-Length: 10\r\nExpect: 100-Continue\r\n\r\n{body}").answers(&[100, 200]),
        forwarded(
            "hop-by-hop headers between others",
            "{post}A: 1\r\nKeep-Alive: x\r\nB: 2\r\nProxy: x\r\nC: 3\r\nTE: x\r\nD: 4\r\n{end}",
            "{post}A: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\nContent-Length: {length}\r\n{ours}\r\n{body}",
        ),
    ]);
    cases
}

fn hosts() -> Vec<Case> {
    let host = |status: u16, (name, lines): &(&str, &str)| {
        rejected(status, &[(name, &format!("POST /hook HTTP/1.1\r\n{lines}{{signed}}{{end}}"))])
    };
    let mut cases: Vec<Case> = [
        ("no Host", ""),
        ("an empty Host", "Host:\r\n"),
        ("the same Host twice", "Host: localhost\r\nHost: localhost\r\n"),
        ("two hosts", "Host: localhost\r\nHost: other.example\r\n"),
        ("two hosts in two spellings", "Host: localhost\r\nHOST: other.example\r\n"),
        ("a list of hosts", "Host: localhost, other.example\r\n"),
        ("a host with user", "Host: user@localhost\r\n"),
        ("a host with path", "Host: localhost/hook\r\n"),
        ("a host with query", "Host: localhost?x\r\n"),
        ("a host with fragment", "Host: localhost#x\r\n"),
        ("a host with space", "Host: local host\r\n"),
        ("a host with backslash", "Host: localhost\\x\r\n"),
        ("a host that is not ASCII", "Host: localh\u{f6}st\r\n"),
        ("a host with percent", "Host: localhost%2f\r\n"),
        ("a folded Host", "Host:\r\n localhost\r\n"),
        ("space between Host and colon", "Host : localhost\r\n"),
        ("a Host that a bare LF hides", "Host: localhost\nHost: other.example\r\n"),
    ]
    .iter()
    .flat_map(|case| host(400, case))
    .collect();
    let named = |name: &str, host: &'static str| {
        let line = format!("POST /hook HTTP/1.1\r\nHost: {host}\r\n{{signed}}");
        forwarded(
            name,
            &format!("{line}{{end}}"),
            &format!("{line}Content-Length: {{length}}\r\n{{ours}}\r\n{{body}}"),
        )
        .host(host)
    };
    cases.extend([
        named("a host with port", "localhost:8443"),
        named("a host in capitals", "LOCALHOST"),
        named("an address as host", "[::1]:8443"),
        forwarded(
            "Host in another spelling and place",
            "POST /hook HTTP/1.1\r\n{signed}hOST:localhost\r\n{end}",
            "POST /hook HTTP/1.1\r\n{signed}hOST: localhost\r\nContent-Length: {length}\r\n{ours}\r\n{body}",
        ),
        as_usual(
            "what only we may say of hosts",
            "{post}Content-Length: 10\r\nX-Forwarded-Host: other.example\r\nX_Forwarded_Host: other.example\r\nForwarded: host=other.example\r\n\r\n{body}",
        ),
    ]);
    cases
}

fn headers_that_pass() -> Vec<Case> {
    let kept = |name: &str, lines: &str| {
        forwarded(
            name,
            &format!("{{post}}{lines}{{end}}"),
            &format!("{{post}}{lines}Content-Length: {{length}}\r\n{{ours}}\r\n{{body}}"),
        )
    };
    let dropped = |name: &str, lines: &str| {
        as_usual(name, &format!("{{post}}Content-Length: 10\r\n{lines}\r\n{{body}}"))
    };
    vec![
        kept("spellings", "x-LOWER-upper: Value With CAPITALS\r\n"),
        kept("the same header twice", "Cookie: a=1\r\nCookie: b=2\r\n"),
        kept("the same header in two spellings", "X-Same: 1\r\nx-same: 2\r\n"),
        kept("headers that come again behind others", "A: 1\r\nb: 2\r\na: 3\r\nB: 4\r\nA: 5\r\n"),
        kept("an empty value", "X-Empty:\r\n"),
        kept("a value that is not ASCII", "X-Latin: caf\u{e9} \u{80}\u{ff}\r\n"),
        kept("punctuation in a name", "!#$%&'*+.^`|~X: y\r\n"),
        kept("colons, quotes and tabs in a value", "X: a:b;c=\"d\te\", f\r\n"),
        kept("an underscore in a name", "X_Other: y\r\n"),
        kept("an identity encoding", "Content-Encoding: identity\r\n"),
        kept("a charset as encoding", "Content-Encoding: UTF-8\r\n"),
        kept("an empty encoding", "Content-Encoding:\r\n"),
        kept("a charset and identity", "Content-Encoding: identity, iso-8859-1\r\n"),
        kept("a content type with charset", "Content-Type: application/json; charset=utf-16\r\n"),
        forwarded(
            "white space around a value",
            "{post}X: \t y z \t\r\n{end}",
            "{post}X: y z\r\nContent-Length: {length}\r\n{ours}\r\n{body}",
        ),
        dropped(
            "Sealgate-Verified from outside",
            "Sealgate-Verified: forged\r\nSealgate-Key: forged\r\n",
        ),
        dropped(
            "Sealgate-Verified from outside in another spelling",
            "sEALGATE_vERIFIED: forged\r\n",
        ),
        dropped(
            "overrides of the method and the URL",
            "X-HTTP-Method-Override: DELETE\r\nX-HTTP-Method: PUT\r\nX-Method-Override: PUT\r\n\
             X-Original-URL: /admin\r\nX_Rewrite_URL: /admin\r\n",
        ),
        dropped(
            "client addresses from outside",
            "True-Client-IP: 6.6.6.6\r\nCF-Connecting-IP: 6.6.6.6\r\nX-Client-IP: 6.6.6.6\r\n\
             X_Cluster_Client_IP: 6.6.6.6\r\nFastly-Client-IP: 6.6.6.6\r\n",
        ),
        dropped(
            "X-Forwarded-For from outside",
            "X-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\n",
        ),
        dropped(
            "Forwarded, X-Real-IP and Proxy",
            "Forwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nProxy: http://6.6.6.6\r\n",
        ),
    ]
}
