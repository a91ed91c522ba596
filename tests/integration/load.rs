//! What one client costs, and what many cost together. Each test runs for a few seconds here, and
//! for as long as its target requires from `scripts/load`.

mod attacks;
mod files;
mod frames;
mod greedy;
mod overload;
mod slow;
mod soak;

use tokio::sync::Mutex;

/// Held while a test measures, so that measurements do not disturb each other.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Reads a number from the environment, for longer runs.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}
