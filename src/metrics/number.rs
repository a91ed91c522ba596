//! Numbers without a name: plain atomics, so that counting is one addition.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the current value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that increases and decreases.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Subtracts one.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sets the value.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Returns the current value.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The bounds of histograms of durations, in seconds.
pub(super) const SECONDS: [f64; 17] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 30.0,
];
/// The bounds of the histogram of clock differences, in seconds.
pub(super) const SKEW: [f64; 11] =
    [-300.0, -60.0, -5.0, -1.0, 0.0, 1.0, 5.0, 60.0, 180.0, 300.0, 3600.0];

/// The bounds of the histogram of delays until delivery, in seconds.
pub(super) const DELAYS: [f64; 12] =
    [0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 900.0, 3600.0, 21_600.0, 86_400.0];

/// One more than the most bounds: the last bucket is for values above all of them.
const BUCKETS: usize = SECONDS.len() + 1;

/// A histogram of seconds.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    buckets: [AtomicU64; BUCKETS],
    /// In microseconds: an integer is added atomically, and overflows after 290,000 years.
    sum: AtomicI64,
}

impl Histogram {
    /// Returns an empty histogram with at most as many bounds as [`SECONDS`].
    pub(super) const fn new(bounds: &'static [f64]) -> Self {
        Histogram {
            bounds,
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            sum: AtomicI64::new(0),
        }
    }

    /// Counts a value.
    pub fn observe(&self, seconds: f64) {
        let bucket = self.bounds.iter().position(|bound| seconds <= *bound);
        self.buckets[bucket.unwrap_or(self.bounds.len())].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add((seconds * 1e6).round() as i64, Ordering::Relaxed);
    }

    /// Returns how many values were at most each bound, and finally how many there were.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = u64> {
        self.buckets[..=self.bounds.len()].iter().scan(0_u64, |total, bucket| {
            *total += bucket.load(Ordering::Relaxed);
            Some(*total)
        })
    }

    /// Returns the sum of all values, in seconds.
    pub(super) fn sum(&self) -> f64 {
        self.sum.load(Ordering::Relaxed) as f64 / 1e6
    }
}
