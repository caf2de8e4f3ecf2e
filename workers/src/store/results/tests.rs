use forebay_schemas::{Lane, Response, Status};

use crate::store::results::*;

fn identity(team: &str, batch: Option<&str>, id: &str) -> Identity {
    Identity {
        team: team.to_owned(),
        batch: batch.map(str::to_owned),
        id: id.to_owned(),
    }
}

fn record(identity: &Identity, text: &str) -> ResultRecord {
    let body = serde_json::value::to_raw_value(text).expect("a string");
    ResultRecord {
        fingerprint: "f".to_owned(),
        message: None,
        completion: Completion {
            id: identity.id.clone(),
            custom_id: identity.id.clone(),
            team: identity.team.clone(),
            batch: identity.batch.clone(),
            pool: "p".to_owned(),
            lane: Lane::Normal,
            revision: 1,
            status: Status::Succeeded,
            response: Some(Response {
                status_code: 200,
                request_id: None,
                body,
            }),
            error: None,
            usage: None,
            cost: None,
            answered_by: None,
            cached_from: None,
            attempts: Vec::new(),
            queued_ms: 0,
            metadata: None,
        },
    }
}

fn body(record: &ResultRecord) -> String {
    let response = record.completion.response.as_ref().expect("an answer");
    serde_json::from_str(response.body.get()).expect("a string")
}

const KEEP: Retention = Retention {
    keep_days: 7,
    horizon_days: 2,
};

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

#[tokio::test]
async fn what_was_stored_is_there_after_opening_again_whatever_its_size() {
    let dir = tempfile::tempdir().expect("a directory");
    let now = at("2026-11-24T10:00:00Z");
    let sizes = [0, 1, CHUNKED - 300, CHUNKED, CHUNKED * 2 + 1, 3_000_000];
    {
        let results = ResultStore::open(dir.path(), KEEP, now).expect("opens");
        for size in sizes {
            let who = identity("t", None, &format!("id-{size}"));
            results
                .store(&who, &record(&who, &"x".repeat(size)), now)
                .await
                .expect("stored");
        }
    }
    let results = ResultStore::open(dir.path(), KEEP, now).expect("opens again");
    for size in sizes {
        let who = identity("t", None, &format!("id-{size}"));
        let found = results
            .answered(&who, now)
            .expect("readable")
            .expect("there");
        assert_eq!(body(&found).len(), size);
    }
    let blobs = dir.path().join("2026-11-24").join("blobs");
    let large = std::fs::read_dir(blobs).map_or(0, Iterator::count);
    assert_eq!(
        large, 0,
        "nothing went to files that a flush does not cover"
    );
    let files = std::fs::read_dir(dir.path().join("2026-11-24").join("large"))
        .expect("large ones")
        .count();
    assert_eq!(files, 1, "the largest has a file of its own");
    let who = identity("t", None, "id-3000000");
    results
        .store(&who, &record(&who, &"y".repeat(2_000_000)), now)
        .await
        .expect("stored");
    assert_eq!(
        body(
            &results
                .answered(&who, now)
                .expect("readable")
                .expect("there")
        )
        .len(),
        2_000_000
    );
    results
        .store(&who, &record(&who, "small"), now)
        .await
        .expect("stored");
    assert_eq!(
        body(
            &results
                .answered(&who, now)
                .expect("readable")
                .expect("there")
        ),
        "small"
    );
}

const CHUNKED: usize = 64 * 1024;

#[tokio::test]
async fn parts_of_an_identity_do_not_run_together() {
    let dir = tempfile::tempdir().expect("a directory");
    let now = at("2026-11-24T10:00:00Z");
    let results = ResultStore::open(dir.path(), KEEP, now).expect("opens");
    let stored = identity("ab", Some("c"), "d\0e");
    results
        .store(&stored, &record(&stored, "one"), now)
        .await
        .expect("stored");
    for other in [
        identity("a", Some("bc"), "d\0e"),
        identity("ab", None, "cd\0e"),
        identity("ab", Some("c"), "d"),
    ] {
        assert!(
            results.answered(&other, now).expect("readable").is_none(),
            "{other}"
        );
    }
    assert!(results.answered(&stored, now).expect("readable").is_some());
}

#[tokio::test]
async fn an_answer_counts_within_the_horizon_and_is_kept_for_longer() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = at("2026-11-20T23:59:59Z");
    let who = identity("t", Some("b"), "1");
    let results = ResultStore::open(dir.path(), KEEP, first).expect("opens");
    results
        .store(&who, &record(&who, "old"), first)
        .await
        .expect("stored");
    // At least two days, counted in whole days.
    assert!(
        results
            .answered(&who, at("2026-11-22T23:59:59Z"))
            .expect("readable")
            .is_some()
    );
    assert!(
        results
            .answered(&who, at("2026-11-23T00:00:00Z"))
            .expect("readable")
            .is_none()
    );
    assert!(
        results.get(&who).expect("readable").is_some(),
        "kept although it no longer counts"
    );
    results
        .forget_old(at("2026-11-27T00:00:00Z"))
        .expect("deleted");
    assert!(results.get(&who).expect("readable").is_none());
    assert!(!dir.path().join("2026-11-20").exists());
}

#[tokio::test]
async fn many_writers_share_groups_and_each_gets_its_result() {
    let dir = tempfile::tempdir().expect("a directory");
    let now = at("2026-11-24T10:00:00Z");
    let results = Arc::new(ResultStore::open(dir.path(), KEEP, now).expect("opens"));
    let writes = (0..500).map(|index| {
        let results = Arc::clone(&results);
        tokio::spawn(async move {
            let who = identity("t", None, &index.to_string());
            results
                .store(&who, &record(&who, &index.to_string()), now)
                .await
        })
    });
    for write in futures::future::join_all(writes).await {
        write.expect("no panic").expect("stored");
    }
    for index in 0..500 {
        let who = identity("t", None, &index.to_string());
        let found = results
            .answered(&who, now)
            .expect("readable")
            .expect("there");
        assert_eq!(body(&found), index.to_string());
    }
}

#[tokio::test]
async fn a_day_that_is_open_elsewhere_is_waited_for_and_not_taken_for_damaged() {
    let dir = tempfile::tempdir().expect("a directory");
    let now = at("2026-11-24T10:00:00Z");
    let who = identity("t", None, "one");
    let first = ResultStore::open(dir.path(), KEEP, now).expect("opens");
    first
        .store(&who, &record(&who, "x"), now)
        .await
        .expect("stored");
    let path = dir.path().to_owned();
    let second = tokio::task::spawn_blocking(move || ResultStore::open(&path, KEEP, now));
    // The other thread must find the day, before this or after it.
    drop(first);
    let second = second.await.expect("no panic").expect("opens");
    assert!(second.answered(&who, now).expect("readable").is_some());
    let held = StoreDay::open(&dir.path().join("2026-11-24")).expect_err("it is open");
    assert!(held.passing, "{held}");
}

#[tokio::test]
async fn a_day_that_cannot_be_opened_is_set_aside_and_work_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let now = at("2026-11-24T10:00:00Z");
    std::fs::create_dir_all(dir.path().join("2026-11-24")).expect("made");
    std::fs::write(dir.path().join("2026-11-24/conf"), "not a configuration").expect("written");
    let results = ResultStore::open(dir.path(), KEEP, now).expect("opens all the same");
    let who = identity("t", None, "1");
    results
        .store(&who, &record(&who, "new"), now)
        .await
        .expect("stored");
    let aside = std::fs::read_dir(dir.path()).expect("readable").flatten();
    assert!(
        aside
            .into_iter()
            .any(|entry| entry.file_name().to_string_lossy().contains("unreadable"))
    );
}

#[tokio::test]
async fn a_store_that_lacks_what_was_published_says_so_until_the_horizon_has_passed() {
    let dir = tempfile::tempdir().expect("a directory");
    let now = at("2026-11-24T10:00:00Z");
    let (one, two) = (identity("t", None, "one"), identity("t", None, "two"));
    {
        let results = ResultStore::open(dir.path(), KEEP, now).expect("opens");
        assert!(
            results.is_complete(None, now).expect("readable"),
            "nothing was published yet"
        );
        results
            .store(&one, &record(&one, "1"), now)
            .await
            .expect("stored");
        assert!(
            results
                .is_complete(Some((Some(&one), now)), now)
                .expect("readable")
        );
        let old = at("2026-11-21T10:00:00Z");
        assert!(
            results
                .is_complete(Some((Some(&two), old)), now)
                .expect("readable"),
            "it is beyond the horizon"
        );
        assert!(
            !results
                .is_complete(Some((Some(&two), now)), now)
                .expect("readable"),
            "another worker's answer"
        );
        results
            .store(&two, &record(&two, "2"), now)
            .await
            .expect("stored");
    }
    // The last answer is stored again, but earlier ones may still be missing.
    for (day, expected) in [
        ("2026-11-25", false),
        ("2026-11-26", false),
        ("2026-11-28", true),
    ] {
        let now = at(&format!("{day}T10:00:00Z"));
        let results = ResultStore::open(dir.path(), KEEP, now).expect("opens");
        assert_eq!(
            results.is_complete(None, now).expect("readable"),
            expected,
            "{day}"
        );
    }
}

#[tokio::test]
async fn a_day_that_is_gone_is_missed() {
    let dir = tempfile::tempdir().expect("a directory");
    let (first, second) = (at("2026-11-24T10:00:00Z"), at("2026-11-25T10:00:00Z"));
    let who = identity("t", None, "one");
    {
        let results = ResultStore::open(dir.path(), KEEP, first).expect("opens");
        results
            .store(&who, &record(&who, "1"), second)
            .await
            .expect("stored");
        assert!(
            results
                .is_complete(Some((Some(&who), second)), second)
                .expect("readable")
        );
        assert!(
            !results
                .is_complete(Some((None, second)), second)
                .expect("readable"),
            "it is not known which"
        );
    }
    std::fs::remove_file(dir.path().join("incomplete")).expect("removed");
    std::fs::remove_dir_all(dir.path().join("2026-11-24")).expect("removed");
    let results = ResultStore::open(dir.path(), KEEP, second).expect("opens");
    assert!(
        !results
            .is_complete(Some((Some(&who), second)), second)
            .expect("readable")
    );
}

#[tokio::test]
async fn an_answer_is_cached_for_as_long_as_jobs_ask_and_not_if_it_is_large() {
    let dir = tempfile::tempdir().expect("a directory");
    let now: Timestamp = "2026-11-24T10:00:00Z".parse().expect("a time");
    let later: Timestamp = "2026-11-25T09:00:00Z".parse().expect("a time");
    let results = ResultStore::open(dir.path(), KEEP, now).expect("opened");
    let request = |team: &str| RequestKey {
        team: team.to_owned(),
        fingerprint: "f".to_owned(),
    };
    let identity = |id: &str| Identity {
        team: "t".to_owned(),
        batch: None,
        id: id.to_owned(),
    };
    let found =
        |team: &str, since: Timestamp| results.kept(&request(team), since).expect("looked up");
    assert_eq!(found("t", now), None);
    let first = record(&identity("one"), "hello").completion;
    results
        .keep(&request("t"), &first, now)
        .await
        .expect("kept");
    assert_eq!(found("t", now), Some(identity("one")));
    assert_eq!(found("other", now), None, "it is another team's");
    let after = now.checked_add(1.second()).expect("a time");
    assert_eq!(found("t", after), None, "it is older");
    let second = record(&identity("two"), "hello").completion;
    results
        .keep(&request("t"), &second, later)
        .await
        .expect("kept");
    assert_eq!(found("t", now), Some(identity("two")), "the newest");
    let large = record(&identity("three"), &"x".repeat(LARGE)).completion;
    results
        .keep(&request("t"), &large, later)
        .await
        .expect("no failure");
    assert_eq!(found("t", now), Some(identity("two")));
    drop(results);
    let again = ResultStore::open(dir.path(), KEEP, later).expect("opened");
    assert_eq!(
        again.kept(&request("t"), later).expect("looked up"),
        Some(identity("two"))
    );
}
