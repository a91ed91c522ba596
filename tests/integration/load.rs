//! What a client may cost, and what many cost together. Each of these runs for some seconds here and
//! as long as it should from a script (`scripts/load`).

mod attacks;
mod files;
mod frames;
mod greedy;
mod overload;
mod slow;
mod soak;

use tokio::sync::Mutex;

/// Held by whoever measures, so that these do not disturb each other.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A number from the environment, for longer runs.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}
