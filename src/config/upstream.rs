//! The keys of a route that say where events go.

use std::{ops::RangeInclusive, time::Duration};

use http::HeaderValue;

use super::{limits::Limits, not_empty};
use crate::{
    document::{Field, Section, show_duration},
    forward::{HostPolicy, Origin, UpstreamOptions},
};

/// The usual patience with an upstream.
const TIMEOUT: Duration = Duration::from_secs(30);
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);

/// Reads the upstream's keys; `answer_within` is the route's, if it is known.
pub(super) fn read(
    section: &Section<'_>,
    limits: &Limits,
    answer_within: Option<Duration>,
) -> Option<UpstreamOptions> {
    let field = section.require("upstream");
    let origins = field.as_ref().map(origins).unwrap_or_default();
    let host = section.get("upstream_host").map(|field| host(&field));
    let timeout = match section.get("upstream_timeout") {
        Some(field) => timeout(&field, answer_within),
        None => Some(TIMEOUT.max(answer_within.unwrap_or_default())),
    };
    if origins.is_empty() {
        return None;
    }
    Some(UpstreamOptions {
        origins,
        host: host.unwrap_or(Some(HostPolicy::Preserve))?,
        timeout: timeout?,
        idle: limits.upstream_idle,
        answer_bytes: limits.upstream_body,
        answer_head_bytes: limits.upstream_head,
    })
}

fn origins(field: &Field<'_>) -> Vec<Origin> {
    let items = field.items();
    if items.is_empty() {
        field.error("`route.upstream` has no address", None);
    }
    let mut origins: Vec<Origin> = Vec::new();
    for item in &items {
        let Some(text) = item.text() else { continue };
        let help = "write http://host:port, with or without a path".to_owned();
        if text.contains('@') {
            item.conceal();
            item.error("the address of an upstream holds no user and no password", Some(help));
            continue;
        }
        match text.parse::<Origin>() {
            Ok(origin) if origins.contains(&origin) => {
                item.error(format!("`{text}` is listed twice"), None);
            }
            Ok(origin) => origins.push(origin),
            Err(error) => item.error(error, Some(help)),
        }
    }
    origins
}

fn host(field: &Field<'_>) -> Option<HostPolicy> {
    let text = not_empty(field)?;
    match text.as_str() {
        "preserve" => Some(HostPolicy::Preserve),
        "upstream" => Some(HostPolicy::Upstream),
        name => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
            let value = HeaderValue::from_str(name).ok().filter(|_| name.bytes().all(plain));
            if value.is_none() {
                let help = "upstream_host = \"preserve\", \"upstream\" or \"app.internal\"";
                let what = format!("`{name}` is no name of a host");
                field.error(what, Some(help.to_owned()));
            }
            value.map(HostPolicy::Name)
        }
    }
}

fn timeout(field: &Field<'_>, answer_within: Option<Duration>) -> Option<Duration> {
    let timeout = field.duration_within(TIMEOUTS)?;
    if let Some(answer_within) = answer_within
        && timeout < answer_within
    {
        let wait = show_duration(answer_within);
        let help = format!("the sender waits for {wait}: an answer in that time still counts");
        field.warning("`upstream_timeout` is shorter than `answer_within`", Some(help));
    }
    Some(timeout)
}
