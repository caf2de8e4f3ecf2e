//! Ids and subjects: whatever an id holds, its subject has the tokens that it should have.
#![no_main]

use forebay_schemas::job::is_id;
use forebay_schemas::{Names, flow};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let names = Names::default();
    for subject in is_id(text).then(|| [names.completion("team", None, text), names.scheduled("team", Some("batch"), text)]).into_iter().flatten() {
        assert_eq!(subject.split('.').count(), 5, "{subject}");
        assert!(subject.split('.').all(|token| !token.is_empty() && token.is_ascii()), "{subject}");
        assert!(!subject.contains(['*', '>', ' ', '\r', '\n', '\t']), "{subject}");
    }
    let pool = flow::pool_of_model(text);
    assert!(pool.is_empty() || pool.len() > 64 || pool == "_" || flow::is_name(&pool), "{pool}");
    if let Some(flow) = names.flow_of(text) {
        let consumer = names.consumer(&flow);
        assert!(!consumer.contains(['.', '*', '>', ' ', '/']), "{consumer}");
    }
});
