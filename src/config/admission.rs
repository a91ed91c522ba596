//! `allow` and the rate limits of a route: which clients may call, and how often.

use std::{net::IpAddr, num::NonZeroU32, ops::RangeInclusive, time::Duration};

use ipnet::IpNet;

use crate::{
    document::{Field, Section},
    route::{AdmissionOptions, Rate},
    upstream::Networks,
};

/// Within these bounds, no interval is shorter than a nanosecond and no burst overflows the clock.
const REQUESTS: RangeInclusive<u64> = 1..=1_000_000;
const PERIODS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);

/// Reads the admission rules of a route, and reports their problems.
pub(super) fn read(section: &Section<'_>) -> AdmissionOptions {
    let rate = |key| section.get(key).and_then(|field| rate(&field));
    let allow = section.get("allow").map(|field| {
        if field.items().is_empty() {
            let help = "remove the key to admit all clients".to_owned();
            field.error(format!("`{}` admits no client", field.path()), Some(help));
        }
        networks(&field, |field, text| {
            field.warning(format!("`{text}` admits every client"), Some("remove it".to_owned()));
        })
    });
    AdmissionOptions {
        allow,
        rate: rate("rate_limit"),
        rate_per_address: rate("rate_limit_per_address"),
    }
}

/// Reads `{ requests = 100, per = "1s", burst = 200 }`. The default of `burst` is `requests`.
fn rate(field: &Field<'_>) -> Option<Rate> {
    if !field.is_table() {
        let help = format!("{} = {{ requests = 100, per = \"1s\" }}", last(field.path()));
        field.error(format!("`{}` must be a table", field.path()), Some(help));
        return None;
    }
    let section = field.section()?;
    let number = |field: Field<'_>| {
        let number = u32::try_from(field.integer(REQUESTS)?).ok();
        number.and_then(NonZeroU32::new)
    };
    let requests = section.require("requests").and_then(number);
    let per_field = section.require("per");
    let per = per_field.as_ref().and_then(|field| field.duration_within(PERIODS));
    let burst = section.get("burst").map(number);
    section.finish();
    let requests = requests?;
    Some(Rate { burst: burst.unwrap_or(Some(requests))?, interval: per? / requests.get() })
}

fn last(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, last)| last)
}

/// Reads one network or address, or a list of them. Calls `on_all` for one that contains every
/// address.
pub(super) fn networks(field: &Field<'_>, on_all: impl Fn(&Field<'_>, &str)) -> Networks {
    let network = |field: Field<'_>| {
        let text = field.text()?;
        let parsed = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok();
        match parsed {
            None => {
                let help = "write a network or an address: 10.0.0.0/8, 2001:db8::/32, 192.0.2.7";
                field.error(format!("`{text}` is not a network"), Some(help.to_owned()));
            }
            Some(network) if network.prefix_len() == 0 => on_all(&field, &text),
            Some(network) if network.addr() != network.network() => {
                let (whole, one) = (network.trunc(), network.addr());
                let help = format!("write {whole} for the network, or {one} for the one address");
                field.warning(format!("`{text}` means {whole}"), Some(help));
            }
            Some(_) => {}
        }
        parsed
    };
    Networks::new(field.items().into_iter().filter_map(network))
}
