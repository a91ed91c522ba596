use super::*;

#[test]
fn origins_are_read_with_their_defaults() {
    let origin = |text: &str| text.parse::<Origin>();
    let expected = Origin { host: "app".into(), port: 8080, path: None };
    assert_eq!(origin("http://app:8080"), Ok(expected.clone()));
    assert_eq!(
        origin("http://app:8080/hook"),
        Ok(Origin { path: Some("/hook".into()), ..expected.clone() })
    );
    assert_eq!(origin("http://app:8080/"), Ok(expected));
    assert_eq!(origin("http://[::1]").map(|o| o.to_string()), Ok("[::1]:80".into()));
    for wrong in ["app:8080", "ftp://app", "http://app/?q", "http://u:p@app", ""] {
        assert!(origin(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn targets_keep_what_the_sender_called() {
    let uri: Uri = "/hooks/a/b?q=1".parse().expect("a target");
    let at = |path: Option<&str>, matched| {
        let origin = Origin { host: "app".into(), port: 80, path: path.map(str::to_owned) };
        target_at(&origin, &uri, matched).expect("a target").to_string()
    };
    assert_eq!(at(None, None), "/hooks/a/b?q=1");
    assert_eq!(at(None, Some(7)), "/hooks/a/b?q=1");
    assert_eq!(at(Some("/in"), None), "/in?q=1");
    assert_eq!(at(Some("/in"), Some(7)), "/in/a/b?q=1");
    assert_eq!(at(Some("/in/"), Some(7)), "/in/a/b?q=1");
}
