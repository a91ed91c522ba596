//! The most work that a byte of an unauthenticated body can cause: for each scheme, a search for
//! the body whose verification takes the longest, compared with GitHub's scheme, which hashes the
//! body and does nothing else.
//!
//! `cargo bench --bench work` searches for a while and fails if a byte costs more than [`MOST`]
//! times what it costs under GitHub's scheme. With `-- --targets` it takes a few seconds and fails
//! above [`MOST_SHORT`], which only work that is not linear exceeds. Times are ratios of
//! measurements that alternate, so other load on the machine affects both.

use std::{fs, hint::black_box, path::Path, process::ExitCode, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, request::Parts};
use sealgate::internals::{
    body::Payload,
    scheme::{Credentials, Draft, Scheme, UnixMillis, Verifier},
    secret::Secret,
};
use serde_json::{Map, Value, json};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NOW: UnixMillis = UnixMillis(1_758_184_391_752);
const PATH: &str = "/in?a=b";
/// The most that a byte may cost, as a multiple of its cost under GitHub's scheme.
const MOST: f64 = 4.0;
/// The same for the short form, which may run without optimization of the dependencies.
const MOST_SHORT: f64 = 32.0;
/// The lengths of bodies: long enough that what a request costs anyway does not count.
const LENGTHS: [usize; 2] = [64 << 10, 256 << 10];
/// What the repeated part of a JSON body is made of.
const FRAGMENTS: [&str; 16] = [
    "1",
    "-0.1e1",
    "\"\"",
    "\"a\"",
    "\"\\n\"",
    "\"\\u0041\"",
    "\"é\"",
    "\"😀\"",
    "[]",
    "{}",
    "[[1]]",
    "{\"a\":1}",
    "{\"\":{}}",
    "true",
    " 1 ",
    "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\\\\\"",
];
/// What the repeated part of a form is made of.
const FIELDS: [&str; 6] = ["&a", "&a=%41", "+", "%4", "%41", "&=&"];

/// A scheme with a head that its requests could have.
struct Target {
    verifier: Verifier,
    head: Parts,
    /// A body with every member that the scheme reads.
    members: Map<String, Value>,
    /// The members that are lists of items.
    lists: Vec<String>,
}

fn verifier(id: &str) -> Option<Verifier> {
    let scheme = Scheme::builtin(id)?;
    let secret = match scheme.proof() {
        "user and password" => format!("user:{}", "c0ffee".repeat(8)),
        _ => "c0ffee".repeat(8),
    };
    let credentials = Credentials {
        global: vec![Secret::new(secret.into_bytes())],
        public_url: Some("https://hooks.example.com/in?a=b".to_owned()),
        ..Credentials::default()
    };
    Verifier::new(scheme, "bench", credentials).ok()
}

/// The pointers that a scheme file reads in the body.
fn pointers(id: &str) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("schemes/{id}.toml"));
    let text = fs::read_to_string(file).expect("a scheme file");
    let each = text.lines().find_map(|line| line.strip_prefix("each = ")?.trim().get(1..));
    let each = each.map_or("", |each| each.trim_end_matches('"'));
    let after = |mark: &str, prefix: &str| -> Vec<String> {
        let parts = text.split(mark).skip(1);
        let end = |c: char| matches!(c, '"' | '}' | '|' | '\'');
        parts.map(|part| format!("{prefix}{}", part.split(end).next().unwrap_or(""))).collect()
    };
    [after("json:", ""), after("item:", each)].concat()
}

/// Sets a member, creating the objects and the lists above it.
fn set(value: &mut Value, steps: &[&str]) {
    match steps {
        [] if value.is_null() => *value = json!("1758184391"),
        [] => {}
        ["*", rest @ ..] => {
            if !value.is_array() {
                *value = json!([null]);
            }
            set(&mut value[0], rest);
        }
        [name, rest @ ..] => {
            if !value.is_object() {
                *value = json!({});
            }
            set(&mut value[*name], rest);
        }
    }
}

impl Target {
    fn new(id: &str) -> Option<Self> {
        let verifier = verifier(id)?;
        let mut body = json!({});
        for pointer in pointers(id) {
            set(&mut body, &pointer.split('/').skip(1).collect::<Vec<_>>());
        }
        let Value::Object(members) = body else { return None };
        let lists = members.iter().filter(|(_, value)| value.is_array());
        let lists = lists.map(|(name, _)| name.clone()).collect();
        // The head is that of a signed request; its signature is not the body's.
        let text = Payload::from(Bytes::from(Value::Object(members.clone()).to_string()));
        let draft =
            Draft { method: Method::POST, path: PATH, headers: HeaderMap::new(), body: &text };
        let headers = verifier.sign(None, draft, NOW).unwrap_or_default();
        let (mut head, ()) = Request::post(PATH).body(()).expect("a request").into_parts();
        head.headers = headers;
        Some(Target { verifier, head, members, lists })
    }

    /// The shapes of bodies that the search starts with: what comes before and after a repeated
    /// part.
    fn shapes(&self) -> Vec<(String, String, &'static [&'static str])> {
        let members = Value::Object(self.members.clone()).to_string();
        let open = members.trim_end_matches('}');
        let open = &members[..open.len() + members[open.len()..].len() - 1];
        let comma = if self.members.is_empty() { "" } else { "," };
        let mut shapes = vec![
            (format!("{open}{comma}\"x\":[0"), "]}".to_owned(), FRAGMENTS.as_slice()),
            (format!("{open}{comma}\"x\":{{\"y\":0"), "}}".to_owned(), FRAGMENTS.as_slice()),
            (format!("{open}{comma}\"x\":0"), "}".to_owned(), FRAGMENTS.as_slice()),
            (format!("{open}{comma}\"x\":\""), "\"}".to_owned(), &["a", "\\n", "\\u0041", "é"]),
            (format!("{open}{comma}\"x\":"), "0}".to_owned(), &[" ", "\n"]),
            (String::new(), String::new(), &["x", "1", "[", "\"", " ", "{\"a\":"]),
            ("a=1".to_owned(), String::new(), FIELDS.as_slice()),
        ];
        for list in &self.lists {
            let mut others = self.members.clone();
            others.remove(list);
            let others = Value::Object(others).to_string();
            let start = format!("{{\"{list}\":[0");
            let end = if others == "{}" { "]}".to_owned() } else { format!("],{}", &others[1..]) };
            shapes.push((start.replace("[0", &format!("[{}", self.members[list][0])), end, &[]));
        }
        shapes
    }

    /// A body of about so many bytes.
    fn body(&self, shape: usize, parts: &[usize], length: usize) -> Bytes {
        let (start, end, fragments) = &self.shapes()[shape];
        let item = self.lists.first().map(|list| self.members[list][0].to_string());
        let mut unit = String::new();
        for part in parts {
            let fragment = match (fragments.is_empty(), &item) {
                (true, Some(item)) => item.as_str(),
                _ => fragments[part % fragments.len().max(1)],
            };
            match shape {
                1 | 2 => {
                    unit.push_str(&format!(",\"{}\":{fragment}", ["", "a", "\\n", "é"][part % 4]))
                }
                0 | 7.. => unit.push_str(&format!(",{fragment}")),
                _ => unit.push_str(fragment),
            }
        }
        let count = length.saturating_sub(start.len() + end.len()) / unit.len().max(1);
        Bytes::from(format!("{start}{}{end}", unit.repeat(count)))
    }

    /// The shortest of several times that a verification takes, in nanoseconds.
    fn time(&self, body: &Bytes, rounds: usize) -> f64 {
        let mut shortest = f64::INFINITY;
        for _ in 0..rounds {
            let payload = Payload::from(body.clone());
            let start = Instant::now();
            let _ = black_box(self.verifier.authenticate(&self.head, black_box(&payload), NOW));
            shortest = shortest.min(start.elapsed().as_secs_f64() * 1e9);
        }
        shortest
    }

    /// Searches for the body whose bytes cost the most: changes one part at a time and keeps the
    /// change if the body costs more.
    fn worst(&self, steps: usize, random: &mut impl FnMut(usize) -> usize) -> Bytes {
        let mut worst = (0.0, Bytes::new());
        for length in LENGTHS {
            for shape in 0..self.shapes().len() {
                let mut best = (0.0, vec![0]);
                for step in 0..steps {
                    let mut parts = best.1.clone();
                    match random(3) {
                        0 if step > 0 && parts.len() < 4 => parts.push(random(64)),
                        1 if parts.len() > 1 => drop(parts.remove(random(parts.len()))),
                        _ => {
                            let at = random(parts.len());
                            parts[at] = random(64);
                        }
                    }
                    let body = self.body(shape, &parts, length);
                    let cost = self.time(&body, 3) / body.len() as f64;
                    if cost > best.0 {
                        best = (cost, parts);
                    }
                    if cost > worst.0 {
                        worst = (cost, body);
                    }
                }
            }
        }
        worst.1
    }
}

fn main() -> ExitCode {
    let is_short = std::env::args().any(|argument| argument == "--targets");
    let steps = if is_short { 6 } else { 60 };
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let github = Target::new("github").expect("built in");
    let mut results = Vec::new();
    for id in Scheme::builtin_ids() {
        let Some(target) = Target::new(id) else { continue };
        let body = target.worst(steps, &mut random);
        let plain = Bytes::from(vec![b'x'; body.len()]);
        let (mut own, mut least) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..40 {
            own = own.min(target.time(&body, 1));
            least = least.min(github.time(&plain, 1));
        }
        results.push((own / least, id, body));
    }
    results.sort_by(|one, other| other.0.total_cmp(&one.0));
    let shown = if is_short { 5 } else { results.len() };
    for (ratio, id, body) in &results[..shown] {
        let start = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        println!("{ratio:5.2} × GitHub's work per byte: {id}, {} bytes, {start}…", body.len());
    }
    let (worst, ..) = results[0];
    let most = if is_short { MOST_SHORT } else { MOST };
    let verdict = if worst <= most { "met" } else { "MISSED" };
    println!("{} schemes, worst {worst:.2}, at most {most}: {verdict}", results.len());
    if worst <= most { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
