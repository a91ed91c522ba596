use http::Request;
use proptest::{prelude::*, sample::select};

use super::*;

fn headers(lines: &[(String, String)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        headers.append(name, HeaderValue::from_str(value).expect("a value"));
    }
    headers
}

fn case(names: &[String]) -> HeaderCase {
    let mut case = HeaderCase::default();
    names.iter().for_each(|name| case.push(name.as_bytes()));
    case
}

/// The lines in the order in which they are written: name and value.
fn written(headers: &HeaderMap, case: &HeaderCase) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let mut lines = Vec::new();
    case.each(headers, |(written, name, value)| {
        assert_eq!(text(written).to_ascii_lowercase(), name.as_str());
        lines.push((text(written), text(value.as_bytes())));
    });
    lines
}

fn names() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(select(vec!["A", "a", "Ab", "aB", "ab", "X-C", "x-c", "Host"]), 0..9)
        .prop_map(|names| names.into_iter().map(str::to_owned).collect())
}

proptest! {
    #[test]
    fn lines_keep_their_case_and_order(names in names()) {
        let number = |(number, name): (usize, &String)| (name.clone(), number.to_string());
        let came: Vec<_> = names.iter().enumerate().map(number).collect();
        prop_assert_eq!(written(&headers(&came), &case(&names)), came);
    }

    /// Whatever the header case is, every header of the map is written once and in its order.
    #[test]
    fn the_map_decides_what_is_written(names in names(), others in names()) {
        let number = |(number, name): (usize, &String)| (name.clone(), number.to_string());
        let came: Vec<_> = names.iter().enumerate().map(number).collect();
        let lower = |lines: Vec<(String, String)>| {
            let lower = |(name, value): (String, String)| (name.to_ascii_lowercase(), value);
            let mut lines: Vec<_> = lines.into_iter().map(lower).collect();
            // By name; what comes under one name keeps its order.
            lines.sort_by(|one, other| one.0.cmp(&other.0));
            lines
        };
        let seen = written(&headers(&came), &case(&others));
        prop_assert_eq!(lower(seen), lower(came));
    }
}

fn request(version: http::Version, uri: &str, lines: &[(&str, &str)]) -> Parts {
    let lines = lines.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let request = Request::post(uri).version(version).body(()).expect("a request");
    let (mut head, ()) = request.into_parts();
    head.headers = headers(&lines.collect::<Vec<_>>());
    head
}

fn observed(head: &Parts, case: &HeaderCase, keeps_host: bool) -> String {
    let request_id = HeaderValue::from_static("id");
    let added = [(HeaderName::from_static("x-added"), HeaderValue::from_static("ours"))];
    let extra = Extra {
        request_id: &request_id,
        verdict: &Verdict::Observed(Some("stale")),
        possible_duplicate: false,
        keeps_host,
        headers: &added,
        span: None,
    };
    let peer = super::super::client_addr::Peer::new([192, 0, 2, 1].into(), true);
    let client =
        ClientAddr::of(peer, &head.headers, &super::super::client_addr::Networks::default());
    String::from_utf8(lines((head, case), 7, &client, &extra)).expect("text")
}

const OURS: &str = "x-forwarded-for: 192.0.2.1\r\nx-forwarded-proto: https\r\n\
                    x-forwarded-host: a.example\r\nsealgate-request-id: id\r\n\
                    sealgate-observed: stale\r\nx-added: ours\r\n\r\n";

#[test]
fn one_length_and_one_host_are_written() {
    let names = ["hOST", "X-Added", "x_added", "CONTENT-length", "Connection", "X-Hop", "Te"];
    let values = ["a.example", "theirs", "theirs", "007", "x-hop, close", "1", "trailers"];
    let lines: Vec<_> = names.into_iter().zip(values).collect();
    let head = request(http::Version::HTTP_11, "/", &lines);
    let case = case(&names.map(str::to_owned));
    let kept = format!("hOST: a.example\r\nCONTENT-length: 7\r\n{OURS}");
    assert_eq!(observed(&head, &case, true), kept);
    assert_eq!(observed(&head, &case, false), format!("CONTENT-length: 7\r\n{OURS}"));

    let head = request(http::Version::HTTP_2, "https://a.example/", &[("x", "")]);
    let added = format!("x:\r\ncontent-length: 7\r\nhost: a.example\r\n{OURS}");
    assert_eq!(observed(&head, &HeaderCase::default(), true), added);
}

#[test]
fn a_request_begins_with_its_line_and_a_host_that_is_set() {
    let text = |host| String::from_utf8(start(&Method::POST, b"/a?b", host)).expect("text");
    assert_eq!(text(None), "POST /a?b HTTP/1.1\r\n");
    let host = HeaderValue::from_static("b.example");
    assert_eq!(text(Some(&host)), "POST /a?b HTTP/1.1\r\nhost: b.example\r\n");
    for bad in ["a\r\nb", "a\nb", "\0", "\x7f"] {
        assert!(!is_value(bad), "{bad:?}");
    }
}
