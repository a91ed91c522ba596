//! The keys of a route that configure the delivery and the history of its events.

use std::{ops::RangeInclusive, time::Duration};

use crate::{
    document::{Field, Section},
    events::{DeliveryMode, DeliveryOptions, HistoryMode, RetryOptions},
    route::Mode,
    scheme::{ValueSelector, Verifier},
};

const TIMES: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(366 * 86_400);

/// The keys as far as they can be read without the scheme.
pub(super) struct DeliverySection<'r> {
    mode: DeliveryMode,
    history: HistoryMode,
    forwards_duplicates: bool,
    order_by: Option<ValueSelector>,
    resign: Option<Field<'r>>,
    retry: RetryOptions,
}

/// Reads the keys; `None` if a problem was recorded. `has_store` is whether there is an event
/// store.
pub(super) fn read<'r>(
    section: &Section<'r>,
    mode: Mode,
    has_store: bool,
) -> Option<DeliverySection<'r>> {
    let mode_field = section.get("delivery");
    let words = [
        ("sync", DeliveryMode::Sync),
        ("async", DeliveryMode::Async),
        ("fallback", DeliveryMode::Fallback),
    ];
    let delivery = mode_field.as_ref().map(|field| field.one_of(&words));
    let is_known = delivery != Some(None);
    let delivery = delivery.flatten();
    let stores = delivery.is_some_and(|mode| mode != DeliveryMode::Sync);
    if let Some(field) = mode_field.as_ref().filter(|_| stores && !has_store) {
        let help = "add [events] with path = \"data/events\"".to_owned();
        field.error("this `delivery` needs an event store", Some(help));
    }
    if let Some(field) = mode_field.as_ref().filter(|_| stores && mode == Mode::Observe) {
        let help = "it takes effect with mode = \"enforce\"".to_owned();
        field.warning("an observing route delivers synchronously", Some(help));
    }
    let history_field = section.get("history");
    let words = [
        ("off", HistoryMode::Off),
        ("metadata", HistoryMode::Metadata),
        ("full", HistoryMode::Full),
    ];
    let history = history_field.as_ref().map(|field| field.one_of(&words));
    let is_known = is_known && history != Some(None);
    let history = history.flatten();
    if let Some(field) = &history_field {
        if history != Some(HistoryMode::Off) && !has_store {
            let help = "add [events] with path = \"data/events\"".to_owned();
            field.error("a history needs an event store", Some(help));
        }
        if history == Some(HistoryMode::Off) && delivery == Some(DeliveryMode::Async) {
            let help = "events that are delivered from the store are always kept".to_owned();
            field.error("`history = \"off\"` contradicts `delivery = \"async\"`", Some(help));
        }
    }
    let forwards_duplicates = match section.get("duplicates") {
        Some(field) => field.one_of(&[("acknowledge", false), ("forward", true)]),
        None => Some(false),
    };
    let order_by = match section.get("order_by") {
        Some(field) => order(&field, delivery).map(Some),
        None => Some(None),
    };
    let usual = if has_store { HistoryMode::Metadata } else { HistoryMode::Off };
    let (resign, retry) = (section.get("resign"), retry(section.get("retry")));
    is_known.then_some(())?;
    Some(DeliverySection {
        mode: delivery.unwrap_or(DeliveryMode::Sync),
        history: history.unwrap_or(usual),
        forwards_duplicates: forwards_duplicates?,
        order_by: order_by?,
        resign,
        retry: retry?,
    })
}

fn order(field: &Field<'_>, delivery: Option<DeliveryMode>) -> Option<ValueSelector> {
    let text = field.text()?;
    if delivery != Some(DeliveryMode::Async) {
        let help = "only stored events can be delivered in order".to_owned();
        field.error("`order_by` needs `delivery = \"async\"`", Some(help));
    }
    let selector = ValueSelector::parse(&text);
    selector.map_err(|(problem, help)| field.error(problem, help)).ok()
}

/// Reads `[route.retry]`.
fn retry(field: Option<Field<'_>>) -> Option<RetryOptions> {
    let usual = RetryOptions {
        first: Duration::from_secs(5),
        max: Duration::from_secs(3600),
        lasts: Duration::from_secs(72 * 3600),
    };
    let Some(field) = field else { return Some(usual) };
    let section = field.section()?;
    let time = |key: &'static str, usual: Duration| match section.get(key) {
        Some(field) => field.duration_within(TIMES),
        None => Some(usual),
    };
    let first = time("first", usual.first);
    let max = match section.get("max") {
        Some(field) => field.duration_within(TIMES),
        None => first.map(|first| usual.max.max(first)),
    };
    let lasts = time("for", usual.lasts);
    section.finish();
    let retry = RetryOptions { first: first?, max: max?, lasts: lasts? };
    if retry.max < retry.first {
        field.error("`retry.max` is shorter than `retry.first`", None);
    }
    Some(retry)
}

impl DeliverySection<'_> {
    /// Returns the options, with the defaults that depend on the scheme; `None` if a problem was
    /// recorded.
    pub(super) fn options(self, verifier: &Verifier) -> Option<DeliveryOptions> {
        let can_resign = verifier.can_resign();
        let resigns = match &self.resign {
            Some(field) => field.boolean()?,
            None => can_resign,
        };
        if let Some(field) = self.resign.as_ref().filter(|_| resigns && !can_resign) {
            let help = "remove `resign`, or turn the handler's own check off".to_owned();
            let what = "requests of this scheme cannot be signed again";
            field.error(what, Some(help));
        }
        Some(DeliveryOptions {
            mode: self.mode,
            history: self.history,
            forwards_duplicates: self.forwards_duplicates,
            order_by: self.order_by,
            resigns,
            retry: self.retry,
        })
    }
}
