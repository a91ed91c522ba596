//! `sealgate check --against`: verifies captured requests against a configuration, before a reload.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;

use crate::{
    body::Payload,
    cli::{
        Status,
        admin_client::{AdminAddress, AdminClient, event_target, with_query},
        capture::{self, Captured},
        err, invalid, now, out, rfc3339,
        text::visible,
        verify::{by_path, decide_captured, fetch_keys, word},
    },
    config::Config,
    gate,
    metrics::Metrics,
    reject::Reject,
    route::Routes,
    scheme::UnixMillis,
    server::{self, Limits},
};

/// How many rejected requests are named for each reason.
const EXAMPLES: usize = 3;

/// Why requests of a route would be rejected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RejectionGroup {
    word: &'static str,
    meaning: String,
    route: Option<Arc<str>>,
}

/// Decides about captured requests as the gateway with a configuration would.
struct Checker {
    routes: Routes,
    limits: Limits,
    /// The routes whose key sets were fetched.
    fetched: HashSet<Arc<str>>,
}

impl Checker {
    fn new(config: Config) -> anyhow::Result<Self> {
        let limits = config.server.limits;
        let routes = Routes::new(config.routes, &Metrics::new()?);
        Ok(Checker { routes, limits, fetched: HashSet::new() })
    }

    /// Returns why a request would be rejected at `at`; by default at its own timestamp, so that
    /// its age does not matter.
    fn rejection(
        &mut self,
        captured: &Captured,
        at: Option<UnixMillis>,
    ) -> anyhow::Result<Option<RejectionGroup>> {
        let length = captured.body.len() as u64;
        let ruled = server::check_head(&captured.text, &self.limits)
            .and_then(|()| gate::check_rules(&self.routes, &captured.head, length));
        let route = ruled.as_ref().ok().map(Arc::clone);
        let route = route.or_else(|| by_path(&self.routes, &captured.head));
        let reject = match (ruled, &route) {
            (Err(reject), _) => reject,
            (Ok(_), None) => Reject::NoRoute,
            (Ok(_), Some(route)) => {
                let payload = Payload::from(captured.body.clone());
                let sent = || route.verifier.unverified_details(&captured.head, &payload).timestamp;
                let at = at.or_else(sent).unwrap_or_else(now);
                let is_new = self.fetched.insert(Arc::clone(&route.name));
                if is_new || route.verifier.named_keys().is_some() {
                    fetch_keys(route, captured, at)?;
                }
                let (verdict, ..) = decide_captured(route, captured, at);
                let Err(reject) = verdict else { return Ok(None) };
                reject
            }
        };
        let meaning = match reject.reason() {
            Some(reason) => reason.meaning().to_owned(),
            None => reject.to_string(),
        };
        let route = route.map(|route| Arc::clone(&route.name));
        Ok(Some(RejectionGroup { word: word(&reject), meaning, route }))
    }
}

/// The result of verifying all requests.
#[derive(Default)]
struct CheckResult {
    requests: usize,
    rejected: BTreeMap<RejectionGroup, Vec<String>>,
    unreadable: usize,
}

/// Verifies the captured requests of a directory, or those that the gateway which runs with the
/// file `path` has kept.
pub(super) fn against(config: Config, path: &Path, captures: &Path) -> anyhow::Result<Status> {
    let mut checker = Checker::new(config)?;
    let mut tally = CheckResult::default();
    if captures == Path::new("-") {
        let address = match AdminAddress::of(path) {
            Ok(address) => address,
            Err(error) => return Ok(invalid(&error)),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the runtime")?;
        let mut client = runtime.block_on(AdminClient::connect(&address))?;
        let mut cursor = None;
        loop {
            let page = runtime.block_on(page(&mut client, cursor.as_deref()))?;
            for (id, received) in page.kept {
                let raw = runtime.block_on(client.get(&event_target(&id, "/export")))?;
                tally.add(&mut checker, &id, capture::parse(&raw), Some(received))?;
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
    } else {
        let files = match files(captures) {
            Ok(files) => files,
            Err(error) => return Ok(invalid(&error)),
        };
        for file in files {
            tally.add(
                &mut checker,
                &file.display().to_string(),
                capture::read(&file, None),
                None,
            )?;
        }
    }
    tally.print()
}

impl CheckResult {
    /// Verifies one request, at the time at which it was received or, if that is unknown, at its
    /// own timestamp.
    fn add(
        &mut self,
        checker: &mut Checker,
        name: &str,
        captured: anyhow::Result<Captured>,
        received: Option<UnixMillis>,
    ) -> anyhow::Result<()> {
        let captured = match captured {
            Ok(captured) => captured,
            Err(error) => {
                err!("error: {}: {}\n", visible(name), visible(&format!("{error:#}")));
                self.unreadable += 1;
                return Ok(());
            }
        };
        self.requests += 1;
        if let Some(rejection) = checker.rejection(&captured, received)? {
            self.rejected.entry(rejection).or_default().push(name.to_owned());
        }
        Ok(())
    }

    /// Prints what would be rejected, the most frequent reason first.
    fn print(&self) -> anyhow::Result<Status> {
        let rejected: usize = self.rejected.values().map(Vec::len).sum();
        out!("{} request(s) verified, {rejected} would be rejected\n", self.requests)?;
        let mut reasons: Vec<_> = self.rejected.iter().collect();
        reasons.sort_by_key(|(_, names)| std::cmp::Reverse(names.len()));
        for (RejectionGroup { word, meaning, route }, names) in reasons {
            let route = route.as_deref().unwrap_or("-");
            out!("\n{:>6}  {word}, route {route}: {meaning}\n", names.len())?;
            for name in names.iter().take(EXAMPLES) {
                out!("        {}\n", visible(name))?;
            }
            if names.len() > EXAMPLES {
                out!("        and {} more\n", names.len() - EXAMPLES)?;
            }
        }
        Ok(match (self.unreadable, rejected) {
            (0, 0) => Status::Success,
            (0, _) => Status::Failed,
            _ => Status::Invalid,
        })
    }
}

/// Returns the files of a directory, sorted, without hidden ones.
fn files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("{} cannot be read", dir.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !is_hidden && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// A page of events.
struct KeptPage {
    /// The IDs of those whose request was kept, with the time of its receipt.
    kept: Vec<(String, UnixMillis)>,
    next: Option<String>,
}

async fn page(client: &mut AdminClient, cursor: Option<&str>) -> anyhow::Result<KeptPage> {
    let query = [("limit", Some("1000")), ("cursor", cursor)];
    let page = client.json(&with_query("/api/v1/events", &query)).await?;
    let events = page["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    let kept = events.iter().filter(|event| event["has_request"] == true).filter_map(|event| {
        Some((event["id"].as_str()?.to_owned(), rfc3339(event["received"].as_str()?)?))
    });
    Ok(KeptPage { kept: kept.collect(), next: page["next"].as_str().map(str::to_owned) })
}
