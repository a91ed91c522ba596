//! `[limits]`: limits of connections, requests and upstream responses.

use std::{ops::RangeInclusive, time::Duration};

use crate::{document::Section, server};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Outside this range, the unit is a mistake.
const TIMES: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);

/// All limits, with the defaults of those that the file does not set.
pub(super) struct LimitsSection {
    /// Maximum length of a body; `None`: the scheme's.
    pub(super) body: Option<u64>,
    /// Timeout of receiving a body.
    pub(super) request_body: Duration,
    /// Bytes of all bodies held concurrently.
    pub(super) memory: u64,
    pub(super) server: server::Limits,
    /// How long an idle upstream connection is kept.
    pub(super) upstream_idle: Duration,
    /// Maximum length of an upstream response's body.
    pub(super) upstream_body: u64,
    /// Maximum length of an upstream response's head.
    pub(super) upstream_head: usize,
}

impl LimitsSection {
    pub(super) fn read(section: Option<Section<'_>>) -> Self {
        let mut limits = LimitsSection {
            body: None,
            request_body: Duration::from_secs(15),
            memory: 128 * MIB,
            server: server::Limits {
                connections: 10_000,
                requests: 10_000,
                address_share: 25,
                first_request: Duration::from_secs(10),
                head: Duration::from_secs(10),
                idle: Duration::from_secs(75),
                write: Duration::from_secs(15),
                queue_time: Duration::from_secs(1),
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
        let size = |key: &'static str, range, target: &mut u64| {
            if let Some(bytes) = section.get(key).and_then(|field| field.size_within(range)) {
                *target = bytes;
            }
        };
        self.body = section.get("body").and_then(|field| field.size_within(1..=GIB));
        size("memory", 64 * KIB..=64 * GIB, &mut self.memory);
        size("upstream_body", 1..=GIB, &mut self.upstream_body);

        // hyper accepts no buffer under 8 KiB.
        let head = |key: &'static str, target: &mut usize| {
            let field = section.get(key);
            let bytes = field.and_then(|field| field.size_within(8 * KIB..=MIB));
            if let Some(bytes) = bytes.and_then(|bytes| usize::try_from(bytes).ok()) {
                *target = bytes;
            }
        };
        head("head_bytes", &mut self.server.head_bytes);
        head("upstream_head", &mut self.upstream_head);

        let time = |key: &'static str, target: &mut Duration| {
            if let Some(time) = section.get(key).and_then(|field| field.duration_within(TIMES)) {
                *target = time;
            }
        };
        time("first_request", &mut self.server.first_request);
        time("head", &mut self.server.head);
        time("idle", &mut self.server.idle);
        time("response", &mut self.server.write);
        time("queue_time", &mut self.server.queue_time);
        time("request_body", &mut self.request_body);
        time("upstream_idle", &mut self.upstream_idle);

        let count = |key: &'static str, most: u64, target: &mut usize| {
            let field = section.get(key);
            let count = field.and_then(|field| field.integer(1..=most));
            if let Some(count) = count.and_then(|count| usize::try_from(count).ok()) {
                *target = count;
            }
        };
        count("connections", 10_000_000, &mut self.server.connections);
        count("requests", 10_000_000, &mut self.server.requests);
        let share = section.get("address_share").and_then(|field| field.integer(1..=100));
        self.server.address_share = share.unwrap_or(self.server.address_share);
        count("headers", 1000, &mut self.server.headers);
        count("resets", 1000, &mut self.server.resets);
        let streams = section.get("streams").and_then(|field| field.integer(1..=1000));
        if let Some(streams) = streams.and_then(|count| u32::try_from(count).ok()) {
            self.server.streams = streams;
        }
    }
}
