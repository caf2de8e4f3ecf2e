//! The jobs in flight by identity, so that a duplicate waits for the first delivery.

use std::collections::HashMap;
use std::sync::Arc;

use forebay_schemas::Identity;
use parking_lot::{Mutex, MutexGuard};

use crate::job::delivery::HeldDelivery;

/// The jobs in flight, by identity.
#[derive(Debug, Default)]
pub(crate) struct InFlightJobs {
    jobs: Mutex<HashMap<Identity, InFlightJob>>,
}

#[derive(Debug)]
struct InFlightJob {
    fingerprint: String,
    revision: u32,
    /// True once it is known that it will be called: then it keeps its identity.
    admitted: bool,
    followers: Vec<(String, HeldDelivery)>,
}

/// Deliveries that came while their identity was in flight.
#[derive(Debug, Default)]
pub(crate) struct DuplicateDeliveries {
    /// Deliveries of the same request.
    pub(crate) same: Vec<HeldDelivery>,
    /// Deliveries of another request, which came before it was known that this one would be called.
    pub(crate) others: Vec<HeldDelivery>,
}

/// The outcome of registering a delivery.
#[derive(Debug)]
pub(crate) enum RegistrationOutcome {
    /// It is the first of its identity.
    First(HeldDelivery, Registration),
    /// It waits for the end of the same job.
    Waits,
    /// Another request with the same identity is being called.
    Conflict(HeldDelivery, Registration),
}

/// The right to work on an identity. Dropping it, even in a panic, lets the next delivery register. The duplicates that
/// waited are then delivered again.
#[derive(Debug)]
pub(crate) struct Registration {
    in_flight: Arc<InFlightJobs>,
    /// `None` for a message that has the identity of another request.
    identity: Option<Identity>,
}

impl InFlightJobs {
    fn lock(&self) -> MutexGuard<'_, HashMap<Identity, InFlightJob>> {
        self.jobs.lock()
    }

    /// Registers a delivery.
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
                // It waits for another delivery, not for a permit: its queue is read on.
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

    /// Returns true if the identity is in flight.
    pub(crate) fn has(&self, identity: &Identity) -> bool {
        self.lock().contains_key(identity)
    }

    fn end(&self, identity: &Identity) -> DuplicateDeliveries {
        let mut followers = DuplicateDeliveries::default();
        let Some(job) = self.lock().remove(identity) else {
            return followers;
        };
        for (fingerprint, held) in job.followers {
            // A delivery that asks for a later revision is not answered by this one.
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
    /// Sets the revision that the job will have.
    pub(crate) fn set_revision(&self, revision: u32) {
        if let Some(identity) = &self.identity
            && let Some(job) = self.in_flight.lock().get_mut(identity)
        {
            job.revision = revision;
        }
    }

    /// Marks that the job will be called: another request with its identity is a conflict from now on.
    pub(crate) fn mark_admitted(&self) {
        if let Some(identity) = &self.identity
            && let Some(job) = self.in_flight.lock().get_mut(identity)
        {
            job.admitted = true;
        }
    }

    /// Returns true if it is known that the job will be called.
    pub(crate) fn is_admitted(&self) -> bool {
        let Some(identity) = &self.identity else {
            return false;
        };
        self.in_flight
            .lock()
            .get(identity)
            .is_some_and(|job| job.admitted)
    }

    /// Lets the next delivery register. Returns those that came meanwhile.
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
