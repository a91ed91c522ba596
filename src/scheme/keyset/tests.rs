use std::{
    future::Future,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

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

/// A server that answers every request with what `answer` gives for its number.
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
fn a_file_is_read_at_once_and_again_when_it_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("keys.json");
    assert!(KeySet::new("file:keys.json", folder.path(), None).is_err());
    std::fs::write(&path, set(&["a", "b"])).expect("written");
    let keys = KeySet::new("file:keys.json", folder.path(), None).expect("a set");
    assert!(is_found(&keys.find(Some("a"), TokenAlgorithm::Es256)));
    assert!(matches!(keys.find(Some("a"), TokenAlgorithm::Rs256), KeyLookup::Unknown));
    assert!(matches!(keys.find(Some("c"), TokenAlgorithm::Es256), KeyLookup::Unknown));
    assert!(matches!(keys.find(None, TokenAlgorithm::Es256), KeyLookup::Unknown));
    let later = SystemTime::now() + Duration::from_secs(5);
    let write = |text: &str, at: SystemTime| {
        std::fs::write(&path, text).expect("written");
        let file = std::fs::File::options().write(true).open(&path).expect("a file");
        file.set_modified(at).expect("a time");
    };
    write(&set(&["c"]), later);
    assert!(is_found(&keys.find(Some("c"), TokenAlgorithm::Es256)));
    assert!(is_found(&keys.find(None, TokenAlgorithm::Es256)));
    assert!(matches!(keys.find(Some("a"), TokenAlgorithm::Es256), KeyLookup::Unknown));
    write("broken", later + Duration::from_secs(5));
    assert!(is_found(&keys.find(Some("c"), TokenAlgorithm::Es256)));
}

#[test]
fn what_is_no_set_is_refused() {
    let long = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(MAX_BYTES));
    let encryption = set(&["a"]).replace("\"sig\"", "\"enc\"");
    let other = set(&["a"]).replace("ES256", "RS256");
    let off_curve = set(&["a"]).replace("f83OJ", "f83OK");
    let texts = ["", "[]", "{}", "{\"keys\":[]}", &long, &encryption, &other, &off_curve];
    for text in texts {
        assert!(parse(text.as_bytes()).is_err(), "{}", &text[..text.len().min(80)]);
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
        assert!(matches!(keys.find(Some("a"), TokenAlgorithm::Es256), KeyLookup::Unavailable));
        let task = tokio::spawn(Arc::clone(&keys).maintain());
        until(|| is_found(&keys.find(Some("a"), TokenAlgorithm::Es256))).await;
        until(|| is_found(&keys.find(Some("b"), TokenAlgorithm::Es256))).await;
        assert!(requests.load(Ordering::SeqCst) <= FETCHES_A_MINUTE);
        task.abort();
    });
}

#[test]
fn whatever_keys_are_asked_for_fetches_are_few() {
    run(async {
        let (address, requests) = serve(|_| ok(&set(&["a"]))).await;
        let keys = at(address);
        let task = tokio::spawn(Arc::clone(&keys).maintain());
        until(|| is_found(&keys.find(Some("a"), TokenAlgorithm::Es256))).await;
        // Before a fetch that began later came back without it, nobody can say that it is unknown.
        assert!(matches!(keys.find(Some("x"), TokenAlgorithm::Es256), KeyLookup::Unavailable));
        until(|| matches!(keys.find(Some("x"), TokenAlgorithm::Es256), KeyLookup::Unknown)).await;
        for number in 0..1000 {
            let _ = keys.find(Some(&format!("k{number}")), TokenAlgorithm::Es256);
            tokio::task::yield_now().await;
        }
        until(|| requests.load(Ordering::SeqCst) >= FETCHES_A_MINUTE).await;
        for number in 0..1000 {
            let _ = keys.find(Some(&format!("l{number}")), TokenAlgorithm::Es256);
            tokio::task::yield_now().await;
        }
        assert_eq!(requests.load(Ordering::SeqCst), FETCHES_A_MINUTE);
        assert!(keys.asked.lock().expect("no panic").len() <= MAX_UNKNOWN);
        task.abort();
    });
}

#[test]
fn servers_that_lie_change_nothing() {
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
        assert!(is_found(&keys.find(Some("a"), TokenAlgorithm::Es256)));
    });
}
