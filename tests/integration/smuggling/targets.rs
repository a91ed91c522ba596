//! Request lines: methods, targets, versions.

use super::{Case, as_usual, forwarded, rejected};

pub(super) fn cases() -> Vec<Case> {
    [request_lines(), forms(), exact_paths(), wildcard_paths(), old_versions()].concat()
}

/// Returns cases with these request lines.
fn with_request_lines(status: u16, cases: &[(&str, &str)]) -> Vec<Case> {
    let case = |(name, line): &(&str, &str)| {
        rejected(status, &[(name, &format!("{line}\r\nHost: localhost\r\n{{signed}}{{end}}"))])
    };
    cases.iter().flat_map(case).collect()
}

fn request_lines() -> Vec<Case> {
    let mut cases = with_request_lines(
        400,
        &[
            ("two spaces after the method", "POST  /hook HTTP/1.1"),
            ("two spaces before the version", "POST /hook  HTTP/1.1"),
            ("tab after the method", "POST\t/hook HTTP/1.1"),
            ("tab before the version", "POST /hook\tHTTP/1.1"),
            ("space before the method", " POST /hook HTTP/1.1"),
            ("space after the version", "POST /hook HTTP/1.1 "),
            ("tab after the version", "POST /hook HTTP/1.1\t"),
            ("space in the target", "POST /hook x HTTP/1.1"),
            ("a second version", "POST /hook HTTP/1.1 HTTP/1.1"),
            ("no version", "POST /hook"),
            ("no target", "POST HTTP/1.1"),
            ("an empty target", "POST  HTTP/1.1"),
            ("the method alone", "POST"),
            ("HTTP/0.9", "POST /hook HTTP/0.9"),
            ("HTTP/1.2", "POST /hook HTTP/1.2"),
            ("HTTP/1.10", "POST /hook HTTP/1.10"),
            ("HTTP/1", "POST /hook HTTP/1"),
            ("HTTP/2.0", "POST /hook HTTP/2.0"),
            ("HTTP/01.1", "POST /hook HTTP/01.1"),
            ("http/1.1", "POST /hook http/1.1"),
            ("HTTPS/1.1", "POST /hook HTTPS/1.1"),
            ("ICY/1.1", "POST /hook ICY/1.1"),
            ("a method in lower case", "post /hook HTTP/1.1"),
            ("a method in mixed case", "Post /hook HTTP/1.1"),
            ("NUL in the method", "POST\0 /hook HTTP/1.1"),
            ("a colon in the method", "POST: /hook HTTP/1.1"),
            ("a quote before the method", "\"POST /hook HTTP/1.1"),
            ("bare CR in the request line", "POST /hook\r HTTP/1.1"),
            ("bare LF in the request line", "POST /hook\n HTTP/1.1"),
            ("two CRs after the version", "POST /hook HTTP/1.1\r"),
            ("LF before the request line", "\nPOST /hook HTTP/1.1"),
            ("CR before the request line", "\rPOST /hook HTTP/1.1"),
            ("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n"),
        ],
    );
    cases.extend(with_request_lines(
        405,
        &[
            ("GET", "GET /hook HTTP/1.1"),
            ("HEADER-like method", "POST-X /hook HTTP/1.1"),
            ("TRACE", "TRACE /hook HTTP/1.1"),
        ],
    ));
    cases.push(as_usual("an empty line before the request line", "\r\n{post}{end}"));
    cases.push(as_usual("empty lines before the request line", "\r\n\r\n\r\n{post}{end}"));
    cases.push(as_usual("empty lines after the body", "{post}{end}\r\n\r\n"));
    cases
}

fn forms() -> Vec<Case> {
    let mut cases = with_request_lines(
        400,
        &[
            ("absolute form for another host", "POST http://other.example/hook HTTP/1.1"),
            ("absolute form for another port", "POST http://localhost:81/hook HTTP/1.1"),
            ("absolute form for another default port", "POST http://localhost:443/hook HTTP/1.1"),
            ("absolute form with user", "POST http://user@localhost/hook HTTP/1.1"),
            ("absolute form with two slashes less", "POST http:/hook HTTP/1.1"),
            ("absolute form without host", "POST http:///hook HTTP/1.1"),
            ("absolute form with fragment", "POST http://localhost/hook#x HTTP/1.1"),
            ("absolute form of another scheme", "POST ftp://localhost/hook HTTP/1.1"),
            ("absolute form of a file", "POST file:///hook HTTP/1.1"),
            ("absolute form with backslashes", "POST http:\\\\localhost\\hook HTTP/1.1"),
            ("authority form", "POST localhost:443 HTTP/1.1"),
            ("asterisk form", "POST * HTTP/1.1"),
            ("a relative path", "POST hook HTTP/1.1"),
            ("a query alone", "POST ?x HTTP/1.1"),
            ("CONNECT", "CONNECT localhost:443 HTTP/1.1"),
            ("CONNECT to a path", "CONNECT /hook HTTP/1.1"),
            ("a fragment", "POST /hook#x HTTP/1.1"),
            ("a fragment after a query", "POST /hook?x#y HTTP/1.1"),
            ("an empty fragment", "POST /hook# HTTP/1.1"),
        ],
    );
    cases.extend(rejected(
        400,
        &[
            (
                "absolute form without Host",
                "POST http://user@localhost/hook HTTP/1.1\r\n{signed}{end}",
            ),
            (
                "absolute form with two hosts",
                "POST http://localhost/hook HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n{signed}{end}",
            ),
        ],
    ));
    cases.extend(with_request_lines(404, &[("OPTIONS *", "OPTIONS * HTTP/1.1")]));
    let absolute = |name: &str, target: &str, seen: &str| {
        forwarded(
            name,
            &format!("POST {target} HTTP/1.1\r\nHost: localhost\r\n{{signed}}{{end}}"),
            &format!(
                "POST {seen} HTTP/1.1\r\nHost: localhost\r\n{{signed}}Content-Length: {{length}}\r\n{{ours}}\r\n{{body}}"
            ),
        )
    };
    cases.extend([
        absolute("absolute form", "http://localhost/hook", "/hook"),
        absolute("absolute form with query", "http://localhost/hook?a=b", "/hook?a=b"),
        absolute("absolute form over TLS", "https://LOCALHOST/hook", "/hook"),
        absolute("absolute form with the default port", "http://localhost:80/hook", "/hook"),
        absolute(
            "absolute form with the default port of TLS",
            "https://localhost:443/hook",
            "/hook",
        ),
        absolute("absolute form with raw characters", "http://localhost/hook?\"<|>", "/hook?\"<|>"),
    ]);
    cases
}

fn exact_paths() -> Vec<Case> {
    let mut cases = with_request_lines(
        404,
        &[
            ("a slash after an exact path", "POST /hook/ HTTP/1.1"),
            ("two slashes before an exact path", "POST //hook HTTP/1.1"),
            ("an exact path in capitals", "POST /HOOK HTTP/1.1"),
            ("an exact path, encoded", "POST /%68ook HTTP/1.1"),
            ("an exact path with %2f", "POST /%2fhook HTTP/1.1"),
            ("an exact path with %00", "POST /hook%00 HTTP/1.1"),
            ("an exact path with parameter", "POST /hook;x HTTP/1.1"),
            ("an exact path with dots", "POST /x/../hook HTTP/1.1"),
            ("an exact path with a dot", "POST /./hook HTTP/1.1"),
            ("an exact path with encoded dots", "POST /x/%2e%2e/hook HTTP/1.1"),
            ("an exact path with encoded query", "POST /hook%3fx HTTP/1.1"),
            ("an exact path with encoded fragment", "POST /hook%23x HTTP/1.1"),
            ("a path that begins as an exact one", "POST /hookx HTTP/1.1"),
        ],
    );
    cases.extend(with_request_lines(
        400,
        &[
            ("a backslash in the path", "POST /hook\\ HTTP/1.1"),
            ("NUL in the path", "POST /hook\0 HTTP/1.1"),
            ("DEL in the path", "POST /hook\x7f HTTP/1.1"),
            ("a control character in the path", "POST /hook\x01 HTTP/1.1"),
            ("a path that is not ASCII", "POST /h\u{f6}\u{f6}k HTTP/1.1"),
            ("a query that is not ASCII", "POST /hook?\u{ff} HTTP/1.1"),
            ("a quote in the path", "POST /hook\" HTTP/1.1"),
            ("a brace in the path", "POST /hook{} HTTP/1.1"),
            ("a control character in the query", "POST /hook?\x01 HTTP/1.1"),
            ("a space in the query", "POST /hook?a b HTTP/1.1"),
            ("UTF-8 in the query", "POST /hook?\u{c2}\u{bc} HTTP/1.1"),
        ],
    ));
    for (name, query) in [
        ("a query", "?a=b&c"),
        ("an empty query", "?"),
        ("a path in the query", "?a=/../x//%2f%5c%00;"),
        ("question marks and brackets in the query", "?a[b]=?c"),
        ("a tag in the query", "?<x>"),
        ("raw characters in the query", "?a=|{}^`\\\"<>&b=<\"|%"),
    ] {
        cases.push(kept(name, &format!("/hook{query}")));
    }
    cases
}

/// Returns a case whose target reaches the upstream unchanged.
fn kept(name: &str, target: &str) -> Case {
    let line = format!("POST {target} HTTP/1.1\r\nHost: localhost\r\n{{signed}}");
    forwarded(
        name,
        &format!("{line}{{end}}"),
        &format!("{line}Content-Length: {{length}}\r\n{{ours}}\r\n{{body}}"),
    )
}

fn wildcard_paths() -> Vec<Case> {
    let mut cases = with_request_lines(
        400,
        &[
            ("dots below a wildcard", "POST /hooks/a/../b HTTP/1.1"),
            ("dots at the end of a wildcard", "POST /hooks/.. HTTP/1.1"),
            ("a dot below a wildcard", "POST /hooks/./a HTTP/1.1"),
            ("encoded dots below a wildcard", "POST /hooks/%2e%2e/a HTTP/1.1"),
            ("a half-encoded dot below a wildcard", "POST /hooks/.%2E/a HTTP/1.1"),
            ("two slashes below a wildcard", "POST /hooks/a//b HTTP/1.1"),
            ("two slashes at a wildcard's start", "POST /hooks//a HTTP/1.1"),
            ("%2f below a wildcard", "POST /hooks/a%2fb HTTP/1.1"),
            ("%2F below a wildcard", "POST /hooks/a%2Fb HTTP/1.1"),
            ("%5c below a wildcard", "POST /hooks/a%5cb HTTP/1.1"),
            ("%00 below a wildcard", "POST /hooks/a%00b HTTP/1.1"),
            ("a parameter below a wildcard", "POST /hooks/a;b HTTP/1.1"),
            ("dots with parameter below a wildcard", "POST /hooks/..;/a HTTP/1.1"),
            ("a backslash below a wildcard", "POST /hooks/..\\a HTTP/1.1"),
            ("a fragment below a wildcard", "POST /hooks/a#/../b HTTP/1.1"),
        ],
    );
    cases.extend(with_request_lines(
        404,
        &[
            ("a wildcard without its slash", "POST /hooks HTTP/1.1"),
            ("a wildcard's prefix, encoded", "POST /hooks%2fa HTTP/1.1"),
            ("a wildcard through dots", "POST /x/../hooks/a HTTP/1.1"),
            ("a wildcard behind two slashes", "POST //hooks/a HTTP/1.1"),
        ],
    ));
    cases.extend([
        kept("below a wildcard", "/hooks/a/b"),
        kept("below a wildcard with query", "/hooks/a?b=/../c//;%2f"),
        kept("three dots below a wildcard", "/hooks/.../a"),
        kept("encoded text below a wildcard", "/hooks/a%20%C3%A9"),
        kept("twice encoded dots below a wildcard", "/hooks/%252e%252e/a"),
        kept("nothing below a wildcard", "/hooks/"),
    ]);
    cases
}

fn old_versions() -> Vec<Case> {
    let old = "POST /hook HTTP/1.0\r\nHost: localhost\r\n{signed}";
    vec![
        as_usual("HTTP/1.0", &format!("{old}{{end}}")).closes(),
        as_usual(
            "HTTP/1.0 with keep-alive",
            &format!("{old}Content-Length: 10\r\nConnection: keep-alive\r\n\r\n{{body}}"),
        ),
        as_usual("HTTP/1.0 and a request behind it", &format!("{old}{{end}}{{post}}{{end}}"))
            .closes(),
    ]
}
