//! Prometheus alerts and the Grafana dashboard: each alert fires when it should, and every query of
//! the dashboard returns data for a running gateway.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    kit::{Event, Program, Upstream, free_address, tool, until},
    observability::with_all_metrics,
};

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(file(path)).expect("readable")
}

/// Runs a command that must succeed; returns its output.
fn run(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{said}\n{error}");
    said
}

/// Returns the names of the metrics of sealgate and its process in a text.
fn named(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("sealgate_") || word.starts_with("process_"))
        .map(|word| word.trim_end_matches("_bucket").to_owned())
        .collect()
}

/// Collects the values of a key anywhere in the document.
fn values<'a>(document: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match document {
        Value::Object(members) => {
            for (name, value) in members {
                match value.as_str() {
                    Some(text) if name == key => found.push(text),
                    _ => values(value, key, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| values(item, key, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Returns the queries of the dashboard, as Grafana sends them.
fn queries() -> Vec<String> {
    let dashboard = serde_json::from_str(&read("grafana/sealgate.json")).expect("JSON");
    let mut found = Vec::new();
    values(&dashboard, "expr", &mut found);
    assert!(found.len() > 20, "the table is not empty");
    let sent = |query: &str| {
        query
            .replace("$__rate_interval", "1m")
            .replace("\"$job\"", "\".*\"")
            .replace("\"$route\"", "\".*\"")
    };
    let queries: Vec<_> = found.into_iter().map(sent).collect();
    assert!(queries.iter().all(|query| !query.contains('$')), "{queries:?}");
    queries
}

#[test]
fn every_alert_fires_only_when_it_should() {
    let (alerts, tests) = (read("prometheus/alerts.yml"), read("prometheus/alerts_test.yml"));
    let names: Vec<_> =
        alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 10, "the table is not empty");
    for name in names {
        let named = format!("alertname: {name}\n");
        let expected: Vec<_> = tests
            .split(&named)
            .skip(1)
            .filter_map(|rest| rest.lines().next().map(|line| line.trim() == "exp_alerts: []"))
            .collect();
        assert!(expected.contains(&true), "{name} is tested when it must not fire");
        assert!(expected.contains(&false), "{name} is tested when it must fire");
    }
    let Some(mut promtool) = tool("promtool") else { return };
    run(promtool.args(["test", "rules"]).arg(file("prometheus/alerts_test.yml")));
    let configuration = file("prometheus/prometheus.yml");
    run(Command::new("promtool").args(["check", "config"]).arg(configuration));
}

#[test]
fn every_alert_leads_to_a_section_about_it() {
    let alerts = read("prometheus/alerts.yml");
    let rules: Vec<_> = alerts.split("- alert: ").skip(1).collect();
    assert!(rules.len() > 10, "the table is not empty");
    for rule in rules {
        let name = rule.lines().next().expect("a name");
        let urls: Vec<_> =
            rule.lines().filter_map(|line| line.trim().strip_prefix("runbook_url: ")).collect();
        assert_eq!(urls.len(), 1, "{name}");
        // The package installs docs/ there.
        let place = urls[0].trim_matches('"').strip_prefix("file:///usr/share/doc/sealgate/");
        let (page, section) = place.and_then(|place| place.split_once('#')).expect("a section");
        let page = read(&format!("../docs/{page}"));
        let headings = page.lines().filter_map(|line| line.strip_prefix("## "));
        let sections: Vec<_> = headings.filter(|title| title.to_lowercase() == section).collect();
        assert_eq!(sections, [name], "{section}");
    }
}

#[tokio::test]
async fn alerts_and_dashboard_use_only_existing_metrics() {
    let upstream = Upstream::start().await;
    let gateway = with_all_metrics(&upstream);
    let page = gateway.admin("/metrics").await.text();
    let known: BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .map(str::to_owned)
        .collect();
    for text in [read("prometheus/alerts.yml"), queries().join("\n")] {
        let named = named(&text);
        assert!(named.len() > 8, "the table is not empty: {named:?}");
        let unknown: Vec<_> = named.difference(&known).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}

#[tokio::test]
async fn every_query_of_the_dashboard_returns_data() {
    let Some(mut prometheus) = tool("prometheus") else { return };
    let upstream = Upstream::start().await;
    let gateway = with_all_metrics(&upstream);
    let dir = gateway.dir.path();
    let mut rules = "groups:\n- name: dashboard\n  interval: 500ms\n  rules:\n".to_owned();
    let queries = queries();
    for (number, query) in queries.iter().enumerate() {
        let query = Value::from(query.as_str());
        rules.push_str(&format!("  - record: panel_{number}\n    expr: {query}\n"));
    }
    fs::write(dir.join("rules.yml"), rules).expect("written");
    run(Command::new("promtool").args(["check", "rules"]).arg(dir.join("rules.yml")));
    let configuration = format!(
        "global: {{scrape_interval: 200ms, evaluation_interval: 500ms}}\nrule_files: [rules.yml]\n\
         scrape_configs:\n- job_name: sealgate\n  static_configs: [{{targets: [\"{}\"]}}]\n",
        gateway.addresses().admin[0]
    );
    fs::write(dir.join("prometheus.yml"), configuration).expect("written");
    let address = free_address();
    let mut running = Program::silent(
        prometheus
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={address}"))
            .current_dir(dir),
    );
    running.listens(address).await;
    let server = format!("http://{address}");
    let shown = || async {
        assert_eq!(gateway.send(&Event::default()).await.status, 200);
        let forged = Event { secret: "not-the-secret-at-all".into(), ..Event::default() };
        assert_eq!(gateway.send(&forged).await.status, 401);
        let every = "count by (__name__) ({__name__=~\"panel_.*\"})";
        let answer = Command::new("promtool").args(["query", "instant", &server, every]).output();
        let answer = String::from_utf8(answer.expect("it runs").stdout).expect("text");
        let missing = |number: &usize| !answer.contains(&format!("panel_{number} =>"));
        (0..queries.len()).filter(missing).collect::<Vec<_>>()
    };
    let missing = std::sync::Mutex::new(Vec::new());
    let all = || async {
        let now = shown().await;
        let done = now.is_empty();
        *missing.lock().expect("not poisoned") = now;
        done
    };
    let waited = tokio::time::timeout(crate::kit::PATIENCE, until("every query shows", all)).await;
    assert!(waited.is_ok(), "{missing:?} of {queries:#?}");
}
