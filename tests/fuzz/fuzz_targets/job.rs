//! Messages that may be jobs, on their way to the provider's wire.
#![no_main]

use forebay_schemas::Job;
use forebay_workers::provider::by_name;
use libfuzzer_sys::fuzz_target;

#[derive(serde::Deserialize)]
struct Sent {
    model: String,
}

fuzz_target!(|data: &[u8]| {
    let Ok(job) = Job::parse(data) else { return };
    let written = serde_json::to_vec(&job).expect("a job that was read can be written");
    let again = Job::parse(&written).expect("and read again");
    assert_eq!(job.fingerprint("pool"), again.fingerprint("pool"));
    assert_eq!(job.own_id(), again.own_id());
    let adapter = by_name("openai").expect("a known provider");
    adapter.admission_cost(&job, "gpt-4o-mini");
    if let Ok(request) = adapter.encode(&job, "gpt-4o-mini", "http://127.0.0.1/v1") {
        assert!(request.url.starts_with("http://127.0.0.1/v1/"), "{}", request.url);
        // Not as a value: a body may have numbers that only its provider can judge.
        let sent: Sent = serde_json::from_slice(&request.body).expect("JSON");
        assert_eq!(sent.model, "gpt-4o-mini");
    }
});
