//! Identities that are being worked on, so that a repeated publish joins the first one.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use forebay_schemas::Identity;

use crate::staged::Claim;

/// Identities that are being worked on.
#[derive(Debug, Default)]
pub(crate) struct Running {
    jobs: Mutex<HashMap<Identity, Job>>,
}

#[derive(Debug)]
struct Job {
    fingerprint: String,
    followers: Vec<Claim>,
}

/// What an identity's arrival means.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// It is the first.
    First(Claim),
    /// It joined one that is being worked on.
    Joined,
    /// One that is being worked on has the same identity and is another request.
    Conflict(Claim),
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, HashMap<Identity, Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers an arrival.
    pub(crate) fn arrive(&self, identity: &Identity, fingerprint: &str, claim: Claim) -> Arrival {
        let mut jobs = self.lock();
        match jobs.get_mut(identity) {
            Some(job) if job.fingerprint == fingerprint => {
                job.followers.push(claim);
                Arrival::Joined
            }
            Some(_) => Arrival::Conflict(claim),
            None => {
                let job = Job { fingerprint: fingerprint.to_owned(), followers: Vec::new() };
                jobs.insert(identity.clone(), job);
                Arrival::First(claim)
            }
        }
    }

    /// Ends an identity's work; returns those who joined it meanwhile.
    pub(crate) fn end(&self, identity: &Identity) -> Vec<Claim> {
        self.lock().remove(identity).map(|job| job.followers).unwrap_or_default()
    }
}
