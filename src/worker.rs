//! The type of the worker in this process: jobs come from JetStream, calls are sent over HTTP.

use forebay_workers::queue::jetstream::JetStreamQueue;
use forebay_workers::upstream::http::HttpUpstream;

/// A worker that takes jobs from JetStream and sends calls over HTTP.
pub type JetStreamWorker = forebay_workers::Worker<JetStreamQueue, HttpUpstream>;
