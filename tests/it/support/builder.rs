//! The configuration of a test's Forebay. Whatever a test does not say has a default.

use std::path::Path;

use forebay::app::{App, Started};
use forebay::cluster::worker_lease::WhenHeld;
use forebay::config::Config;
use forebay_simulator::Provider;
use toml::{Table, Value};

use super::{Forebay, install_crypto};

/// Limits that no test reaches.
pub(crate) const UNLIMITED: &str = "{ concurrent = 256 }";

/// A managed server on any free port, whose streams need little of a disk.
///
/// A server keeps room for the most that its streams may hold.
const DEFAULTS: &str = "[nats]\nlisten = \"127.0.0.1:0\"\n[data]\n[streams]\njobs_max_bytes = \"64MiB\"\n\
    completions_max_bytes = \"64MiB\"\nobjects_max_bytes = \"256MiB\"\n";

/// The smallest streams, for tests whose server has little room.
pub(crate) const SMALLEST_STREAMS: &str = "[streams]\njobs_max_bytes = \"16MiB\"\n\
    completions_max_bytes = \"16MiB\"\nobjects_max_bytes = \"16MiB\"\n";

/// An account of a configuration, without limits unless some are given.
#[derive(Clone)]
pub(crate) struct Account {
    name: String,
    provider: String,
    address: String,
    path: String,
    /// Of each its name and what it is.
    keys: Vec<(String, String)>,
    limits: String,
}

impl Account {
    /// An account at a simulated provider, which speaks OpenAI's API.
    ///
    /// Its keys are those of the simulated account of this name, or of the only one.
    pub(crate) fn at(name: &str, provider: &Provider) -> Self {
        let simulated = provider.accounts();
        let same = match simulated.as_slice() {
            [only] => Some(only),
            all => all.iter().find(|account| account.name == name),
        };
        let keys = same.map(|account| account.keys.as_slice());
        let keys: Vec<_> = keys.into_iter().flatten().map(String::as_str).collect();
        let account = Self::at_url(name, &provider.url()).keys(&keys);
        account.provider("openai", "/v1")
    }

    /// An account at any address, whose only key is `sk-` and its name.
    pub(crate) fn at_url(name: &str, url: &str) -> Self {
        Self {
            name: name.to_owned(),
            provider: "openai".to_owned(),
            address: url.to_owned(),
            path: String::new(),
            keys: vec![("key-1".to_owned(), format!("sk-{name}"))],
            limits: UNLIMITED.to_owned(),
        }
    }

    /// Of another provider than OpenAI, whose API is under this path of the address.
    pub(crate) fn provider(mut self, provider: &str, path: &str) -> Self {
        (self.provider, self.path) = (provider.to_owned(), path.to_owned());
        self
    }

    /// Other keys.
    pub(crate) fn keys(mut self, keys: &[&str]) -> Self {
        let numbered = keys.iter().enumerate();
        self.keys = numbered
            .map(|(index, &key)| (format!("key-{}", index + 1), key.to_owned()))
            .collect();
        self
    }

    /// A single key of this name.
    pub(crate) fn key(mut self, name: &str, key: &str) -> Self {
        self.keys = vec![(name.to_owned(), key.to_owned())];
        self
    }

    /// The limits, as a configuration lists them.
    pub(crate) fn limits(mut self, limits: &str) -> Self {
        self.limits = limits.to_owned();
        self
    }

    fn key_file(&self, dir: &Path, index: usize) -> String {
        let file = dir.join(format!("{}-{index}.key", self.name));
        file.display().to_string()
    }

    fn section(&self, dir: &Path) -> String {
        assert!(!self.keys.is_empty(), "which keys has `{}`?", self.name);
        let numbered = self.keys.iter().enumerate();
        let keys: Vec<_> = numbered
            .map(|(index, (name, _))| {
                let file = self.key_file(dir, index);
                format!("{{ name = {name:?}, file = {file:?} }}")
            })
            .collect();
        format!(
            "[account.{}]\nprovider = {:?}\nbase_url = \"{}{}\"\nkeys = [{}]\nlimits = [{}]\n",
            self.name,
            self.provider,
            self.address,
            self.path,
            keys.join(", "),
            self.limits
        )
    }
}

/// The configuration of a Forebay, and the directory that it has for itself.
pub(crate) struct ForebayBuilder {
    dir: tempfile::TempDir,
    accounts: Vec<Account>,
    sections: Vec<String>,
}

impl ForebayBuilder {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a directory"),
            accounts: Vec::new(),
            sections: Vec::new(),
        }
    }

    /// With one more account.
    pub(crate) fn account(mut self, account: Account) -> Self {
        self.accounts.push(account);
        self
    }

    /// With a pool over accounts, all for one model.
    pub(crate) fn pool(self, name: &str, model: &str, accounts: &[&str]) -> Self {
        let targets: Vec<_> = accounts
            .iter()
            .map(|account| format!("{{ account = \"{account}\", model = \"{model}\" }}"))
            .collect();
        self.config(&format!(
            "[pool.{name:?}]\ntargets = [{}]\n",
            targets.join(", ")
        ))
    }

    /// With more of a configuration, which adds to what is there or replaces it, field by field.
    pub(crate) fn config(mut self, text: &str) -> Self {
        self.sections.push(text.to_owned());
        self
    }

    /// At a NATS server that others run.
    pub(crate) fn nats(self, address: &str) -> Self {
        let scheme = if address.contains("://") {
            ""
        } else {
            "nats://"
        };
        self.config(&format!("[nats]\nurl = \"{scheme}{address}\"\n"))
    }

    /// In a directory that holds something already.
    pub(crate) fn in_dir(mut self, dir: tempfile::TempDir) -> Self {
        self.dir = dir;
        self
    }

    /// Its directory, in which `data` is the data directory.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts it.
    pub(crate) async fn start(self) -> Forebay {
        let config = self.parse();
        self.start_with(&config).await
    }

    /// Starts it with what no text of a configuration says.
    pub(crate) async fn start_with(self, config: &Config) -> Forebay {
        match App::start(config, WhenHeld::GiveUp)
            .await
            .expect("it starts")
        {
            Started::Here(app) => Forebay::of(app, self),
            Started::Elsewhere(by) => panic!("held by {by:?}"),
        }
    }

    /// Writes the configuration and its keys; returns the directory, in which programs find both.
    pub(crate) fn write(self) -> tempfile::TempDir {
        self.write_files();
        self.dir
    }

    /// Writes the configuration and its keys, and reads it as Forebay does.
    pub(crate) fn parse(&self) -> Config {
        Config::parse(&self.write_files()).expect("a configuration")
    }

    /// Writes the configuration and its keys; returns the configuration's text.
    fn write_files(&self) -> String {
        // What comes next is a connection, and that needs it.
        install_crypto();
        for account in &self.accounts {
            for (index, (_, key)) in account.keys.iter().enumerate() {
                let file = account.key_file(self.dir(), index);
                std::fs::write(file, key).expect("written");
            }
        }
        let text = self.text();
        std::fs::write(self.dir().join("forebay.toml"), &text).expect("written");
        text
    }

    fn text(&self) -> String {
        let mut whole = table(DEFAULTS);
        let data = format!("[data]\ndir = {:?}\n", self.dir().join("data"));
        merge(&mut whole, table(&data));
        for account in &self.accounts {
            merge(&mut whole, table(&account.section(self.dir())));
        }
        for section in &self.sections {
            merge(&mut whole, table(section));
        }
        // A Forebay at another's server has none of its own.
        let nats = whole["nats"].as_table_mut().expect("a section");
        if nats.contains_key("url") {
            nats.remove("listen");
        }
        whole.to_string()
    }
}

fn table(text: &str) -> Table {
    text.parse()
        .unwrap_or_else(|error| panic!("{error} in\n{text}"))
}

/// Adds `more`, which replaces whatever is no section.
fn merge(into: &mut Table, more: Table) {
    for (key, value) in more {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(more)) => merge(into, more),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}
