//! Providers' dialects held against fixtures: requests, answers, errors and headers, and the table in
//! `docs/providers.md` that is made of them. `UPDATE_GOLDEN=1` writes what is expected anew: read the difference
//! as prose, `make sdk-types` holds it against the vendors' own types.

mod answers;
mod document;
mod errors;
mod files;
mod headers;
mod mutations;
mod privacy;
mod requests;
mod silence;
mod targets;
