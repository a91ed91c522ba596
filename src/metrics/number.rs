//! What is counted, without its name: plain atomics, so that counting is one addition.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one more.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that rises and falls.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// One more.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// From now on this number.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The bounds of histograms of times that something took, in seconds.
pub(super) const SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0];
/// The bounds of the histogram of the difference between two clocks, in seconds.
pub(super) const SKEW: [f64; 11] =
    [-300.0, -60.0, -5.0, -1.0, 0.0, 1.0, 5.0, 60.0, 180.0, 300.0, 3600.0];

/// One more than the most bounds: the last one takes what is over all of them.
const BUCKETS: usize = SECONDS.len() + 1;

/// How many seconds fell between which bounds, and their sum.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    buckets: [AtomicU64; BUCKETS],
    /// In microseconds; an integer is added to in one step, and takes 290,000 years.
    sum: AtomicI64,
}

impl Histogram {
    /// A histogram with nothing in it; there are at most as many bounds as in [`SECONDS`].
    pub(super) const fn new(bounds: &'static [f64]) -> Self {
        Histogram {
            bounds,
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            sum: AtomicI64::new(0),
        }
    }

    /// Takes note of so many seconds.
    pub fn observe(&self, seconds: f64) {
        let bucket = self.bounds.iter().position(|bound| seconds <= *bound);
        self.buckets[bucket.unwrap_or(self.bounds.len())].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add((seconds * 1e6).round() as i64, Ordering::Relaxed);
    }

    /// How many were at most as much as each bound, and last how many there were.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = u64> {
        self.buckets[..=self.bounds.len()].iter().scan(0_u64, |total, bucket| {
            *total += bucket.load(Ordering::Relaxed);
            Some(*total)
        })
    }

    /// The sum, in seconds.
    pub(super) fn sum(&self) -> f64 {
        self.sum.load(Ordering::Relaxed) as f64 / 1e6
    }
}
