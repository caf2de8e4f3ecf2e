//! Checks of values and of the relations between them.

mod pool;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use forebay_providers::Endpoint;
use forebay_providers::cost::LimitDimension;
use forebay_providers::registry::{Provider, providers, providers_with};
use forebay_schemas::flow::{problem_of_name, problem_of_team};
use forebay_schemas::{Lane, Names};
use forebay_workers::TeamConfig;
use forebay_workers::accounts::{Algorithm, Amount, Limit};
use forebay_workers::outcome::patience::Patience;
use jiff::tz::TimeZone;

use self::pool::PoolDefaults;
use super::address::wrong_address;
use super::raw::{self, RawConfig};
use super::{
    AccountConfig, CallConfig, Config, ConfigError, DataConfig, KeyConfig, KeySource, NatsConfig,
    SMALLEST_STREAM, StreamSize, StreamsConfig,
};
use crate::catalogue::Catalogue;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const GIB: u64 = 1 << 30;

/// Checks the whole configuration and adds each mistake to `mistakes`. The result is complete only
/// if there are none.
pub(super) fn check(
    raw: RawConfig,
    unreadable: &BTreeSet<String>,
    mistakes: &mut Vec<ConfigError>,
) -> Config {
    let mut checker = ConfigChecker {
        unreadable,
        mistakes,
        providers: providers().iter().collect(),
    };
    let catalogue = checker.catalogue(raw.catalogue);
    let data = DataConfig {
        dir: raw
            .data
            .dir
            .map_or_else(|| "./forebay-data".into(), PathBuf::from),
        keep_days: raw.data.keep_days.unwrap_or(7),
        dedupe_days: raw.data.dedupe_days.unwrap_or(2),
    };
    if data.dedupe_days == 0 {
        checker.wrong("data.dedupe_days", "must be at least 1");
    }
    if data.keep_days <= data.dedupe_days {
        checker.wrong(
            "data.keep_days",
            "must be more than data.dedupe_days: results are what repeats are found in",
        );
    }
    let streams = checker.streams(raw.streams, data.dedupe_days);
    let accounts = raw.account.into_iter().map(|(name, account)| {
        let account = checker.account(&name, account);
        (name, account)
    });
    let accounts: BTreeMap<_, _> = accounts.collect();
    let call = checker.call(raw.call);
    let defaults = PoolDefaults {
        dedupe_days: data.dedupe_days,
        patience: call.patience,
    };
    let pools = raw.pool.into_iter().map(|(name, pool)| {
        let pool = checker.pool(&name, pool, &accounts, &defaults);
        (name, pool)
    });
    let pools = pools.collect();
    let teams = raw.team.into_iter().map(|(name, team)| {
        let team = checker.team(&name, team);
        (name, team)
    });
    let teams: BTreeMap<_, _> = teams.collect();
    Config {
        file: None,
        nats: checker.nats(raw.nats, !teams.is_empty()),
        data,
        streams,
        call,
        catalogue,
        providers: checker.providers.clone(),
        lanes: checker.lanes(&raw.lanes),
        accounts,
        pools,
        on_demand: None,
        teams,
    }
}

struct ConfigChecker<'a> {
    unreadable: &'a BTreeSet<String>,
    mistakes: &'a mut Vec<ConfigError>,
    /// The providers that an account may name.
    providers: Vec<&'static Provider>,
}

impl ConfigChecker<'_> {
    fn wrong(&mut self, path: &str, problem: impl Into<String>) {
        self.mistakes.push(ConfigError {
            path: path.to_owned(),
            problem: problem.into(),
        });
    }

    /// Reports a required value that is missing.
    fn required<T>(&mut self, path: &str, value: Option<T>, what: &str) -> Option<T> {
        if value.is_none() && !self.has_unreadable(path) {
            self.wrong(path, format!("is missing: {what}"));
        }
        value
    }

    /// Returns true if a value at or below `path` is unreadable. Such a value is not reported as
    /// missing.
    fn has_unreadable(&self, path: &str) -> bool {
        self.unreadable
            .iter()
            .any(|unreadable| unreadable.starts_with(path))
    }

    fn duration(&mut self, path: &str, text: Option<String>, default: Duration) -> Duration {
        let Some(text) = text else { return default };
        match humantime::parse_duration(&text) {
            Ok(duration) if !duration.is_zero() => duration,
            _ => {
                self.wrong(
                    path,
                    format!(
                        "`{text}` is no duration, write for example \"100ms\", \"1m\" or \"1d\""
                    ),
                );
                default
            }
        }
    }

    fn name(&mut self, path: &str, what: &str, name: &str) {
        if let Some(problem) = problem_of_name(what, name) {
            self.wrong(path, problem);
        }
    }

    fn listen_address(&mut self, text: &str) -> Option<SocketAddr> {
        let address = text.parse().ok();
        if address.is_none() {
            let problem = format!("`{text}` is no address, write for example \"127.0.0.1:4222\"");
            self.wrong("nats.listen", problem);
        }
        address
    }

    fn nats(&mut self, raw: raw::RawNats, has_teams: bool) -> NatsConfig {
        let listen = raw.listen.and_then(|listen| self.listen_address(&listen));
        if listen.is_some_and(|listen| !listen.ip().is_loopback()) {
            self.wrong(
                "nats.listen",
                "the managed server serves this machine alone; run your own and set nats.url",
            );
        }
        let prefix = raw.prefix.unwrap_or_else(|| "ai".to_owned());
        let names = Names::new(&prefix).unwrap_or_else(|problem| {
            self.wrong("nats.prefix", problem);
            Names::default()
        });
        let sync = Duration::from_millis(100);
        NatsConfig {
            url: raw.url,
            listen,
            names,
            sync_interval: self.duration("nats.sync_interval", raw.sync_interval, sync),
            refuses_unknown_teams: self
                .refuses_unknown_teams(raw.unknown_teams.as_deref(), has_teams),
        }
    }

    /// Returns the configured choice. The default refuses unknown teams if any team is configured.
    fn refuses_unknown_teams(&mut self, given: Option<&str>, has_teams: bool) -> bool {
        match given {
            None => has_teams,
            Some("refuse") => true,
            Some("serve") => false,
            Some(other) => {
                self.wrong(
                    "nats.unknown_teams",
                    format!("`{other}` is not known, use \"serve\" or \"refuse\""),
                );
                has_teams
            }
        }
    }

    fn streams(&mut self, raw: raw::RawStreams, dedupe_days: u16) -> StreamsConfig {
        let size = |given: Option<ByteSize>, usual| {
            given.map_or(StreamSize::Usual(usual), |size| StreamSize::Given(size.0))
        };
        let streams = StreamsConfig {
            jobs_max_bytes: size(raw.jobs_max_bytes, 10 * GIB),
            jobs_max_per_queue: raw.jobs_max_per_queue,
            completions_max_age: self.duration(
                "streams.completions_max_age",
                raw.completions_max_age,
                7 * DAY,
            ),
            completions_max_bytes: size(raw.completions_max_bytes, 10 * GIB),
            objects_max_bytes: size(raw.objects_max_bytes, 2 * GIB),
        };
        if streams.jobs_max_per_queue == Some(0) {
            self.wrong(
                "streams.jobs_max_per_queue",
                "must be at least 1; leave it out for no limit",
            );
        }
        for (field, size) in [
            ("jobs_max_bytes", streams.jobs_max_bytes),
            ("completions_max_bytes", streams.completions_max_bytes),
            ("objects_max_bytes", streams.objects_max_bytes),
        ] {
            if size.bytes() < SMALLEST_STREAM {
                self.wrong(
                    &format!("streams.{field}"),
                    "must be at least \"16MiB\": one message may have 8 MiB",
                );
            }
        }
        if streams.completions_max_age < DAY * (u32::from(dedupe_days) + 1) {
            self.wrong(
                "streams.completions_max_age",
                "must be a day more than data.dedupe_days: a completion that is gone could be published again",
            );
        }
        streams
    }

    fn call(&mut self, raw: raw::RawCall) -> CallConfig {
        let attempts = raw.attempts.unwrap_or(5);
        if attempts == 0 {
            self.wrong("call.attempts", "must be at least 1");
        }
        let max_request = raw.max_request.map_or(64 << 20, |size| size.0);
        let max_answer = raw.max_answer.map_or(64 << 20, |size| size.0);
        CallConfig {
            attempts,
            timeout: self.duration("call.timeout", raw.timeout, 10 * MINUTE),
            connect_timeout: self.duration("call.connect_timeout", raw.connect_timeout, MINUTE / 6),
            grace: self.duration("call.grace", raw.grace, MINUTE),
            max_request: usize::try_from(max_request).unwrap_or(usize::MAX),
            max_answer: usize::try_from(max_answer).unwrap_or(usize::MAX),
            patience: self.patience("call.patience", raw.patience, Patience::default()),
        }
    }

    /// Reads how long the jobs of each lane outlast an outage. A lane without a value has that of `default`.
    fn patience(&mut self, path: &str, raw: raw::RawPatience, default: Patience) -> Patience {
        let mut of_lane =
            |lane: &str, text, usual| self.duration(&format!("{path}.{lane}"), text, usual);
        Patience {
            interactive: of_lane("interactive", raw.interactive, default.interactive),
            normal: of_lane("normal", raw.normal, default.normal),
            bulk: of_lane("bulk", raw.bulk, default.bulk),
        }
    }

    fn lanes(&mut self, raw: &raw::RawLanes) -> [(Lane, u64); 3] {
        let mut weight = |lane: Lane, given: Option<u64>, default| {
            if given == Some(0) {
                self.wrong(
                    &format!("lanes.{lane}"),
                    "must be at least 1: no lane starves",
                );
            }
            (lane, given.unwrap_or(default))
        };
        [
            weight(Lane::Interactive, raw.interactive, 16),
            weight(Lane::Normal, raw.normal, 4),
            weight(Lane::Bulk, raw.bulk, 1),
        ]
    }

    fn account(&mut self, name: &str, raw: raw::RawAccount) -> AccountConfig {
        let path = format!("account.{name}");
        self.name(&path, "account", name);
        let provider = self.provider(&path, raw.provider);
        let base_url = self.base_url(&path, raw.base_url, provider);
        let mut endpoint = Endpoint::new(provider, &base_url);
        if let Some(version) = raw.api_version {
            endpoint.api_version = Some(version);
        }
        if let Some(problem) = endpoint.wrong_version() {
            self.wrong(&format!("{path}.api_version"), problem);
        }
        let algorithm = self.algorithm(&format!("{path}.algorithm"), raw.algorithm.as_deref());
        let keys = self.keys(&format!("{path}.keys"), raw.keys, provider.keyless);
        let limits = raw.limits.into_iter().enumerate();
        let limits = limits.filter_map(|(index, limit)| {
            self.limit(&format!("{path}.limits[{index}]"), limit, algorithm)
        });
        AccountConfig {
            endpoint,
            keys,
            limits: limits.collect(),
        }
    }

    /// Builds the catalogue from the built-in list and the files that add to it.
    fn catalogue(&mut self, raw: raw::RawCatalogue) -> Catalogue {
        let built_in = raw.built_in.unwrap_or(true);
        let mut catalogue = if built_in {
            Catalogue::known().clone()
        } else {
            Catalogue::default()
        };
        for (index, file) in raw.models.into_iter().enumerate() {
            if let Err(error) = catalogue.extend_from(Path::new(&file)) {
                self.wrong(&format!("catalogue.models[{index}]"), format!("{error:#}"));
            }
        }
        let mut table = String::new();
        for (index, file) in raw.providers.into_iter().enumerate() {
            let path = format!("catalogue.providers[{index}]");
            match std::fs::read_to_string(&file) {
                Ok(text) => match toml::from_str::<toml::Table>(&text) {
                    Ok(_) => table.push_str(&format!("\n{text}")),
                    Err(error) => {
                        self.wrong(&path, format!("{file}: {}", error.to_string().trim_end()))
                    }
                },
                Err(error) => self.wrong(&path, format!("{file} cannot be read: {error}")),
            }
        }
        if !table.is_empty() {
            match providers_with(&table) {
                Ok(all) => self.set_providers(all),
                Err(error) => self.wrong("catalogue.providers", error.trim_end().to_owned()),
            }
        }
        catalogue
    }

    /// Replaces the known providers. Their addresses are checked here; otherwise only a call would
    /// show a wrong one.
    fn set_providers(&mut self, all: Vec<&'static Provider>) {
        for provider in &all {
            let problem = provider
                .base_url
                .as_deref()
                .and_then(|url| wrong_address(url, provider));
            if let Some(problem) = problem {
                self.wrong(
                    &format!("catalogue.providers: {}.base_url", provider.name),
                    problem,
                );
            }
        }
        self.providers = all;
    }

    fn provider(&mut self, path: &str, name: Option<String>) -> &'static Provider {
        let path = format!("{path}.provider");
        let what = "one of those that `forebay providers` lists";
        let Some(name) = self.required(&path, name, what) else {
            return self.providers[0];
        };
        let mut providers = self.providers.iter();
        if let Some(found) = providers.find(|provider| provider.name == name) {
            return found;
        }
        let advice = "a server that speaks OpenAI's API is \"openai-compatible\" with its base_url";
        self.wrong(
            &path,
            format!("`{name}` is not known, use {what}; {advice}"),
        );
        self.providers[0]
    }

    fn base_url(&mut self, path: &str, given: Option<String>, provider: &Provider) -> String {
        let path = format!("{path}.base_url");
        let example = provider
            .example_url
            .as_deref()
            .or(provider.base_url.as_deref())
            .unwrap_or_default();
        let what = format!("the account's address, for example \"{example}\"");
        let Some(base_url) = given.or_else(|| provider.base_url.clone()) else {
            self.required(&path, None::<String>, &what);
            return String::new();
        };
        if let Some(problem) = wrong_address(&base_url, provider) {
            self.wrong(&path, problem);
        }
        base_url
    }

    /// Parses how limits are spent. Without a name, periods up to a minute are spent evenly.
    fn algorithm(&mut self, path: &str, name: Option<&str>) -> Algorithm {
        match name {
            None | Some("smooth") => Algorithm::Smooth,
            Some("sliding") => Algorithm::Counted,
            Some("fixed") => Algorithm::Fixed,
            Some("bucket") => Algorithm::Bucket,
            Some(other) => {
                self.wrong(
                    path,
                    format!("`{other}` is not known, use smooth, bucket, sliding or fixed"),
                );
                Algorithm::Smooth
            }
        }
    }

    fn keys(&mut self, path: &str, raw: Vec<raw::RawKey>, keyless: bool) -> Vec<KeyConfig> {
        if raw.is_empty() && !keyless && !self.has_unreadable(path) {
            self.wrong(
                path,
                "is missing: at least one key, for example [{ name = \"a\", env = \"OPENAI_API_KEY\" }]",
            );
        }
        let mut names = BTreeSet::new();
        let mut keys = Vec::new();
        for (index, key) in raw.into_iter().enumerate() {
            let path = format!("{path}[{index}]");
            let name = key.name.unwrap_or_else(|| format!("key-{}", index + 1));
            if !names.insert(name.clone()) {
                self.wrong(
                    &format!("{path}.name"),
                    format!("there is another key `{name}` in this account"),
                );
            }
            let source = match (key.env, key.file) {
                (Some(variable), None) => KeySource::Env(variable),
                (None, Some(file)) => KeySource::File(file.into()),
                _ => {
                    self.wrong(
                        &path,
                        "needs either `env`, the name of a variable, or `file`, a path; never the key itself",
                    );
                    continue;
                }
            };
            keys.push(KeyConfig { name, source });
        }
        keys
    }

    fn limit(&mut self, path: &str, raw: raw::RawLimit, algorithm: Algorithm) -> Option<Limit> {
        let counted = [
            (raw.requests, LimitDimension::Requests),
            (raw.tokens, LimitDimension::Tokens),
            (raw.input_tokens, LimitDimension::InputTokens),
            (raw.output_tokens, LimitDimension::OutputTokens),
        ];
        let given: Vec<_> = counted
            .into_iter()
            .filter_map(|(limit, dimension)| Some((limit?, dimension)))
            .collect();
        let amount = match (given.as_slice(), raw.concurrent) {
            ([(limit, dimension)], None) => {
                let (per, day_in) = self.period(path, raw.per, raw.zone)?;
                // Longer periods are counted and spent as calls come, unless another algorithm is
                // named. Calendar days always are.
                let algorithm = match algorithm {
                    Algorithm::Smooth if per > MINUTE => Algorithm::Counted,
                    _ if day_in.is_some() => Algorithm::Counted,
                    named => named,
                };
                Amount::PerPeriod {
                    dimension: *dimension,
                    limit: *limit,
                    per,
                    algorithm,
                    day_in,
                }
            }
            ([], Some(concurrent)) => Amount::Concurrent(concurrent),
            _ => {
                self.wrong(
                    path,
                    "needs exactly one of requests, tokens, input_tokens, output_tokens (with `per`) and concurrent",
                );
                return None;
            }
        };
        if matches!(
            amount,
            Amount::PerPeriod { limit: 0, .. } | Amount::Concurrent(0)
        ) {
            self.wrong(
                path,
                "a limit of 0 lets nothing through: leave the model out of the pool instead",
            );
        }
        Some(Limit {
            amount,
            models: raw.models,
        })
    }

    /// Parses a period: a duration, or `day`, which is a calendar day in `zone`.
    fn period(
        &mut self,
        path: &str,
        per: Option<String>,
        zone: Option<String>,
    ) -> Option<(Duration, Option<TimeZone>)> {
        let (field, in_zone) = (format!("{path}.per"), format!("{path}.zone"));
        let per = self.required(&field, per, "a period, for example \"1m\", or \"day\"")?;
        if per != "day" {
            if zone.is_some() {
                self.wrong(&in_zone, "is of calendar days alone: write per = \"day\"");
            }
            return Some((self.duration(&field, Some(per), MINUTE), None));
        }
        let zone = zone.unwrap_or_else(|| "UTC".to_owned());
        let found = TimeZone::get(&zone);
        if found.is_err() {
            let advice = "use an IANA name such as \"America/Los_Angeles\"";
            self.wrong(&in_zone, format!("`{zone}` is no time zone; {advice}"));
        }
        Some((DAY, Some(found.unwrap_or(TimeZone::UTC))))
    }

    fn team(&mut self, name: &str, raw: raw::RawTeam) -> TeamConfig {
        let path = format!("team.{name}");
        if let Some(problem) = problem_of_team(name) {
            self.wrong(&path, problem);
        }
        if raw.weight == Some(0) {
            self.wrong(
                &format!("{path}.weight"),
                "must be at least 1: no team starves",
            );
        }
        for (index, prefix) in raw.reply_prefixes.iter().enumerate() {
            let is_subject_start = prefix.len() >= 2 && prefix.ends_with('.');
            if !is_subject_start || prefix.starts_with('$') {
                let problem = format!(
                    "`{prefix}` is no prefix for replies: write for example \"acme.answers.\""
                );
                self.wrong(&format!("{path}.reply_prefixes[{index}]"), problem);
            }
        }
        let mut limits = Vec::new();
        for (index, limit) in raw.limits.into_iter().enumerate() {
            let path = format!("{path}.limits[{index}]");
            if limit.models.is_some() {
                self.wrong(
                    &format!("{path}.models"),
                    "a team's limit is for all models together",
                );
            }
            limits.extend(self.limit(&path, limit, Algorithm::Smooth));
        }
        TeamConfig {
            weight: raw.weight.unwrap_or(1),
            lanes: self.lanes_of_team(&format!("{path}.lanes"), raw.lanes),
            reply_prefixes: raw.reply_prefixes,
            limits,
        }
    }

    /// Parses the lanes that a team may use. Without any, it may use all.
    fn lanes_of_team(&mut self, path: &str, names: Option<Vec<String>>) -> Vec<Lane> {
        let Some(names) = names else {
            return Lane::ALL.to_vec();
        };
        if names.is_empty() {
            self.wrong(path, "must name a lane at least; leave it out for all");
        }
        let mut lanes = Vec::new();
        for (index, name) in names.iter().enumerate() {
            match name.parse() {
                Ok(lane) => lanes.push(lane),
                Err(problem) => self.wrong(&format!("{path}[{index}]"), problem),
            }
        }
        lanes
    }
}
