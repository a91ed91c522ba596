//! The configuration parser: no text makes it panic, and every rejection has a reason.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sealgate::internals::config;

fuzz_target!(|text: &str| read(text));

fn read(text: &str) {
    match config::parse("gateway.toml", text, Path::new("/nonexistent"), &|_| None) {
        Ok((_, report)) => assert!(!report.is_fatal()),
        Err(report) => {
            assert!(report.is_fatal());
            assert!(!report.to_string().is_empty());
        }
    }
}
