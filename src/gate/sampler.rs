//! Sampling of the log lines that anybody can cause, so that writing the log never costs much more
//! than sending the requests.
//!
//! Limits: a configured number of lines per second for each client network, and [`NETWORKS`]
//! networks per second. The requests beyond that are counted in one line per second; the metrics
//! count all of them.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use crate::metrics::DroppedLine;

/// The lines per second for one network, until the configuration says otherwise.
const LINES: u32 = 4;
/// The most networks that get lines of their own in one second.
const NETWORKS: usize = 64;

/// Decides which lines are written.
pub(super) struct Sampler {
    began: Instant,
    /// The most lines per second for one network.
    lines: AtomicU32,
    current: Mutex<Second>,
}

/// The lines of one second.
#[derive(Default)]
struct Second {
    number: u64,
    lines: HashMap<IpAddr, u32>,
    omitted: u64,
}

impl Sampler {
    pub(super) fn new() -> Self {
        Sampler { began: Instant::now(), lines: AtomicU32::new(LINES), current: Mutex::default() }
    }

    /// Sets the most lines per second for one network.
    pub(super) fn set_lines(&self, lines: u32) {
        self.lines.store(lines, Ordering::Relaxed);
    }

    /// Returns whether a line about a request from `client` is written, and counts it if not.
    pub(super) fn admits(&self, client: IpAddr) -> bool {
        let number = self.began.elapsed().as_secs();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let omitted = current.advance(number);
        let is_admitted = current.admits(network(client), self.lines.load(Ordering::Relaxed));
        drop(current);
        report(omitted);
        is_admitted
    }

    /// Logs how many lines were omitted, unless the current second is not over yet.
    pub(super) fn flush(&self) {
        let number = self.began.elapsed().as_secs();
        let omitted = self.current.lock().unwrap_or_else(PoisonError::into_inner).advance(number);
        report(omitted);
    }
}

impl Second {
    /// Moves on to another second, and returns how many lines were omitted before it.
    fn advance(&mut self, number: u64) -> u64 {
        if self.number == number {
            return 0;
        }
        self.number = number;
        self.lines.clear();
        std::mem::take(&mut self.omitted)
    }

    fn admits(&mut self, network: IpAddr, most: u32) -> bool {
        let has_space = self.lines.len() < NETWORKS;
        let is_admitted = match self.lines.get_mut(&network) {
            Some(lines) if *lines < most => {
                *lines += 1;
                true
            }
            None if has_space && most > 0 => {
                self.lines.insert(network, 1);
                true
            }
            Some(_) | None => false,
        };
        self.omitted += u64::from(!is_admitted);
        is_admitted
    }
}

fn report(omitted: u64) {
    if omitted > 0 {
        DroppedLine::Sampled.count(omitted);
        tracing::info!(requests = omitted, "more requests without a verified sender, not logged");
    }
}

/// Returns the network of a client: its IPv4 address, or the /56 of its IPv6 address.
fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(six) => Ipv6Addr::from_bits(six.to_bits() >> 72 << 72).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_has_its_lines_and_the_rest_is_counted() {
        let mut second = Second::default();
        let address = |text: &str| network(text.parse().expect("an address"));
        let admitted = |second: &mut Second, text: &str, times: u32| {
            (0..times).filter(|_| second.admits(address(text), LINES)).count()
        };
        assert_eq!(admitted(&mut second, "192.0.2.1", 10), 4);
        assert_eq!(admitted(&mut second, "192.0.2.2", 3), 3);
        assert_eq!(admitted(&mut second, "2001:db8:0:1::1", 3), 3);
        assert_eq!(admitted(&mut second, "2001:db8:0:ff::1", 3), 1, "the same /56");
        assert_eq!(admitted(&mut second, "2001:db8:0:100::1", 1), 1);
        assert_eq!((second.advance(0), second.advance(1), second.advance(1)), (0, 8, 0));
        assert_eq!(admitted(&mut second, "192.0.2.1", 10), 4);
    }

    #[test]
    fn the_lines_of_a_second_are_bounded_for_all_networks_together() {
        let mut second = Second::default();
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        let admitted = (0..100_000).filter(|number| second.admits(address(number % 10_000), LINES));
        assert_eq!(admitted.count(), NETWORKS * LINES as usize);
        assert_eq!(second.lines.len(), NETWORKS);
    }
}
