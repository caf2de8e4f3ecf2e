//! Messages that may be jobs, on their way to the provider's wire.
#![no_main]

use forebay_schemas::Job;
use forebay_providers::Endpoint;
use forebay_providers::registry::providers;
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
    for provider in providers() {
        let endpoint = Endpoint::new(provider, "http://host/base");
        endpoint.admission_cost(&job, "gpt-4o-mini");
        let refused = endpoint.refusal(&job, "gpt-4o-mini");
        let Ok(request) = endpoint.encode(&job, "gpt-4o-mini") else { continue };
        assert!(refused.is_none(), "{refused:?}");
        assert!(request.url.starts_with("http://host/base/"), "{}", request.url);
        if provider.name == "openai" && request.headers["content-type"] == "application/json" {
            // Not as a value: a body may have numbers that only its provider can judge.
            let sent: Sent = serde_json::from_slice(&request.body).expect("JSON");
            assert_eq!(sent.model, "gpt-4o-mini");
        }
    }
});
