use super::*;

fn captured(text: &str) -> Captured {
    parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error:#}\n{text}"))
}

fn error(text: &str) -> String {
    format!("{:#}", parse(text.as_bytes()).expect_err(text))
}

#[test]
fn lines_end_either_way_and_the_body_is_kept_to_the_byte() {
    for raw in [
        &b"POST /a?b HTTP/1.1\r\nHost: x\r\nX-Y:  z \r\n\r\n\xff\r\n"[..],
        b"POST /a?b HTTP/1.1\nHost: x\nX-Y:  z \n\n\xff\r\n",
        b"\xef\xbb\xbfPOST /a?b HTTP/1.1\nHost: x\nX-Y:  z \n\n\xff\r\n",
    ] {
        let captured = parse(raw).expect("a request");
        let head = &captured.head;
        assert_eq!((head.method.as_str(), head.uri.to_string().as_str()), ("POST", "/a?b"));
        assert_eq!(head.headers["x-y"], "z");
        assert_eq!(captured.body, &b"\xff\r\n"[..]);
        assert!(captured.is_open_ended);
    }
}

#[test]
fn errors_give_the_line_and_the_cause() {
    for (text, cause) in [
        ("", "it is empty"),
        ("POST / HTTP/1.1\r\nHost: x\r\n", "the empty line after the headers is missing"),
        ("\u{0}\u{1}\n\n", "line 1: `\u{fffd}\u{fffd}`: this is not a request line"),
        ("HTTP/1.1 200 OK\n\n", "line 1: `HTTP/1.1 200 OK`: this is the first line of a response"),
        ("POST / HTTP/1.1\nHost: x\n{\"a\":1}\n", "line 3: `{\"a\":1}`: `{\"a\"` is not a header"),
        ("POST / HTTP/1.1\nHost: x\nhello\n", "line 3: `hello`: a header line has a colon"),
        ("POST / HTTP/1.1\nContent-Length: 5\n\nabc", "the body has only 3 bytes: 2 are missing"),
        ("POST / HTTP/1.1\nContent-Length: x\n\nabc", "`x`, which is not a number"),
        ("curl -X", "-X has no value"),
        ("curl -d 'a https://x/", "a single quote is not closed"),
        ("{\"a\":1}", "not HAR"),
    ] {
        let error = error(text);
        assert!(error.contains(cause), "{cause}: {error}");
    }
}

#[test]
fn content_length_ends_the_body() {
    let with = |rest: &str| captured(&format!("POST / HTTP/1.1\nContent-Length: 3\n\n{rest}"));
    assert!(with("abc").notes.is_empty());
    for (rest, note) in [("abc\n", "an editor added it"), ("abcd", "4 bytes follow the head")] {
        let captured = with(rest);
        assert_eq!(captured.body, "abc");
        assert!(captured.notes[0].contains(note), "{:?}", captured.notes);
    }
}

#[test]
fn chunks_are_joined() {
    let head = "POST / HTTP/1.1\nTransfer-Encoding: chunked\n\n";
    let chunked = captured(&format!("{head}3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"));
    assert_eq!((&chunked.body[..], chunked.notes.len()), (&b"abcde"[..], 0));
    let joined = captured(&format!("{head}abcde"));
    assert_eq!((&joined.body[..], joined.notes.len()), (&b"abcde"[..], 1));
}

/// The same request in every form.
#[test]
fn every_form_is_the_same_request() {
    let transcript = "* Connected to a.example (127.0.0.1) port 443\n> POST /x?y=1 HTTP/1.1\r\n\
                      > Host: a.example\n> X-Sig: s\n> Content-Length: 7\n> \n\
                      * upload completely sent off: 7 bytes\n< HTTP/1.1 200 OK\n< \nok\n";
    let command = "curl -v 'https://a.example/x?y=1' \\\n  -H 'X-Sig: s' --data-raw '{\"a\":1}'";
    let har = r#"{"log":{"entries":[{"request":{"method":"GET","url":"https://a.example/"}},
        {"request":{"method":"POST","url":"https://a.example/x?y=1","headers":[
        {"name":":path","value":"/x?y=1"},{"name":"X-Sig","value":"s"}],
        "postData":{"mimeType":"application/json","text":"{\"a\":1}"}}}]}}"#;
    let dump = ":method: POST\n:path: /x?y=1\n:scheme: https\n:authority: a.example\n\
                x-sig: s\n\n{\"a\":1}";
    let body_after_head = transcript.replace("* upload", "{\"a\":1}\n* upload");
    for text in [
        body_after_head,
        format!("$ {command}\n{transcript}"),
        command.to_owned(),
        command.replace("--data-raw '{\"a\":1}'", "-d $'{\"a\":\\u0031}'"),
        command.replace("'{\"a\":1}'", "\"{\\\"a\\\":1}\"").replace("curl", "curl -XPOST"),
        har.to_owned(),
        dump.to_owned(),
        "POST /x?y=1 HTTP/2\nhost: a.example\nx-sig: s\n\n{\"a\":1}".to_owned(),
    ] {
        let Captured { head, body, .. } = captured(&text);
        assert_eq!((head.method.as_str(), head.uri.to_string().as_str()), ("POST", "/x?y=1"));
        assert_eq!(head.headers["x-sig"].as_bytes(), b"s", "{text}");
        assert_eq!(head.headers["host"].as_bytes(), b"a.example", "{text}");
        assert_eq!(body, "{\"a\":1}", "{text}");
    }
    assert!(error(transcript).contains("only 0 bytes: 7 are missing; --body FILE"));
    let given =
        parse_with(transcript.as_bytes(), Some(Bytes::from("{\"a\":1}"))).expect("a request");
    assert_eq!(given.body, "{\"a\":1}");
}
