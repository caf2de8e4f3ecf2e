use super::*;

const GOOD: &str = r#"
[account.main]
provider = "openai"
keys = [{ name = "a", env = "FOREBAY_TEST_KEY_THAT_IS_NOT_SET" }]
limits = [
  { requests = 500, per = "1m" },
  { tokens = 200_000, per = "1m" },
  { requests = 10_000, per = "1d", models = ["gpt-4o", "gpt-4o-mini"] },
  { requests = 1_500, per = "day", zone = "America/Los_Angeles" },
  { concurrent = 64 },
]
[pool.gpt-4o-mini]
targets = [{ account = "main", model = "gpt-4o-mini" }]
[team.acme]
weight = 2
"#;

fn mistakes(text: &str) -> Vec<String> {
    let all = Config::parse(text).expect_err("mistakes").all;
    all.into_iter()
        .map(|mistake| format!("{}: {}", mistake.path, mistake.problem))
        .collect()
}

#[test]
fn the_documented_configuration_is_read() {
    let config = Config::parse(GOOD).expect("no mistakes");
    assert_eq!(config.accounts["main"].limits.len(), 5);
    let day = &config.accounts["main"].limits[3].amount;
    assert_eq!(
        day.to_string(),
        "1500 requests per day in America/Los_Angeles"
    );
    assert_eq!(
        config.accounts["main"].endpoint.base_url,
        "https://api.openai.com/v1"
    );
    assert_eq!(config.teams["acme"].weight, 2);
    assert_eq!(config.nats.address().port(), 4222);
}

#[test]
fn all_mistakes_come_at_once_each_with_its_path() {
    let text = r#"
[nats]
listen = "everywhere"
colour = "blue"
[account.main]
provider = "openai"
keys = [{ name = "a", env = 3 }, { name = "b" }]
limits = [{ requests = "many", per = "1m" }, { requests = 5, per = "a while" },
  { requests = 5, per = "day", zone = "Mars/Olympus" }, { requests = 5, per = "1d", zone = "UTC" }]
[account.other]
provider = "acme"
[pool.chat]
targets = [{ account = "mian", model = "m" }, { model = "n", tire = 1 }]
"#;
    let found = mistakes(text);
    for expected in [
        "nats.listen: `everywhere`",
        "nats.colour: there is no such field",
        "account.main.keys[0].env: invalid type",
        "account.main.keys[1]: needs either",
        "account.main.limits[0].requests: invalid type",
        "account.main.limits[1].per: `a while`",
        "account.main.limits[2].zone: `Mars/Olympus` is no time zone",
        "account.main.limits[3].zone: is of calendar days alone",
        "account.other.provider: `acme` is not known",
        "account.other.keys: is missing",
        "pool.chat.targets[0].account: there is no account `mian`; known accounts: main, other",
        "pool.chat.targets[1].account: is missing",
        "pool.chat.targets[1].tire: there is no such field",
    ] {
        assert!(
            found.iter().any(|line| line.starts_with(expected)),
            "{expected} not in {found:#?}"
        );
    }
}

#[test]
fn text_that_is_not_toml_says_where() {
    let found = mistakes("[nats]\nurl = \n");
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("line 2"), "{found:?}");
}

#[test]
fn mistakes_do_not_repeat_credentials() {
    for text in [
        "[nats]\nurl = \"nats://me:sk-secret@host\n",
        "[account.q]\nprovider = \"openai\"\nkeys = \"sk-secret\"\n",
        "[account.q]\nprovider = \"openai\"\nkeys = [\"sk-secret\"]\n",
        "[account.q]\nprovider = \"openai\"\nkeys = [{ env = [\"sk-secret\"] }]\n",
    ] {
        let found = mistakes(text);
        assert!(!format!("{found:?}").contains("sk-secret"), "{found:?}");
    }
}

#[test]
fn a_key_that_is_not_there_is_named_and_nothing_else_of_it() {
    let config = Config::parse(GOOD).expect("no mistakes");
    let error = config
        .workers()
        .expect_err("the variable is not set")
        .to_string();
    assert!(error.contains("account.main.keys[0].env"), "{error}");
    assert!(
        error.contains("FOREBAY_TEST_KEY_THAT_IS_NOT_SET"),
        "{error}"
    );
}

#[test]
fn an_address_with_a_credential_is_refused_without_repeating_it() {
    let text = "[account.q]\nprovider = \"openai\"\nbase_url = \"http://me:sk-secret@host/v1?key=sk-secret\"\nkeys = [{ env = \"K\" }]\n";
    let found = mistakes(text);
    assert!(
        found.len() == 1 && found[0].starts_with("account.q.base_url"),
        "{found:?}"
    );
    assert!(!found[0].contains("sk-secret"), "{found:?}");
}

#[test]
fn relations_are_checked() {
    let found = mistakes(
        "[data]\nkeep_days = 1\ndedupe_days = 3\n[streams]\ncompletions_max_age = \"2d\"\njobs_max_bytes = \"1\"\n",
    );
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn the_configurations_that_are_shown_have_no_mistakes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in [
        "examples/forebay.toml",
        "examples/compose/forebay.toml",
        "examples/local-embeddings/forebay.toml",
        "examples/simulated-providers/forebay.toml",
    ] {
        let config = Config::load(Some(&root.join(file))).expect(file);
        assert!(!config.pools.is_empty(), "{file}");
    }
    let readme = std::fs::read_to_string(root.join("README.md")).expect("text");
    let shown: Vec<_> = readme
        .split("```toml")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(!shown.is_empty());
    for text in shown {
        Config::parse(text).expect("a configuration of the README");
    }
}

#[test]
fn versions_keys_and_targets_that_no_call_could_be_made_with_are_mistakes() {
    let account = |name: &str, fields: &str| {
        format!("[account.{name}]\nkeys = [{{ env = \"K\" }}]\n{fields}\n")
    };
    let azure = |name: &str, end: &str, rest: &str| {
        account(
            name,
            &format!(
                "provider = \"azure\"\nbase_url = \"https://r.openai.azure.com{end}\"\n{rest}"
            ),
        )
    };
    let text = [
        azure("newer", "/openai/v1", ""),
        azure("older", "", "api_version = \"2024-10-21-preview\""),
        azure("newer-with", "/openai/v1/", "api_version = \"2024-10-21\""),
        azure("older-without", "", ""),
        azure("older-wrong", "", "api_version = \"banana\""),
        account("anthropic", "provider = \"anthropic\"\napi_version = \"2026-10-21\""),
        account("anthropic-wrong", "provider = \"anthropic\"\napi_version = \"2025-01-01\""),
        account("openai", "provider = \"openai\"\napi_version = \"1\""),
        "[pool.chat]\ntargets = [{ account = \"newer\", model = \"m\" }, { account = \"newer\", model = \"m\", tier = 1 }]"
            .to_owned(),
    ];
    let found = mistakes(&text.concat());
    let expected = [
        "account.anthropic-wrong.api_version: `2025-01-01` is not known, use one of 2023-06-01, 2026-10-21",
        "account.newer-with.api_version: is for the older address alone",
        "account.older-without.api_version: is missing",
        "account.older-wrong.api_version: `banana` is no version",
        "account.openai.api_version: openai has no versions",
        "pool.chat.targets[1]: `m` at `newer` is a target already",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for expected in expected {
        assert!(
            found.iter().any(|line| line.starts_with(expected)),
            "{expected} not in {found:#?}"
        );
    }
}

#[test]
fn a_key_that_no_call_can_be_signed_with_is_a_mistake_that_does_not_repeat_it() {
    let file = std::env::temp_dir().join(format!("forebay-key-{}", std::process::id()));
    std::fs::write(&file, "AKIASECRET").expect("a file");
    let text = format!(
        "[account.aws]\nprovider = \"bedrock-iam\"\nbase_url = \"https://bedrock-runtime.us-east-1.amazonaws.com\"\n\
         keys = [{{ file = \"{}\" }}]\n[pool.p]\ntargets = [{{ account = \"aws\", model = \"m\" }}]\n",
        file.display()
    );
    let error = Config::parse(&text)
        .expect("no mistakes")
        .workers()
        .expect_err("half a key")
        .to_string();
    std::fs::remove_file(&file).expect("removed");
    assert!(
        error.contains("account.aws.keys[0]: an AWS key is ACCESS_KEY_ID:SECRET_ACCESS_KEY"),
        "{error}"
    );
    assert!(!error.contains("AKIASECRET"), "{error}");
}

#[test]
fn a_value_of_another_type_is_reported_once_in_the_words_of_toml() {
    let found = mistakes(
        "[account.q]\nprovider = \"openai\"\nkeys = [\"sk\"]\nlimits = [{ requests = \"many\", per = \"1m\" }, 5]\n",
    );
    let expected = [
        "account.q.keys[0]: invalid type: string, expected a table",
        "account.q.limits[0].requests: invalid type: string, expected a whole number",
    ];
    for expected in expected {
        assert!(
            found.iter().any(|line| line == expected),
            "{expected} not in {found:#?}"
        );
    }
    assert!(
        !found.iter().any(|line| line.contains("is missing")),
        "{found:#?}"
    );
}

#[test]
fn what_is_known_of_models_is_theirs_unless_a_target_says_otherwise() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "sk-test").expect("written");
    let text = GOOD.replace(
        "env = \"FOREBAY_TEST_KEY_THAT_IS_NOT_SET\"",
        &format!("file = {:?}", file.path()),
    );
    let text = text.replace(
        "model = \"gpt-4o-mini\" }]",
        "model = \"gpt-4o-mini\" }, { account = \"main\", model = \"gpt-4o\", context_window = 9 }, \
         { account = \"main\", model = \"ours\" }]",
    );
    let workers = Config::parse(&text)
        .expect("no mistakes")
        .workers()
        .expect("the key is there");
    let known =
        |target: &forebay_workers::TargetConfig| (target.context_window, target.prices.is_some());
    let known: Vec<_> = workers.pools[0].targets.iter().map(known).collect();
    assert_eq!(
        known,
        [(Some(128_000), true), (Some(9), true), (None, false)]
    );
}

#[test]
fn where_accounts_have_no_pools_these_are_made_for_models() {
    let (accounts, _) = GOOD.split_once("[pool").expect("a pool");
    let config = Config::parse(accounts).expect("no mistakes");
    assert!(config.serves("gpt-4_1", Some("gpt-4.1")) && config.serves("gpt-4_1", None));
    assert!(
        !config.serves("chat", Some("gpt-4.1")),
        "it is of another pool"
    );
    let with_pools = Config::parse(GOOD).expect("no mistakes");
    assert!(
        !with_pools.serves("gpt-4_1", None),
        "only what is configured"
    );
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "[nats]\nprefix = \"ours\"\n").expect("written");
    let config = Config::load(Some(file.path())).expect("no mistakes");
    assert_eq!(
        config.nats.names.prefix(),
        "ours",
        "what is written holds, though accounts are of the environment"
    );
}

#[test]
fn a_cache_is_off_or_shares_calls_or_keeps_answers_within_the_horizon() {
    let with = |cache: &str| {
        format!(
            "{GOOD}\n[pool.other]\ncache = \"{cache}\"\ntargets = [{{ account = \"main\", model = \"m\" }}]\n"
        )
    };
    for (cache, expected) in [
        ("off", Cache::Off),
        ("coalesce", Cache::Coalesce),
        ("2days", Cache::Within(Duration::from_secs(172_800))),
    ] {
        let config = Config::parse(&with(cache)).expect("no mistakes");
        assert_eq!(config.pools["other"].cache, expected, "{cache}");
    }
    for (cache, problem) in [
        ("soon", "no duration"),
        ("3days", "dedupe_days"),
        ("0s", "is now \"coalesce\""),
    ] {
        let mistakes = mistakes(&with(cache));
        assert!(
            mistakes[0].starts_with("pool.other.cache: ") && mistakes[0].contains(problem),
            "{mistakes:?}"
        );
    }
}

#[test]
fn words_of_0_1_are_refused_with_those_of_today_and_nothing_follows_from_them() {
    let text = r#"
[quota.main]
provider = "openai"
keys = [{ name = "a", env = "KEY" }]
limits = [{ requests = 0, per = "1m" }]
[quota.other]
provider = "openai"
keys = [{ name = "a", env = "KEY" }]
[streams]
jobs_max_per_flow = 5
[pool.chat]
join = false
reuse = "0s"
targets = [{ quota = "main", model = "m" }, { quota = "other", model = "m" }]
"#;
    let expected = [
        "quota.main: is now [account.main]",
        "quota.other: is now [account.other]",
        "streams.jobs_max_per_flow: is now `jobs_max_per_queue`",
        "pool.chat.join: is now `merge`",
        "pool.chat.reuse: is now `cache`",
        "pool.chat.targets[0].quota: is now `account`",
        "pool.chat.targets[1].quota: is now `account`",
        // Mistakes beside the old words are reported as before.
        "account.main.limits[0]: a limit of 0 lets nothing through: leave the model out of the pool instead",
    ];
    assert_eq!(mistakes(text), expected);
    assert_eq!(mistakes("quota = 5\n"), ["quota: is now [account.NAME]"]);
}

#[test]
fn a_teams_name_begins_with_a_letter() {
    for team in ["1-mini", "_a", "-"] {
        let found = mistakes(&format!("{GOOD}\n[team.{team}]\n"));
        assert!(
            found[0].starts_with(&format!("team.{team}: ")) && found[0].contains("a letter"),
            "{found:?}"
        );
    }
}

#[test]
fn a_teams_lanes_are_all_unless_it_names_some_that_exist() {
    let lanes = |text: &str| {
        let config = Config::parse(&format!("{GOOD}\n[team.other]\n{text}\n"));
        config.map(|config| config.team("other").lanes)
    };
    assert_eq!(lanes("").expect("valid"), Lane::ALL);
    let named = lanes("lanes = [\"bulk\", \"normal\"]").expect("valid");
    assert_eq!(named, [Lane::Bulk, Lane::Normal]);
    for (text, path) in [
        ("lanes = []", "team.other.lanes: "),
        ("lanes = [\"urgent\"]", "team.other.lanes[0]: "),
    ] {
        let found = mistakes(&format!("{GOOD}\n[team.other]\n{text}\n"));
        assert!(found[0].starts_with(path), "{found:?}");
    }
}

#[test]
fn teams_that_are_not_configured_are_refused_once_one_is_or_as_it_says() {
    let refused = |head: &str, rest: &str| {
        Config::parse(&format!("{head}{rest}"))
            .expect("no mistakes")
            .refuses_team("other")
            .is_some()
    };
    let (without, _) = GOOD.split_once("[team").expect("a team");
    assert!(!refused("", without));
    assert!(refused("", GOOD));
    assert!(refused("[nats]\nunknown_teams = \"refuse\"\n", without));
    assert!(!refused("[nats]\nunknown_teams = \"serve\"\n", GOOD));
    let config = Config::parse(GOOD).expect("no mistakes");
    assert_eq!(
        (config.refuses_team("acme"), config.refuses_team("default")),
        (None, None)
    );
    let found = mistakes("[nats]\nunknown_teams = \"ask\"\n");
    assert_eq!(
        found,
        ["nats.unknown_teams: `ask` is not known, use \"serve\" or \"refuse\""]
    );
}

#[test]
fn models_with_one_dot_are_known_where_subjects_are_read() {
    let models = Config::parse(GOOD)
        .expect("no mistakes")
        .addressing()
        .dotted_models;
    assert!(models.contains("gpt-4.1-mini") && !models.contains("gpt-4o-mini"));
}
