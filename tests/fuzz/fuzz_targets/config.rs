//! Configurations.
#![no_main]

use forebay::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Config::parse(text) {
        Ok(config) => drop(format!("{config:?}")),
        Err(mistakes) => assert!(!mistakes.to_string().is_empty()),
    }
});
