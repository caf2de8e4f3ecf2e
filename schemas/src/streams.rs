//! The names of the streams, and of the buckets that NATS clients build on streams.

use crate::subjects::Names;

impl Names {
    pub(crate) fn stream(&self, what: &str) -> String {
        format!("{}_{what}", self.prefix().to_uppercase().replace('-', "_"))
    }

    /// Returns the stream of jobs, a work queue.
    pub fn jobs_stream(&self) -> String {
        self.stream("JOBS")
    }

    /// Returns the stream of jobs that are scheduled for a later time.
    pub fn scheduled_stream(&self) -> String {
        self.stream("SCHEDULED")
    }

    /// Returns the stream of completions.
    pub fn completions_stream(&self) -> String {
        self.stream("COMPLETIONS")
    }

    /// Returns the stream of dead letters: jobs that were given up, and messages that are not jobs.
    pub fn dead_stream(&self) -> String {
        self.stream("DEAD")
    }

    /// Returns the stream of events: changes of accounts' keys and models.
    pub fn events_stream(&self) -> String {
        self.stream("EVENTS")
    }

    /// Returns the stream of the calls for jobs that must not be called again after an unknown outcome.
    pub fn attempts_stream(&self) -> String {
        self.stream("ATTEMPTS")
    }

    /// Returns the key-value bucket in which nodes coordinate.
    pub fn nodes_bucket(&self) -> String {
        self.stream("NODES")
    }

    /// Returns the key-value bucket of the accounts' state that outlives a process.
    pub fn accounts_bucket(&self) -> String {
        self.stream("ACCOUNTS")
    }

    /// Returns the key-value bucket of the pauses and cancellations by operators.
    pub fn controls_bucket(&self) -> String {
        self.stream("CONTROLS")
    }

    /// Returns the object store of jobs that no message can hold.
    pub fn requests_bucket(&self) -> String {
        self.stream("REQUESTS")
    }

    /// Returns the object store of completions that no message can hold.
    pub fn answers_bucket(&self) -> String {
        self.stream("ANSWERS")
    }

    /// Returns the stream of a key-value bucket, as NATS clients derive it from the bucket's name.
    pub fn key_value_stream(bucket: &str) -> String {
        format!("KV_{bucket}")
    }

    /// Returns all streams, those of buckets included.
    pub fn all_streams(&self) -> [String; 11] {
        [
            self.jobs_stream(),
            self.scheduled_stream(),
            self.completions_stream(),
            self.dead_stream(),
            self.events_stream(),
            self.attempts_stream(),
            Self::bucket_stream(&self.requests_bucket()),
            Self::bucket_stream(&self.answers_bucket()),
            Self::key_value_stream(&self.nodes_bucket()),
            Self::key_value_stream(&self.accounts_bucket()),
            Self::key_value_stream(&self.controls_bucket()),
        ]
    }

    /// Returns the stream of an object store, as NATS clients derive it from the store's name.
    pub fn bucket_stream(bucket: &str) -> String {
        format!("OBJ_{bucket}")
    }

    /// Returns the subjects of the chunks and the descriptions of a bucket's objects, as NATS
    /// clients derive them from its name.
    pub fn bucket_subjects(bucket: &str) -> [String; 2] {
        [format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")]
    }
}
