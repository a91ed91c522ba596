//! The scheme compiler: no text panics.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sealgate::scheme::Scheme;

fuzz_target!(|text: &str| {
    if let Err(report) = Scheme::parse("fuzz.toml", text) {
        assert!(report.is_fatal());
        let _ = report.to_string();
    }
});
