//! `[limits]`: what a connection, a request and an upstream's answer may cost.

use std::time::Duration;

use crate::{document::Section, server};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Every limit, with its default where the file is silent.
pub(super) struct Limits {
    /// The longest body; `None`: the scheme knows.
    pub(super) body: Option<u64>,
    /// How long a body may take to arrive.
    pub(super) request_body: Duration,
    /// Bytes that all bodies may hold at one time.
    pub(super) memory: u64,
    pub(super) server: server::Limits,
    /// How long an unused upstream connection is kept.
    pub(super) upstream_idle: Duration,
    /// The longest body of an upstream's answer.
    pub(super) upstream_body: u64,
    /// The longest head of an upstream's answer.
    pub(super) upstream_head: usize,
}

impl Limits {
    pub(super) fn read(section: Option<Section<'_>>) -> Self {
        let mut limits = Limits {
            body: None,
            request_body: Duration::from_secs(15),
            memory: 128 * MIB,
            server: server::Limits {
                connections: 10_000,
                first_request: Duration::from_secs(10),
                head: Duration::from_secs(10),
                idle: Duration::from_secs(75),
                write: Duration::from_secs(15),
                head_bytes: 32 << 10,
                headers: 100,
                streams: 32,
                resets: 20,
            },
            upstream_idle: Duration::from_secs(2),
            upstream_body: MIB,
            upstream_head: 64 << 10,
        };
        if let Some(section) = section {
            limits.read_from(&section);
            section.finish();
        }
        limits
    }

    fn read_from(&mut self, section: &Section<'_>) {
        let size = |key: &'static str, target: &mut u64| {
            if let Some(bytes) = section.get(key).and_then(|field| field.size()) {
                *target = bytes;
            }
        };
        size("memory", &mut self.memory);
        size("upstream_body", &mut self.upstream_body);
        self.body = section.get("body").and_then(|field| field.size());

        // hyper takes no buffer under 8 KiB.
        let head_size = |key: &'static str, target: &mut usize| {
            let Some(field) = section.get(key) else { return };
            match field.size() {
                Some(bytes) if (8 * KIB..=MIB).contains(&bytes) => {
                    *target = usize::try_from(bytes).unwrap_or(*target);
                }
                Some(_) => field.error(format!("`{}` must be 8KiB to 1MiB", field.path()), None),
                None => {}
            }
        };
        head_size("head_bytes", &mut self.server.head_bytes);
        head_size("upstream_head", &mut self.upstream_head);

        let time = |key: &'static str, target: &mut Duration| {
            let Some(field) = section.get(key) else { return };
            match field.duration() {
                Some(time) if time.is_zero() => {
                    field.error(format!("`{}` must be longer than nothing", field.path()), None);
                }
                Some(time) => *target = time,
                None => {}
            }
        };
        time("first_request", &mut self.server.first_request);
        time("head", &mut self.server.head);
        time("idle", &mut self.server.idle);
        time("response", &mut self.server.write);
        time("request_body", &mut self.request_body);
        time("upstream_idle", &mut self.upstream_idle);

        let count = |key: &'static str, most: u64, target: &mut usize| {
            if let Some(count) = section.get(key).and_then(|field| field.integer(1..=most)) {
                *target = usize::try_from(count).unwrap_or(*target);
            }
        };
        count("connections", 10_000_000, &mut self.server.connections);
        count("headers", 1000, &mut self.server.headers);
        count("resets", 1000, &mut self.server.resets);
        let mut streams = 32;
        count("streams", 1000, &mut streams);
        self.server.streams = u32::try_from(streams).unwrap_or(u32::MAX);
    }
}
