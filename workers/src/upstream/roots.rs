//! The certificates that are trusted where the environment names none.
//!
//! `SSL_CERT_FILE` and `SSL_CERT_DIR` name other certificates than those of the system. A variable that is set to nothing, as
//! templates of services leave it, is as one that is not set.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use reqwest::Certificate;

/// Returns the certificates to trust if one of the variables is set to nothing; `None` where they need no correction.
pub(super) fn corrected() -> Option<Vec<Certificate>> {
    let variables = ["SSL_CERT_FILE", "SSL_CERT_DIR"].map(env::var_os);
    let is_empty = |value: &Option<OsString>| value.as_ref().is_some_and(|value| value.is_empty());
    if !variables.iter().any(is_empty) {
        return None;
    }
    let given =
        |value: Option<OsString>| value.filter(|value| !value.is_empty()).map(PathBuf::from);
    let [mut file, mut dir] = variables.map(given);
    if file.is_none() && dir.is_none() {
        let of_system = openssl_probe::probe();
        file = of_system.cert_file;
        dir = of_system.cert_dir.into_iter().next();
    }
    let loaded = rustls_native_certs::load_certs_from_paths(file.as_deref(), dir.as_deref());
    let certificates = loaded.certs.iter();
    let read = certificates.filter_map(|certificate| Certificate::from_der(certificate).ok());
    Some(read.collect())
}
