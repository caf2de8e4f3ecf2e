//! OpenAI Batch input files.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use forebay::batch::input::{Batch, BatchChoices};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let choices = BatchChoices { team: "default".to_owned(), ..BatchChoices::default() };
    let file = Path::new("in.jsonl");
    if let Ok(batch) = Batch::parse(file, Bytes::copy_from_slice(data), &choices) {
        for line in &batch.lines {
            assert!(batch.fingerprint(line).is_some());
            assert!(!batch.message(line).is_empty());
        }
        let known = BTreeMap::from([("gpt-4o-mini".to_owned(), BTreeSet::new())]);
        let _ = batch.check(file, Some(&known), 1 << 20);
    }
});
