//! The senders' own libraries: the gateway accepts what they sign, and they accept what
//! `sealgate sign` signs. `scripts/libraries` installs them. Without them, the tests are skipped,
//! or fail if `SEALGATE_REQUIRE_ALL` is set.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::kit::{self, Call, Front, Gateway, Setup, Upstream};

const TOKEN: &str = "a-secret-for-the-libraries-0001";
const WHSEC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// Contentful's library takes secrets of this length only.
const LONG: &str = "a-secret-of-64-characters-for-the-libraries-0123456789-abcdefghi";
const OTHER_LONG: &str = "another-secret-of-64-characters-for-libraries-0123456789-abcdefg";
const OTHER: &str = "another-secret-for-libraries-02";
const OTHER_WHSEC: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
/// The senders whose libraries run on Node.js, and their secrets.
const ON_NODE: &[(&str, &str)] = &[
    ("contentful", LONG),
    ("easypost", TOKEN),
    ("github", TOKEN),
    ("gocardless", TOKEN),
    ("hygraph", TOKEN),
    ("imagekit", TOKEN),
    ("line", TOKEN),
    ("lithic", WHSEC),
    ("liveblocks", WHSEC),
    ("livekit", TOKEN),
    ("mailersend", TOKEN),
    ("mux", TOKEN),
    ("notion", TOKEN),
    ("onfido", TOKEN),
    ("portone", WHSEC),
    ("qstash", TOKEN),
    ("replicate", WHSEC),
    ("resend", WHSEC),
    ("retell", TOKEN),
    ("sanity", TOKEN),
    ("svix", WHSEC),
    ("terra", TOKEN),
    ("workos", TOKEN),
];
const PUBLIC_URL: &str = "https://hooks.example.com/twilio";

/// Bodies that the libraries and the gateway could interpret differently.
const BODIES: &[&str] = &[
    "{}",
    "{\"id\": \"evt_1\", \"n\": 10.0}\n",
    "{\"id\":\"evt_2\",\"name\":\"K\u{e4}se \u{2615} \u{1d11e}\"}",
    "{\"id\":\"evt_3\",\"quotes\":\"\\\"\\\\ \\u0041 </script>\"}",
    "{\"id\":\"evt_4\",\r\n\t\"spaces\":   [ 1 , 2 ]}",
];

/// Form fields that need encoding, sorting and repetition.
const FORMS: &[&[(&str, &str)]] = &[
    &[("CallSid", "CA1234567890ABCDE"), ("From", "+12349013030"), ("Digits", "1234")],
    &[("b", "2"), ("B", "1"), ("a", ""), ("Body", "K\u{e4}se & \"\u{2615}\" = 100%+")],
    &[("MediaUrl", "x"), ("MediaUrl", "y"), ("MediaUrl", "x"), ("A", "1")],
];

/// Runs jobs with a library and returns its results; `None` if the libraries are not installed.
fn library(name: &str, jobs: &[Value]) -> Option<Vec<Value>> {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/libraries");
    if !installed.join("installed").exists() {
        let required = std::env::var_os("SEALGATE_REQUIRE_ALL").is_some();
        assert!(!required, "the libraries are not installed: run scripts/libraries");
        eprintln!("SKIPPED: the libraries are not installed; scripts/libraries does it");
        return None;
    }
    let mut command = match name {
        _ if ON_NODE.iter().any(|(id, _)| *id == name) => {
            let mut node = Command::new("node");
            node.args(["--input-type=module", "-e", include_str!("../libraries/node.mjs")]);
            node
        }
        _ => {
            let mut python = Command::new(installed.join("python/bin/python"));
            python.args(["-c", include_str!("../libraries/python.py")]);
            python
        }
    };
    let spawned =
        command.current_dir(&installed).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut running = spawned.expect("the library runs");
    let mut input = running.stdin.take().expect("piped");
    input.write_all(Value::from(jobs).to_string().as_bytes()).expect("written");
    drop(input);
    let output = running.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{name} failed");
    Some(serde_json::from_slice(&output.stdout).expect("results"))
}

fn toml(upstream: &Upstream) -> String {
    let route = |id: &str, secret: &str, more: &str| {
        format!(
            "[[route]]\nname = \"{id}\"\npath = \"/{id}\"\nscheme = \"{id}\"\n\
             upstream = \"http://{}\"\nsecret = \"{secret}\"\n{more}\n",
            upstream.address()
        )
    };
    [
        route("stripe", TOKEN, ""),
        route("slack", TOKEN, ""),
        route("standard-webhooks", WHSEC, ""),
        route("twilio", TOKEN, &format!("public_url = \"{PUBLIC_URL}\"")),
        route(
            "http-message-signatures-hmac",
            TOKEN,
            "public_url = \"https://hooks.example.com/http-message-signatures-hmac\"",
        ),
    ]
    .into_iter()
    .chain(ON_NODE.iter().map(|(id, secret)| match *id {
        "livekit" => route(id, secret, "[route.jwt]\nissuer = \"key-1\""),
        _ => route(id, secret, ""),
    }))
    .collect()
}

/// Returns the request that a library signed.
fn call(id: &str, signed: &Value) -> Call {
    let query = signed["query"].as_str().expect("a query");
    let target = if query.is_empty() { format!("/{id}") } else { format!("/{id}?{query}") };
    let headers = signed["headers"].as_array().expect("headers");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let call = Call::post(&target, signed["body"].as_str().expect("a body"));
    headers.iter().fold(call, |call, pair| call.with(&text(&pair[0]), &text(&pair[1])))
}

/// Checks that the gateway accepts what the library signs with the right secret, and rejects it
/// with another secret, body or URL.
async fn accepted(id: &str, secrets: [&str; 2], jobs: Vec<Value>) {
    let with = |secret: &str| -> Vec<Value> {
        let mut jobs = jobs.clone();
        for job in &mut jobs {
            job["act"] = "sign".into();
            job["library"] = id.into();
            job["secret"] = secret.into();
        }
        jobs
    };
    let [good, forged] = secrets.map(|secret| library(id, &with(secret)));
    let (Some(good), Some(forged)) = (good, forged) else { return };
    assert!(!good.is_empty() && good.len() == jobs.len());
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).routes(&toml(&upstream)).start();
    for (number, (good, forged)) in good.iter().zip(&forged).enumerate() {
        let genuine = call(id, good);
        let reply = gateway.call(&genuine).await;
        assert_eq!(reply.status, 200, "{id}: {good}\n{}", reply.head);
        let seen = upstream.requests();
        assert_eq!(seen.len(), number + 1, "{id}: each is an event of its own");
        assert_eq!(seen[number].body, genuine.body, "{id}");
        assert_eq!(seen[number].header("sealgate-verified"), Some(id));
        bad_signature(&gateway, &call(id, forged)).await;
        let more = if id == "twilio" { "&x=1" } else { " " };
        let longer = String::from_utf8([&genuine.body, more.as_bytes()].concat()).expect("text");
        bad_signature(&gateway, &genuine.tampered(&longer)).await;
    }
}

async fn bad_signature(gateway: &Gateway, call: &Call) {
    let (reply, reason) = gateway.refused(call).await;
    assert_eq!((reply.status, reason.as_str()), (401, "bad_signature"), "{}", reply.head);
}

fn bodies() -> Vec<Value> {
    let job = |(number, body)| json!({"body": body, "id": format!("msg_{number}")});
    BODIES.iter().enumerate().map(job).collect()
}

#[tokio::test]
async fn accepts_what_stripe_signs() {
    // Stripe's events have an ID; a body without one is not an event.
    let with_id = bodies().into_iter().filter(|job| job["body"] != "{}").collect();
    accepted("stripe", [TOKEN, OTHER], with_id).await;
}

#[tokio::test]
async fn accepts_what_slack_signs() {
    accepted("slack", [TOKEN, OTHER], bodies()).await;
}

#[tokio::test]
async fn accepts_what_standard_webhooks_signs() {
    accepted("standard-webhooks", [WHSEC, OTHER_WHSEC], bodies()).await;
}

#[tokio::test]
async fn accepts_what_octokit_signs() {
    accepted("github", [TOKEN, OTHER], bodies()).await;
}

/// Libraries that sign as well as verify.
#[tokio::test]
async fn accepts_what_other_libraries_sign() {
    for id in ["contentful", "hygraph", "notion", "retell", "sanity", "svix"] {
        let (_, secret) = ON_NODE.iter().find(|(known, _)| *known == id).expect("listed");
        let other = match *secret {
            WHSEC => OTHER_WHSEC,
            LONG => OTHER_LONG,
            _ => OTHER,
        };
        let with_id = bodies().into_iter().filter(|job| job["body"] != "{}").collect();
        accepted(id, [secret, other], with_id).await;
    }
}

/// LiveKit's token covers the body by a claim.
#[tokio::test]
async fn accepts_what_livekit_signs() {
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).routes(&toml(&upstream)).start();
    let mut jobs = bodies();
    for job in &mut jobs {
        job["act"] = "sign".into();
        job["library"] = "livekit".into();
        job["secret"] = TOKEN.into();
    }
    let Some(signed) = library("livekit", &jobs) else { return };
    for good in &signed {
        let genuine = call("livekit", good);
        assert_eq!(gateway.call(&genuine).await.status, 200, "{good}");
        let (_, reason) = gateway.refused(&genuine.tampered("{\"other\":1}")).await;
        assert_eq!(reason, "claim");
    }
    assert_eq!(upstream.requests().len(), BODIES.len());
}

/// A library for HTTP message signatures, with each algorithm. The first request is HTTP/1.1, the
/// second HTTP/2.
#[tokio::test]
async fn accepts_messages_that_a_library_signs() {
    let kinds = ["", "-ecdsa", "-rsa", "-rsa-pss", "-hmac"];
    for kind in kinds {
        let id = format!("http-message-signatures{kind}");
        let url = format!("https://localhost/{id}?a=1&b=%20c");
        let job = |body: &&str| json!({"act": "sign", "library": id, "secret": TOKEN, "body": body, "url": url});
        let jobs: Vec<_> = BODIES[1..3].iter().map(job).collect();
        let Some(signed) = library(&id, &jobs) else { return };
        let upstream = Upstream::start().await;
        let keys: Vec<_> = signed.iter().filter_map(|job| job["public_key"].as_str()).collect();
        let keys = match keys.as_slice() {
            [] => format!("secret = \"{TOKEN}\""),
            keys => format!("public_key = {keys:?}"),
        };
        let route = format!(
            "[[route]]\nname = \"{id}\"\npath = \"/{id}\"\nscheme = \"{id}\"\n\
             upstream = \"http://{}\"\n{keys}\n",
            upstream.address()
        );
        let gateway = Setup::new(&upstream).routes(&route).start();
        let [first, second] = [&signed[0], &signed[1]].map(|signed| call(&id, signed));
        let refused = async |call: Call| gateway.refused(&call).await.1;
        assert_eq!(refused(first.clone().tampered("{\"other\":1}")).await, "inconsistent", "{id}");
        let other_query = Call { target: first.target.replace("a=1", "a=2"), ..first.clone() };
        assert_eq!(refused(other_query).await, "bad_signature", "{id}");
        let reply = gateway.call(&first).await;
        assert_eq!(reply.status, 200, "{id}: {}", reply.head);
        let mut request = http::Request::post(format!("https://localhost{}", second.target));
        for (name, value) in &second.headers {
            request = request.header(name, value);
        }
        let body = Full::new(Bytes::from(second.body.clone()));
        let request = request.body(body).expect("a request");
        let reply = gateway.connect_http2().await.send(request).await.expect("a response");
        assert_eq!(reply.status(), 200, "{id}");
        assert_eq!(upstream.requests().len(), 2, "{id}");
    }
}

#[tokio::test]
async fn accepts_what_twilio_signs() {
    let forms = FORMS.iter().map(|form| json!({"form": form, "url": PUBLIC_URL}));
    accepted("twilio", [TOKEN, OTHER], forms.collect()).await;
}

#[tokio::test]
async fn accepts_what_twilio_signs_for_a_json_body() {
    let url = |mut job: Value| {
        job["url"] = PUBLIC_URL.into();
        job
    };
    let upstream = Upstream::start().await;
    let gateway = Setup::new(&upstream).routes(&toml(&upstream)).start();
    let mut jobs: Vec<_> = bodies().into_iter().map(url).collect();
    for job in &mut jobs {
        job["act"] = "sign".into();
        job["library"] = "twilio".into();
        job["secret"] = TOKEN.into();
    }
    let Some(signed) = library("twilio", &jobs) else { return };
    for good in &signed {
        assert_eq!(gateway.call(&call("twilio", good)).await.status, 200, "{good}");
        let (_, reason) = gateway.refused(&call("twilio", good).tampered("{\"other\":1}")).await;
        assert_eq!(reason, "inconsistent", "the hash in the signed address binds the body");
    }
    assert_eq!(upstream.requests().len(), BODIES.len());
}

/// Returns the headers that `sealgate sign` prints.
fn signed(dir: &Path, id: &str, body: &str) -> Vec<(String, String)> {
    std::fs::write(dir.join(format!("{id}.body")), body).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_sealgate"))
        .args(["sign", "--route", id, &format!("{id}.body")])
        .current_dir(dir)
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let pair = |line: &str| {
        let (name, value) = line.split_once(": ").expect("a header");
        (name.to_owned(), value.to_owned())
    };
    text.lines().map(pair).collect()
}

#[tokio::test]
async fn libraries_accept_what_sealgate_signs() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).routes(&toml(&upstream));
    let dir = setup.dir.path();
    std::fs::write(dir.join("gateway.toml"), setup.toml()).expect("written");
    // Liveblocks' library reads the type.
    let body =
        "{\"id\":\"evt_2\",\"type\":\"userEntered\",\"name\":\"K\u{e4}se \u{2615} \u{1d11e}\"}";
    let form = "From=%2B1234&Body=K%C3%A4se+%26+more&Empty=";
    let on_python = [
        ("stripe", TOKEN, body),
        ("slack", TOKEN, body),
        ("standard-webhooks", WHSEC, body),
        ("twilio", TOKEN, form),
        ("http-message-signatures-hmac", TOKEN, body),
    ];
    // Hygraph's library reads the items of the header in one order only.
    let on_node = ON_NODE.iter().filter(|(id, _)| *id != "hygraph");
    let on_node: Vec<_> = on_node.map(|(id, secret)| (*id, *secret, body)).collect();
    assert!(on_python.len() + on_node.len() >= 25);
    // One process for all libraries of a language.
    for senders in [&on_python[..], &on_node] {
        let mut jobs = Vec::new();
        for (id, secret, body) in senders {
            let headers = signed(dir, id, body);
            for body in [(*body).to_owned(), body.replace('K', "X")] {
                jobs.push(json!({
                    "act": "verify", "library": id, "secret": secret, "body": body,
                    "headers": headers, "url": PUBLIC_URL,
                }));
            }
        }
        let Some(results) = library(senders[0].0, &jobs) else { return };
        let results = senders.iter().zip(results.chunks(2));
        let wrong: Vec<_> = results.filter(|(_, results)| *results != [true, false]).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}

/// The senders whose requests have a time window, and their secrets; first those with a library in
/// Python.
const WITH_WINDOW: [(&str, &str); 11] = [
    ("stripe", TOKEN),
    ("slack", TOKEN),
    ("standard-webhooks", WHSEC),
    ("mux", TOKEN),
    ("portone", WHSEC),
    ("retell", TOKEN),
    ("sanity", TOKEN),
    ("svix", WHSEC),
    ("terra", TOKEN),
    ("workos", TOKEN),
    ("hygraph", TOKEN),
];

/// Half of it is the age from which a stored request is signed again.
const WINDOW: Duration = Duration::from_secs(8);

#[tokio::test]
async fn libraries_accept_what_is_signed_again() {
    let upstream = Upstream::start().await;
    let any = "127.0.0.1:0".parse().expect("an address");
    let front = Front::tcp(any, &upstream).await;
    let address = front.address();
    let route = |(id, secret): &(&str, &str)| {
        format!(
            "[[route]]\nname = \"{id}\"\npath = \"/{id}\"\nscheme_file = \"{id}.toml\"\n\
             upstream = \"http://{address}\"\nsecret = \"{secret}\"\ndelivery = \"async\"\n\
             [route.retry]\nfirst = \"50ms\"\nmax = \"100ms\"\n"
        )
    };
    let setup = Setup::new(&upstream)
        .section("[events]\npath = \"events\"")
        .routes(&WITH_WINDOW.iter().map(route).collect::<String>());
    let dir = setup.dir.path();
    for (id, _) in WITH_WINDOW {
        let scheme = std::fs::read_to_string(format!("schemes/{id}.toml")).expect("the scheme");
        let window = scheme.lines().find(|line| line.starts_with("window = ")).expect("a window");
        let short = format!("window = \"{}s\"", WINDOW.as_secs());
        let scheme = scheme.replacen(window, &short, 1);
        std::fs::write(dir.join(format!("{id}.toml")), scheme).expect("written");
    }
    std::fs::write(dir.join("gateway.toml"), setup.toml()).expect("written");
    let body = "{\"id\":\"evt_2\",\"type\":\"userEntered\",\"name\":\"K\u{e4}se\"}";
    front.die().await;
    let dir = dir.to_owned();
    let gateway = setup.start();
    for (id, secret) in WITH_WINDOW {
        let request = if id == "hygraph" {
            // Only the sender knows the items next to the signature.
            let job = json!({"act": "sign", "library": id, "secret": secret, "body": body});
            let Some(signed) = library(id, &[job]) else { return };
            call(id, &signed[0])
        } else {
            let headers = signed(&dir, id, body);
            headers.iter().fold(Call::post(&format!("/{id}"), body), |call, header| {
                call.with(&header.0, &header.1)
            })
        };
        let reply = gateway.call(&request).await;
        assert_eq!((reply.status, reply.header("sealgate-answer")), (200, Some("queued")), "{id}");
    }
    let late = kit::now_ms() + WINDOW.as_millis() as u64 / 2 + 200;
    kit::until("half of the window is over", || async { kit::now_ms() > late }).await;
    let _front = Front::tcp(address, &upstream).await;
    upstream.seen(WITH_WINDOW.len()).await;
    let requests = upstream.requests();
    // One process for all libraries of a language.
    let (python, node) = WITH_WINDOW.split_at(3);
    for senders in [python, node] {
        let job = |(id, secret): &(&str, &str)| {
            let target = format!("POST /{id} ");
            let request = requests.iter().find(|request| request.head.starts_with(&target));
            let request = request.expect("it was delivered");
            assert_eq!(request.header("sealgate-resigned"), Some("1"), "{id}");
            assert_eq!(request.body, body.as_bytes(), "{id}");
            let lines = request.head.lines().skip(1);
            let headers: Vec<_> = lines.filter_map(|line| line.split_once(": ")).collect();
            json!({
                "act": "verify", "library": id, "secret": secret, "body": body,
                "headers": headers, "url": PUBLIC_URL,
            })
        };
        let jobs: Vec<_> = senders.iter().map(job).collect();
        let Some(results) = library(senders[0].0, &jobs) else { return };
        let rejected: Vec<_> =
            senders.iter().zip(&results).filter(|(_, accepted)| **accepted != true).collect();
        assert!(rejected.is_empty(), "{rejected:?}");
    }
}
