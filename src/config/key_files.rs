//! Keys in files, which are read again while Forebay runs.

use forebay_providers::Secret;

use super::{Config, KeySource};

/// A key that was read again.
#[derive(Debug)]
pub struct ReadKey {
    /// The account's name.
    pub account: String,
    /// The key's name.
    pub key: String,
    /// The credential, or why there is none.
    pub secret: Result<Secret, String>,
}

impl Config {
    /// Reads each key again that is in a file.
    pub fn read_key_files(&self) -> Vec<ReadKey> {
        let mut read = Vec::new();
        for (name, account) in &self.accounts {
            let in_files = |source: &KeySource| matches!(source, KeySource::File(_));
            for key in account.keys.iter().filter(|key| in_files(&key.source)) {
                let secret = key.read().map_err(|(_, problem)| problem);
                let is_usable = |secret: Secret| match account.endpoint.wrong_key(&secret) {
                    None => Ok(secret),
                    Some(problem) => Err(problem),
                };
                read.push(ReadKey {
                    account: name.clone(),
                    key: key.name.clone(),
                    secret: secret.and_then(is_usable),
                });
            }
        }
        read
    }

    /// Returns the keys of the environment, each with its account's name. A new value needs a restart.
    pub fn keys_of_environment(&self) -> Vec<String> {
        let mut keys = Vec::new();
        for (name, account) in &self.accounts {
            for key in &account.keys {
                if let KeySource::Env(_) = key.source {
                    keys.push(format!("{name}/{}", key.name));
                }
            }
        }
        keys
    }
}
