use data_encoding::BASE64URL_NOPAD;
use proptest::prelude::*;

use super::*;
use crate::scheme::compiled::template::ValueSource;

fn vivoldi() -> (SignatureRule, Vec<Box<str>>) {
    let signature = SignatureRule {
        from: vec![ValueSource::Header(0)],
        format: SignatureFormat::KeyValue { separator: b',', field: "v1".into() },
        prefix: "".into(),
        prefix_optional: false,
        encoding: Encoding::Hex,
        length: Some(32),
        algorithm: Some((ValueSource::Item(1), "hmac-sha256".into())),
    };
    (signature, vec!["t".into(), "alg".into()])
}

type Parsed<'a> = (Vec<Vec<u8>>, [Option<&'a [u8]>; MAX_ITEMS]);

fn parse<'a>(
    signature: &SignatureRule,
    names: &[Box<str>],
    text: &'a [u8],
) -> Result<Parsed<'a>, MalformedSignature> {
    let mut items = [None; MAX_ITEMS];
    let mut candidates = ClaimedSignatures::default();
    signature.parse(text, names, &mut items, &mut candidates)?;
    Ok((candidates.iter().map(<[u8]>::to_vec).collect(), items))
}

#[test]
fn items_come_in_any_order_with_spaces_around_them() {
    let (signature, names) = vivoldi();
    let (a, b) = ("ab".repeat(32), "CD".repeat(32));
    for text in [
        format!("t=1,v1={a},alg=hmac-sha256"),
        format!("alg=hmac-sha256, v1={a},\tt=1"),
        format!(" v1={a} , new=1, t=1 ,v0=zz,alg=hmac-sha256"),
    ] {
        let (found, items) = parse(&signature, &names, text.as_bytes()).expect("well-formed");
        assert_eq!(found, [[0xab; 32]]);
        assert_eq!(items[0], Some(&b"1"[..]));
        assert_eq!(items[1], Some(&b"hmac-sha256"[..]));
    }
    let text = format!("t=1,v1={a},v1={b}");
    let (found, _) = parse(&signature, &names, text.as_bytes()).expect("well-formed");
    assert_eq!(found, [[0xab; 32], [0xcd; 32]]);
}

#[test]
fn what_is_outside_the_grammar_is_refused() {
    let (signature, names) = vivoldi();
    let a = "ab".repeat(32);
    let eleven = format!("v1={a},").repeat(11);
    for text in [
        String::new(),
        " ".to_owned(),
        ",".to_owned(),
        format!("t=1,v1={a},"),
        format!("t=1,,v1={a}"),
        format!("t=1,v1={a},x"),
        format!("t=1,t=1,v1={a}"),
        format!("t=1,t=2,v1={a}"),
        format!("alg=hmac-sha256,alg=none,v1={a}"),
        format!("t=1,v1={}", &a[..62]),
        format!("t=1,v1={a}zz"),
        format!("t=1,v1={a}00"),
        format!("t=1,v1= {a}"),
        format!("t=1,v1={}0g", &a[..62]),
        format!("t=1,v1={} {}", &a[..32], &a[32..]),
        "t=1,v1=".to_owned(),
        format!("t=1,v1={a},v1=zz"),
        format!("{eleven}t=1"),
    ] {
        assert_eq!(parse(&signature, &names, text.as_bytes()), Err(MalformedSignature), "{text}");
    }
    let ten = format!("{}t=1", format!("v1={a},").repeat(10));
    assert_eq!(parse(&signature, &names, ten.as_bytes()).map(|(found, _)| found.len()), Ok(10));
}

#[test]
fn other_formats() {
    let (mut signature, _) = vivoldi();
    let mac = [7; 32];
    let base64 = Encoding::Base64.encode(&mac);
    signature.encoding = Encoding::Base64;
    signature.format = SignatureFormat::Tagged { separator: b' ', tag: "v1,".into() };
    let text = format!("v1a,zzzz v1,{base64} v1,AAAA");
    let (found, _) = parse(&signature, &[], text.as_bytes()).expect("well-formed");
    assert_eq!(found, [mac.to_vec(), Vec::new()]);
    let (found, _) = parse(&signature, &[], b"v1a,zzzz").expect("well-formed, but not ours");
    assert!(found.is_empty());

    signature.format = SignatureFormat::List { separator: b',' };
    signature.prefix = "v1:".into();
    let text = format!("v1:{base64},{base64}");
    assert_eq!(parse(&signature, &[], text.as_bytes()).map(|(found, _)| found.len()), Ok(2));
    assert_eq!(parse(&signature, &[], base64.as_bytes()), Err(MalformedSignature));

    signature.format = SignatureFormat::Positional { separator: b',', items: 1 };
    signature.prefix = "".into();
    let text = format!("123,{base64},{base64}");
    let (found, items) = parse(&signature, &[], text.as_bytes()).expect("well-formed");
    assert_eq!((found.len(), items[0]), (2, Some(&b"123"[..])));

    signature.format = SignatureFormat::Raw;
    signature.prefix = "sha256=".into();
    assert_eq!(parse(&signature, &[], base64.as_bytes()), Err(MalformedSignature));
    signature.prefix_optional = true;
    assert_eq!(parse(&signature, &[], base64.as_bytes()).map(|(found, _)| found.len()), Ok(1));

    signature.encoding = Encoding::Base64Url;
    signature.prefix = "".into();
    for text in [BASE64URL_NOPAD.encode(&mac), format!("{}=", BASE64URL_NOPAD.encode(&mac))] {
        let (found, _) = parse(&signature, &[], text.as_bytes()).expect("well-formed");
        assert_eq!(found, [mac.to_vec()]);
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        macs in prop::collection::vec(any::<[u8; 32]>(), 1..=10),
        timestamp in "[0-9]{1,15}",
        before in 0usize..10,
    ) {
        let (signature, names) = vivoldi();
        let mut parts: Vec<_> = macs.iter().map(|m| format!("v1={}", Encoding::Hex.encode(m))).collect();
        parts.insert(before.min(parts.len()), format!("t={timestamp}"));
        let text = parts.join(" , ");
        let (found, items) = parse(&signature, &names, text.as_bytes()).expect("well-formed");
        prop_assert_eq!(found, macs);
        prop_assert_eq!(items[0], Some(timestamp.as_bytes()));
    }

    #[test]
    fn no_bytes_make_it_panic(
        text in prop::collection::vec(any::<u8>(), 0..200),
        encoding in prop::sample::select(vec![Encoding::Hex, Encoding::Base64, Encoding::Base64Url]),
        format in 0..5usize,
    ) {
        let (mut signature, names) = vivoldi();
        signature.encoding = encoding;
        signature.format = [
            SignatureFormat::Raw,
            SignatureFormat::KeyValue { separator: b',', field: "v1".into() },
            SignatureFormat::List { separator: b',' },
            SignatureFormat::Tagged { separator: b' ', tag: "v1,".into() },
            SignatureFormat::Positional { separator: b',', items: 1 },
        ][format].clone();
        let _ = parse(&signature, &names, &text);
    }

    #[test]
    fn every_accepted_signature_has_the_length_of_a_mac(text in "(v1=[0-9a-fA-F]{62,66},?){0,3}") {
        let (signature, names) = vivoldi();
        if let Ok((found, _)) = parse(&signature, &names, text.as_bytes()) {
            prop_assert!(found.iter().all(|mac| mac.len() == 32));
        }
    }
}
