//! `sealgate events secrets`: when each secret was last used.

use serde_json::{Value, json};

use crate::{
    cli::{
        Status,
        admin_client::AdminClient,
        err, now, out, rfc3339,
        text::{span, table, visible, visible_json},
    },
    scheme::UnixMillis,
};

/// For how long another secret of the same key must have been used alone, in seconds.
const UNUSED: i64 = 24 * 60 * 60;

/// Prints when each secret was last used.
pub(super) async fn secrets(
    client: &mut AdminClient,
    route: Option<&str>,
    json: bool,
) -> anyhow::Result<Status> {
    let response = client.json("/api/v1/routes").await?;
    let routes = response["routes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let wanted = |name: &Value| route.is_none_or(|route| name == route);
    let routes: Vec<_> = routes.iter().filter(|route| wanted(&route["name"])).collect();
    if let (Some(route), true) = (route, routes.is_empty()) {
        err!("error: no route has the name `{}`\n", visible(route));
        return Ok(Status::Failed);
    }
    let now = now();
    let mut rows = Vec::new();
    for route in routes {
        let secrets = route["secrets"].as_array().map(Vec::as_slice).unwrap_or_default();
        for secret in secrets {
            if json {
                let line = json!({
                    "route": route["name"],
                    "key": secret["key"],
                    "secret": secret["secret"],
                    "last_used": secret["last_used"],
                });
                out!("{}\n", visible_json(&line.to_string()))?;
            }
            let others = secrets.iter().filter(|other| other["key"] == secret["key"]);
            rows.push(row(route, secret, others, now));
        }
    }
    if !json {
        out!("{}", table(&["ROUTE", "KEY", "SECRET", "LAST USED"], &rows, &[0, 1, 3]))?;
    }
    Ok(Status::Success)
}

/// Returns a secret as a row of the table. `all` are the secrets of its key.
fn row<'s>(
    route: &Value,
    secret: &Value,
    all: impl Iterator<Item = &'s Value>,
    now: UnixMillis,
) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let used = |secret: &Value| rfc3339(secret["last_used"].as_str().unwrap_or(""));
    let newest = all.filter_map(used).max();
    let advice = match (used(secret), newest) {
        (None, Some(_)) => "not since the start: remove it if no sender uses it".to_owned(),
        (None, None) => "not since the start".to_owned(),
        (Some(at), newest) => {
            let ago = span((now.0 - at.0) / 1000);
            let is_old = newest.is_some_and(|newest| newest.0 - at.0 >= UNUSED * 1000);
            if is_old { format!("{ago} ago: remove it") } else { format!("{ago} ago") }
        }
    };
    vec![text(&route["name"]), text(&secret["key"]), secret["secret"].to_string(), advice]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unused_secret_is_to_be_removed_only_if_another_one_is_used() {
        let now = rfc3339("2026-01-10T00:00:00Z").expect("a time");
        let secret = |position: u8, used: Option<&str>| json!({ "key": "global", "secret": position, "last_used": used });
        let advice = |secrets: &[Value]| {
            let row = |secret| row(&json!({ "name": "a" }), secret, secrets.iter(), now);
            secrets.iter().map(|secret| row(secret)[3].clone()).collect::<Vec<_>>()
        };
        let new = secret(1, Some("2026-01-09T23:59:48Z"));
        let old = secret(2, Some("2026-01-07T00:00:00Z"));
        assert_eq!(advice(&[new.clone(), old.clone()]), ["12s ago", "3d ago: remove it"]);
        assert_eq!(advice(&[old]), ["3d ago"]);
        assert_eq!(advice(&[secret(1, None)]), ["not since the start"]);
        let unused = "not since the start: remove it if no sender uses it";
        assert_eq!(advice(&[new, secret(2, None)]), ["12s ago", unused]);
    }
}
