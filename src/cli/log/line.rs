//! The format of log lines: one JSON object, and priorities for the journal of systemd.

use std::fmt::{self, Debug};

use serde_json::Value;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

/// The fields that are lists. Their values are written as JSON lists of strings.
const LISTS: [&str; 9] = [
    "https",
    "http",
    "admin",
    "routes_added",
    "routes_removed",
    "routes_changed",
    "sections",
    "secrets",
    "files",
];

/// A format, with the priority of the line before it if the journal reads it (sd-daemon(3)).
pub(super) struct Prioritized<F> {
    pub(super) for_journal: bool,
    pub(super) format: F,
}

impl<S, N, F> FormatEvent<S, N> for Prioritized<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.for_journal {
            writer.write_str(match *event.metadata().level() {
                Level::ERROR => "<3>",
                Level::WARN => "<4>",
                Level::INFO => "<6>",
                Level::DEBUG | Level::TRACE => "<7>",
            })?;
        }
        self.format.format_event(context, writer, event)
    }
}

/// A JSON object: time, level and message, then the fields.
pub(super) struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str("{\"timestamp\":\"")?;
        SystemTime.format_time(&mut writer)?;
        write!(writer, "\",\"level\":\"{}\"", event.metadata().level())?;
        let mut members = Members { writer: &mut writer, result: Ok(()) };
        event.record(&mut members);
        members.result?;
        writer.write_str("}\n")
    }
}

/// Writes fields as members of an object.
struct Members<'w, 'a> {
    writer: &'w mut Writer<'a>,
    result: fmt::Result,
}

impl Members<'_, '_> {
    fn write(&mut self, field: &Field, value: &Value) {
        let name = Value::from(field.name());
        self.result = self.result.and_then(|()| write!(self.writer, ",{name}:{value}"));
    }
}

impl Visit for Members<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        let list = LISTS.contains(&field.name()).then(|| serde_json::from_str(&text).ok());
        let list = list.flatten().filter(Value::is_array);
        self.write(field, &list.unwrap_or_else(|| Value::from(text)));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.write(field, &Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.write(field, &Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.write(field, &Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.write(field, &Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.write(field, &Value::from(value));
    }
}
