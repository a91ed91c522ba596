use proptest::prelude::*;

use super::*;

fn one(pointer: &str, body: &[u8]) -> Result<Option<Scalar<'static>>, MalformedJson> {
    let mut pointers = JsonPointers::default();
    pointers.add(pointer).expect("a pointer");
    let found = pointers.read(body)?;
    assert!(found.0.len() <= 1, "{found:?}");
    Ok(found.0.into_iter().next().map(|found| match found.value {
        Scalar::Text(text) => Scalar::Text(Cow::Owned(text.into_owned())),
        Scalar::Integer(value) => Scalar::Integer(value),
        Scalar::Other => Scalar::Other,
    }))
}

#[test]
fn integers_are_integers_only() {
    let cases: &[(&str, Scalar<'_>)] = &[
        ("574", Scalar::Integer(574)),
        ("0", Scalar::Integer(0)),
        ("-5", Scalar::Integer(-5)),
        ("4294967870", Scalar::Integer(4_294_967_870)),
        ("9223372036854775807", Scalar::Integer(i64::MAX)),
        ("9223372036854775808", Scalar::Other),
        ("18446744073709551616", Scalar::Other),
        ("-0", Scalar::Other),
        ("574.0", Scalar::Other),
        ("5.74e2", Scalar::Other),
        ("574e0", Scalar::Other),
        ("true", Scalar::Other),
        ("null", Scalar::Other),
        ("[574]", Scalar::Other),
        ("{\"grpIdx\":574}", Scalar::Other),
        ("\"574\"", Scalar::Text("574".into())),
    ];
    for (value, expected) in cases {
        let body = format!("{{\"a\":[1,{{\"grpIdx\":9}}],\"grpIdx\":{value} , \"b\":{{}}}}");
        assert_eq!(one("/grpIdx", body.as_bytes()), Ok(Some(expected.clone())), "{value}");
    }
}

#[test]
fn rejects_what_parsers_read_differently() {
    let deep = |n: usize| format!("{{\"grpIdx\":1,\"x\":{}{}}}", "[".repeat(n), "]".repeat(n));
    let refused: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b" ".to_vec(),
        b"{\"grpIdx\":1,\"grpIdx\":1}".to_vec(),
        b"{\"grpIdx\":1,\"grp\\u0049dx\":2}".to_vec(),
        b"{\"grp\\u0049dx\":1,\"grpIdx\":2}".to_vec(),
        b"{\"grpIdx\":1}x".to_vec(),
        b"{\"grpIdx\":1}{}".to_vec(),
        b"{\"grpIdx\":1}\0".to_vec(),
        b"\xef\xbb\xbf{\"grpIdx\":1}".to_vec(),
        b"{\"grpIdx\":1,\"x\":\"\xff\"}".to_vec(),
        b"{\"grpIdx\":1,\"x\":\"\xed\xa0\x80\"}".to_vec(),
        b"{\"grpIdx\":01}".to_vec(),
        b"{\"grpIdx\":+1}".to_vec(),
        b"{\"grpIdx\":0x1}".to_vec(),
        b"{\"grpIdx\":NaN}".to_vec(),
        b"{'grpIdx':1}".to_vec(),
        b"{grpIdx:1}".to_vec(),
        b"{\"grpIdx\":1,}".to_vec(),
        b"{\"grpIdx\":1/**/}".to_vec(),
        b"{\"grpIdx\":1".to_vec(),
        deep(64).into_bytes(),
        deep(200_000).into_bytes(),
    ];
    for body in refused {
        assert_eq!(one("/grpIdx", &body), Err(MalformedJson), "{}", String::from_utf8_lossy(&body));
    }
    assert_eq!(one("/grpIdx", deep(63).as_bytes()), Ok(Some(Scalar::Integer(1))));
}

#[test]
fn only_the_top_level_member_counts() {
    assert_eq!(one("/grpIdx", b"{\"a\":{\"grpIdx\":1}}"), Ok(None));
    assert_eq!(one("/grpIdx", b"[{\"grpIdx\":1}]"), Ok(None));
    assert_eq!(one("/grpIdx", b"7"), Ok(None));
    assert_eq!(one("/grpIdx", b"{\"grp\\u0049dx\":7}"), Ok(Some(Scalar::Integer(7))));
    let nested = b"{\"a\":{\"grpIdx\":1,\"grpIdx\":2},\"grpIdx\":3}";
    assert_eq!(one("/grpIdx", nested), Ok(Some(Scalar::Integer(3))));
}

#[test]
fn steps_of_a_pointer() {
    assert_eq!(one("/data/id", b"{\"data\":{\"id\":\"e\"}}"), Ok(Some(Scalar::Text("e".into()))));
    assert_eq!(one("/data/id", b"{\"data\":{\"id\":1},\"data\":{}}"), Err(MalformedJson));
    assert_eq!(one("/a~1b", b"{\"a/b\":1}"), Ok(Some(Scalar::Integer(1))));
    let mut pointers = JsonPointers::default();
    assert_eq!(pointers.add("/items/*/id"), Ok(0));
    assert_eq!(pointers.add("/items/*/at"), Ok(1));
    assert_eq!(pointers.add("/items/*/id"), Ok(0));
    assert!(pointers.add("id").is_err());
    assert!(pointers.add("/a//b").is_err());
    let body = b"{\"items\":[{\"id\":1},{\"at\":2,\"id\":3},{}]}";
    let found = pointers.read(body).expect("JSON");
    assert_eq!(found.of(0).len(), 2);
    let numbers = [(0, 0, Some(1)), (0, 1, Some(3)), (0, 2, None), (1, 0, None), (1, 1, Some(2))];
    for (pointer, item, number) in numbers {
        let expected = number.map(Scalar::Integer);
        assert_eq!(found.only(pointer, item), expected.as_ref(), "{pointer} {item}");
    }
}

#[test]
fn unwanted_members_are_checked_for_syntax_only() {
    for value in [r#""\ud83d""#, r#""\udc00\ud83d""#, "1e400", "-1e-400", "0.10", "[1e999]"] {
        let body = format!(r#"{{"note":{value},"id":"e","{}":{value}}}"#, "\\ud800");
        assert_eq!(one("/id", body.as_bytes()), Ok(Some(Scalar::Text("e".into()))), "{body}");
    }
    assert_eq!(one("/id", br#"{"id":"\ud83d"}"#), Ok(Some(Scalar::Other)));
    assert_eq!(one("/id", br#"{"id":"\ud83d\ude00"}"#), Ok(Some(Scalar::Text("😀".into()))));
    for value in
        ["\"\\x\"", "\"\\u12\"", "\"\t\"", "01", "1.", ".5", "1e", "-", "nul", "truex", "[1,]"]
    {
        let body = format!(r#"{{"id":1,"note":{value}}}"#);
        assert_eq!(one("/id", body.as_bytes()), Err(MalformedJson), "{body}");
    }
}

#[test]
fn a_name_in_another_case_is_a_duplicate() {
    for other in ["GRPIDX", "grpidx", "gRpIdx", "grp\\u0069dx"] {
        let body = format!(r#"{{"grpIdx":1,"{other}":2}}"#);
        assert_eq!(one("/grpIdx", body.as_bytes()), Err(MalformedJson), "{other}");
        let body = format!(r#"{{"{other}":2}}"#);
        assert_eq!(one("/grpIdx", body.as_bytes()), Ok(None), "{other}");
    }
    // Go folds these two characters as well.
    assert_eq!(one("/task", "{\"task\":1,\"taſk\":2}".as_bytes()), Err(MalformedJson));
    assert_eq!(one("/task", "{\"tas\u{212a}\":1,\"task\":2}".as_bytes()), Err(MalformedJson));
    assert_eq!(one("/task", "{\"tasé\":1,\"task\":2}".as_bytes()), Ok(Some(Scalar::Integer(2))));
}

#[test]
fn the_number_of_values_and_items_is_bounded() {
    let values = |count: usize| format!("{{\"x\":[{}1],\"a\":1}}", "1,".repeat(count - 4));
    let limit = MAX_VALUES as usize;
    assert_eq!(one("/a", values(limit).as_bytes()), Ok(Some(Scalar::Integer(1))));
    assert_eq!(one("/a", values(limit + 1).as_bytes()), Err(MalformedJson));
    let mut pointers = JsonPointers::default();
    let item = pointers.add("/a/*").expect("a pointer");
    let items = |count: u32| format!("{{\"a\":[{}1]}}", "1,".repeat(count as usize - 1));
    let most = items(MAX_ITEMS);
    let found = pointers.read(most.as_bytes()).expect("JSON");
    assert_eq!(found.of(item).len(), MAX_ITEMS as usize);
    assert_eq!(found.only(item, MAX_ITEMS - 1), Some(&Scalar::Integer(1)));
    assert_eq!(pointers.read(items(MAX_ITEMS + 1).as_bytes()), Err(MalformedJson));
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_TEXT + 1));
    assert_eq!(one("/a", long.as_bytes()), Ok(Some(Scalar::Other)));
}

proptest! {
    #[test]
    fn agrees_with_serde_json_where_serde_json_is_unambiguous(
        members in prop::collection::btree_map("[a-c\"\\\\\u{49}]{0,3}", any::<i64>(), 0..6),
        wanted in "[a-c]{1,2}",
    ) {
        let body = serde_json::to_vec(&members).expect("JSON");
        let found = one(&format!("/{wanted}"), &body).expect("no name comes twice");
        prop_assert_eq!(found, members.get(&wanted).map(|value| Scalar::Integer(*value)));
    }

    #[test]
    fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = one("/a", &body);
    }

    #[test]
    fn accepts_only_json(body in "[\\[\\]{}\",:a0-9. \\\\u-]{0,24}") {
        if one("/a", body.as_bytes()).is_ok() {
            prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&body).is_ok(), "{}", body);
        }
    }
}
