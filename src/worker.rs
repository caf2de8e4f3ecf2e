//! The worker of this process: its jobs come from JetStream, its calls go out over HTTP.

use forebay_workers::queue::jetstream::JetStreamQueue;
use forebay_workers::upstream::http::HttpUpstream;

/// The worker that runs in this process.
pub type Worker = forebay_workers::Worker<JetStreamQueue, HttpUpstream>;
