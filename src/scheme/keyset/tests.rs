use std::{
    future::Future,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use data_encoding::BASE64URL_NOPAD;

use super::*;

const EC: &str = r#"{"kty":"EC","crv":"P-256","kid":"KID","alg":"ES256","use":"sig",
    "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

fn set(kids: &[&str]) -> String {
    let keys: Vec<_> = kids.iter().map(|kid| EC.replace("KID", kid)).collect();
    format!("{{\"keys\":[{}]}}", keys.join(","))
}

fn is_found(lookup: &KeyLookup) -> bool {
    matches!(lookup, KeyLookup::Found(keys) if keys.len() == 1)
}

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        tokio::time::timeout(Duration::from_secs(20), test).await.expect("in time")
    })
}

/// Starts a server whose response to request number n is `answer(n)`.
async fn serve(
    answer: impl Fn(usize) -> String + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let count = Arc::new(AtomicUsize::new(0));
    let requests = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let text = answer(requests.fetch_add(1, Ordering::SeqCst));
            let _ = stream.write_all(text.as_bytes()).await;
        }
    });
    (address, count)
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn at(address: SocketAddr) -> Arc<KeySet> {
    KeySet::new(&format!("http://{address}/keys"), Path::new("."), None).expect("an address")
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn a_file_is_read_at_the_start_and_when_it_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("keys.json");
    assert!(KeySet::new("file:keys.json", folder.path(), None).is_err());
    std::fs::write(&path, set(&["a", "b"])).expect("written");
    let keys = KeySet::new("file:keys.json", folder.path(), None).expect("a set");
    assert!(is_found(&keys.find(Some("a"), PublicKeyAlgorithm::EcdsaP256Fixed)));
    assert!(matches!(keys.find(Some("a"), PublicKeyAlgorithm::RsaSha256), KeyLookup::Unknown));
    assert!(matches!(keys.find(Some("c"), PublicKeyAlgorithm::EcdsaP256Fixed), KeyLookup::Unknown));
    assert!(matches!(keys.find(None, PublicKeyAlgorithm::EcdsaP256Fixed), KeyLookup::Unknown));
    let later = SystemTime::now() + Duration::from_secs(5);
    let write = |text: &str, at: SystemTime| {
        std::fs::write(&path, text).expect("written");
        let file = std::fs::File::options().write(true).open(&path).expect("a file");
        file.set_modified(at).expect("a time");
    };
    write(&set(&["c"]), later);
    assert!(
        is_found(&keys.find(Some("a"), PublicKeyAlgorithm::EcdsaP256Fixed)),
        "a token reads no file"
    );
    keys.reread_file();
    assert!(is_found(&keys.find(Some("c"), PublicKeyAlgorithm::EcdsaP256Fixed)));
    assert!(is_found(&keys.find(None, PublicKeyAlgorithm::EcdsaP256Fixed)));
    assert!(matches!(keys.find(Some("a"), PublicKeyAlgorithm::EcdsaP256Fixed), KeyLookup::Unknown));
    write("broken", later + Duration::from_secs(5));
    keys.reread_file();
    assert!(is_found(&keys.find(Some("c"), PublicKeyAlgorithm::EcdsaP256Fixed)));
}

#[test]
fn rejects_what_is_not_a_key_set() {
    let long = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(MAX_BYTES));
    let encryption = set(&["a"]).replace("\"sig\"", "\"enc\"");
    let other = set(&["a"]).replace("ES256", "RS256");
    let off_curve = set(&["a"]).replace("f83OJ", "f83OK");
    let texts = ["", "[]", "{}", "{\"keys\":[]}", &long, &encryption, &other, &off_curve];
    for text in texts {
        assert!(jwk::parse(text.as_bytes()).is_err(), "{}", &text[..text.len().min(80)]);
    }
    for address in ["http://example.com/keys", "ftp://localhost/", "keys.json", ""] {
        assert!(KeySet::new(address, Path::new("."), None).is_err(), "{address}");
    }
}

#[test]
fn a_set_is_fetched_and_an_unknown_key_makes_it_fetch_again() {
    run(async {
        let (address, requests) =
            serve(|n| ok(&if n == 0 { set(&["a"]) } else { set(&["a", "b"]) })).await;
        let keys = at(address);
        assert!(matches!(
            keys.find(Some("a"), PublicKeyAlgorithm::EcdsaP256Fixed),
            KeyLookup::Unavailable
        ));
        let task = tokio::spawn(Arc::clone(&keys).maintain());
        until(|| is_found(&keys.find(Some("a"), PublicKeyAlgorithm::EcdsaP256Fixed))).await;
        until(|| is_found(&keys.find(Some("b"), PublicKeyAlgorithm::EcdsaP256Fixed))).await;
        assert!(requests.load(Ordering::SeqCst) <= FETCHES_A_MINUTE);
        task.abort();
    });
}

#[test]
fn the_number_of_fetches_is_bounded() {
    run(async {
        let (address, requests) = serve(|_| ok(&set(&["a"]))).await;
        let keys = at(address);
        let task = tokio::spawn(Arc::clone(&keys).maintain());
        until(|| is_found(&keys.find(Some("a"), PublicKeyAlgorithm::EcdsaP256Fixed))).await;
        // Before a fetch that began later came back without it, nobody can say that it is unknown.
        assert!(matches!(
            keys.find(Some("x"), PublicKeyAlgorithm::EcdsaP256Fixed),
            KeyLookup::Pending
        ));
        until(|| {
            matches!(keys.find(Some("x"), PublicKeyAlgorithm::EcdsaP256Fixed), KeyLookup::Unknown)
        })
        .await;
        for number in 0..1000 {
            let _ = keys.find(Some(&format!("k{number}")), PublicKeyAlgorithm::EcdsaP256Fixed);
            tokio::task::yield_now().await;
        }
        until(|| requests.load(Ordering::SeqCst) >= FETCHES_A_MINUTE).await;
        for number in 0..1000 {
            let _ = keys.find(Some(&format!("l{number}")), PublicKeyAlgorithm::EcdsaP256Fixed);
            tokio::task::yield_now().await;
        }
        assert_eq!(requests.load(Ordering::SeqCst), FETCHES_A_MINUTE);
        assert!(keys.unknown.lock().expect("no panic").first_named.len() <= MAX_UNKNOWN);
        task.abort();
    });
}

#[test]
fn bad_responses_change_nothing() {
    run(async {
        let (address, _) = serve(|n| match n {
            0 => ok(&set(&["a"])),
            1 => "HTTP/1.1 302 Found\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n".to_owned(),
            2 => ok("not a set"),
            3 => ok(&format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(MAX_BYTES))),
            4 => "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".to_owned(),
            _ => "nonsense".to_owned(),
        })
        .await;
        let keys = at(address);
        assert_eq!(keys.load().await, Ok(()));
        for _ in 1..7 {
            assert!(keys.load().await.is_err());
        }
        assert!(is_found(&keys.find(Some("a"), PublicKeyAlgorithm::EcdsaP256Fixed)));
    });
}

const RSA_N: &str = "sXchDaQebHnPiGvyDOAT4saGEUetSyo9MKLOoWFsueri23bOdgWp4Dy1WlUzewbgBHod5pcM9H95GQRV3JDXboIRROSBig\
    eC5yjU1hGzHHyXss8UDprecbAYxknTcQkhslANGRUZmdTOQ5qTRsLAt6BTYuyvVRdhS8exSZEy_c4gs_7svlJJQ4H9_NxsiIo\
    LwAEk7-Q3UXERGYw_75IDrGA84-lA_-Ct4eTlXHBIY2EaV7t7LjJaynVJCpkv4LKjTTAumiGUIuQhrNhZLuF_RJLqHpM2kgWF\
    LU7-VTdL1VbC2tejvcI2BlMkEpk1BzBZI0KQB0GaDWFLN-aEAw3vRw";

/// An RSA key whose modulus is the end of [`RSA_N`].
fn rsa(kid: &str, bytes: usize, zeros: usize, padding: &str) -> String {
    let n = BASE64URL_NOPAD.decode(RSA_N.as_bytes()).expect("base64url");
    let mut n = [vec![0; zeros], n[n.len() - bytes..].to_vec()].concat();
    n[zeros] |= 0x80;
    let n = BASE64URL_NOPAD.encode(&n);
    format!(r#"{{"kty":"RSA","kid":"{kid}","n":"{n}{padding}","e":"AAEAAQ=="}}"#)
}

#[test]
fn numbers_may_have_leading_zeros_and_padding() {
    let coordinate =
        BASE64URL_NOPAD.decode(b"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU").expect("base64url");
    let zero = BASE64URL_NOPAD.encode(&[&[0], coordinate.as_slice()].concat());
    let ec = EC.replace("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", &zero);
    for key in [rsa("k", 256, 0, ""), rsa("k", 256, 1, ""), rsa("k", 256, 2, "=="), ec] {
        let text = format!("{{\"keys\":[{key}]}}");
        let (keys, skipped) = jwk::parse(text.as_bytes()).expect("a usable key");
        // An RSA key without `alg` serves for PKCS#1 and PSS.
        let expected = if text.contains("RSA") { 2 } else { 1 };
        assert_eq!((keys.len(), skipped.len()), (expected, 0), "{text}");
    }
}

#[test]
fn every_skipped_key_has_a_cause() {
    let keys = [
        rsa("short", 128, 0, ""),
        r#"{"kty":"OKP","crv":"X25519","kid":"other"}"#.to_owned(),
        r#"{"kty":"OKP","crv":"Ed25519","kid":"short","x":"AAAA"}"#.to_owned(),
        EC.replace("\"sig\"", "\"enc\"").replace("KID", "enc"),
        EC.replace("f83OJ", "f8 OJ").replace("KID", "broken"),
        r#"{"kty":"RSA"}"#.to_owned(),
        EC.replace("KID", "good"),
    ];
    let text = format!("{{\"keys\":[{}]}}", keys.join(","));
    let (usable, skipped) = jwk::parse(text.as_bytes()).expect("one is usable");
    assert_eq!(usable[0].kid.as_deref(), Some("good"));
    let expected = [
        "short: it has 1024 bits, not 2048 to 8192",
        "other: its type (kty `OKP`, crv `X25519`) is not supported",
        "short: it is not an Ed25519 key",
        "enc: its use is `enc`",
        "broken: `x` is not base64url",
        "key number 6: `n` is missing",
    ];
    assert_eq!(skipped, expected);
    let error = jwk::parse(format!("{{\"keys\":[{}]}}", keys[0]).as_bytes()).err();
    assert!(error.is_some_and(|error| error.contains("short: it has 1024 bits")));
}

#[test]
fn beyond_the_limit_unknown_keys_are_rejected_at_once() {
    run(async {
        let (address, _) = serve(|_| ok(&set(&["a"]))).await;
        let keys = at(address);
        assert_eq!(keys.load().await, Ok(()));
        for number in 0..MAX_UNKNOWN {
            let found = keys.find(Some(&format!("k{number}")), PublicKeyAlgorithm::EcdsaP256Fixed);
            assert!(matches!(found, KeyLookup::Pending), "a newer set could have it");
        }
        let found = keys.find(Some("one more"), PublicKeyAlgorithm::EcdsaP256Fixed);
        assert!(matches!(found, KeyLookup::Unknown), "the set is fresh");
        assert!(is_found(&keys.find(Some("a"), PublicKeyAlgorithm::EcdsaP256Fixed)));
    });
}
