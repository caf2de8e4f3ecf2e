//! Ids and subjects: whatever an id holds, its subject has the tokens that it should have.
#![no_main]

use forebay_schemas::{Names, subjects};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let names = Names::default();
    for subject in [names.completion("team", None, text), names.later("team", Some("batch"), text)] {
        assert_eq!(subject.split('.').count(), 5, "{subject}");
        assert!(subject.split('.').all(|token| !token.is_empty() && token.is_ascii()), "{subject}");
        assert!(!subject.contains(['*', '>', ' ', '\r', '\n', '\t']), "{subject}");
    }
    assert!(subjects::is_name(&subjects::pool_of_model(text)) || text.is_empty() || text.len() > 64);
    if let Some(flow) = names.flow_of(text) {
        let consumer = names.consumer(&flow);
        assert!(!consumer.contains(['.', '*', '>', ' ', '/']), "{consumer}");
    }
});
