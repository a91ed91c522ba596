//! What a client may cost, and what many cost together. Each of these runs for some seconds here and
//! as long as it should from a script (`scripts/load`).

mod files;
mod frames;
mod greedy;
mod overload;
mod soak;

/// A number from the environment, for longer runs.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}
