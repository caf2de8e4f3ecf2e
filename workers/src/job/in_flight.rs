//! Identities that are being worked on, so that a repeated publish waits for the first one.

use std::collections::HashMap;
use std::sync::Arc;

use forebay_schemas::Identity;
use parking_lot::{Mutex, MutexGuard};

use crate::job::delivery::HeldDelivery;

/// Identities that are being worked on.
#[derive(Debug, Default)]
pub(crate) struct InFlightJobs {
    jobs: Mutex<HashMap<Identity, InFlightJob>>,
}

#[derive(Debug)]
struct InFlightJob {
    fingerprint: String,
    revision: u32,
    /// Whether it will be called, as far as is known: then it keeps its identity.
    admitted: bool,
    followers: Vec<(String, HeldDelivery)>,
}

/// Deliveries that came while their identity was worked on.
#[derive(Debug, Default)]
pub(crate) struct DuplicateDeliveries {
    /// The same request.
    pub(crate) same: Vec<HeldDelivery>,
    /// Another request, which came before it was known whether this one would be called.
    pub(crate) others: Vec<HeldDelivery>,
}

/// What an identity's arrival means.
#[derive(Debug)]
pub(crate) enum RegistrationOutcome {
    /// It is the first.
    First(HeldDelivery, Registration),
    /// It waits for the end of one that is being worked on.
    Waits,
    /// One that is being called has the same identity and is another request.
    Conflict(HeldDelivery, Registration),
}

/// The entry of an identity that is worked on. However the work ends, by a panic too, dropping this
/// makes way for the next delivery; who had joined is then delivered again.
#[derive(Debug)]
pub(crate) struct Registration {
    in_flight: Arc<InFlightJobs>,
    /// None for a message that has the identity of another request.
    identity: Option<Identity>,
}

impl InFlightJobs {
    fn lock(&self) -> MutexGuard<'_, HashMap<Identity, InFlightJob>> {
        self.jobs.lock()
    }

    /// Registers an arrival.
    pub(crate) fn arrive(
        self: &Arc<Self>,
        identity: &Identity,
        fingerprint: &str,
        mut held: HeldDelivery,
    ) -> RegistrationOutcome {
        let registration = |identity| Registration {
            in_flight: Arc::clone(self),
            identity,
        };
        let mut jobs = self.lock();
        match jobs.get_mut(identity) {
            Some(job) if job.fingerprint == fingerprint || !job.admitted => {
                // It waits for another one, not for a permit: its flow goes on fetching.
                drop(held.slot.take());
                drop(held.memory.take());
                job.followers.push((fingerprint.to_owned(), held));
                RegistrationOutcome::Waits
            }
            Some(_) => RegistrationOutcome::Conflict(held, registration(None)),
            None => {
                let job = InFlightJob {
                    fingerprint: fingerprint.to_owned(),
                    revision: held.revision,
                    admitted: false,
                    followers: Vec::new(),
                };
                jobs.insert(identity.clone(), job);
                RegistrationOutcome::First(held, registration(Some(identity.clone())))
            }
        }
    }

    /// Whether it is being worked on.
    pub(crate) fn has(&self, identity: &Identity) -> bool {
        self.lock().contains_key(identity)
    }

    fn end(&self, identity: &Identity) -> DuplicateDeliveries {
        let mut followers = DuplicateDeliveries::default();
        let Some(job) = self.lock().remove(identity) else {
            return followers;
        };
        for (fingerprint, held) in job.followers {
            // One that asks for a later answer is not answered by this one.
            let same = fingerprint == job.fingerprint && held.revision <= job.revision;
            if same {
                followers.same.push(held)
            } else {
                followers.others.push(held)
            }
        }
        followers
    }
}

impl Registration {
    /// The job will have this answer of its identity.
    pub(crate) fn set_revision(&self, revision: u32) {
        if let Some(identity) = &self.identity
            && let Some(job) = self.in_flight.lock().get_mut(identity)
        {
            job.revision = revision;
        }
    }

    /// The job will be called: who comes with another request is told of the conflict at once.
    pub(crate) fn mark_admitted(&self) {
        if let Some(identity) = &self.identity
            && let Some(job) = self.in_flight.lock().get_mut(identity)
        {
            job.admitted = true;
        }
    }

    /// Whether the job will be called, as far as is known.
    pub(crate) fn is_admitted(&self) -> bool {
        let Some(identity) = &self.identity else {
            return false;
        };
        self.in_flight
            .lock()
            .get(identity)
            .is_some_and(|job| job.admitted)
    }

    /// Makes way for the next delivery; returns those who came meanwhile.
    pub(crate) fn end(&mut self) -> DuplicateDeliveries {
        self.identity
            .take()
            .map(|identity| self.in_flight.end(&identity))
            .unwrap_or_default()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(identity) = self.identity.take() {
            drop(self.in_flight.end(&identity));
        }
    }
}
