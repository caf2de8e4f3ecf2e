//! Every subject, stream and consumer name, and the encoding of ids in subjects. No other file
//! spells one out.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::flow::{DEFAULT_TEAM, Flow, Lane, NAME_RULE, NO_BATCH, is_name, pool_of_model};

/// Longest encoded id, in bytes, that is put into a subject as it is.
const MAX_ENCODED_ID: usize = 128;
/// Longest name of a job's object, in bytes.
const MAX_OBJECT: usize = 512;

/// Whether an object may hold a job of this team: its name begins with the team's and a slash, and has at most 512
/// bytes, since it stands in a subject.
pub fn is_object_of(object: &str, team: &str) -> bool {
    object.len() <= MAX_OBJECT
        && !object.contains(char::is_control)
        && object
            .strip_prefix(team)
            .is_some_and(|rest| rest.starts_with('/'))
}

/// An id as one subject token: bytes outside `[A-Za-z0-9_-]` as `%XX`; when that is longer than
/// 128 bytes, `%` and the SHA-256 of the id in hex instead. An encoded id never has a `%` that two
/// upper-case hex digits do not follow, so the two forms cannot meet.
pub fn encode_id(id: &str) -> String {
    use fmt::Write as _;
    let mut token = String::with_capacity(id.len());
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            token.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(token, "%{byte:02X}");
        }
    }
    if token.len() <= MAX_ENCODED_ID {
        return token;
    }
    format!("%sha256-{}", hex(&Sha256::digest(id.as_bytes())))
}

/// Lower-case hex digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// 32 hex digits that no other bytes have.
pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes)[..16])
}

/// All names under one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    prefix: String,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            prefix: "ai".to_owned(),
        }
    }
}

impl Names {
    /// Names under `prefix`, a single subject token.
    ///
    /// # Errors
    /// When `prefix` is not a name (see [`is_name`]).
    pub fn new(prefix: &str) -> Result<Self, String> {
        if is_name(prefix) {
            Ok(Self {
                prefix: prefix.to_owned(),
            })
        } else {
            Err(format!("`{prefix}` cannot be a prefix: use {NAME_RULE}"))
        }
    }

    /// The prefix itself.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn stream(&self, what: &str) -> String {
        format!("{}_{what}", self.prefix.to_uppercase().replace('-', "_"))
    }

    /// The work queue of jobs.
    pub fn jobs_stream(&self) -> String {
        self.stream("JOBS")
    }

    /// Jobs that are scheduled for their own time.
    pub fn scheduled_stream(&self) -> String {
        self.stream("SCHEDULED")
    }

    /// The final answers.
    pub fn completions_stream(&self) -> String {
        self.stream("COMPLETIONS")
    }

    /// Given-up jobs and messages that are none.
    pub fn dead_stream(&self) -> String {
        self.stream("DEAD")
    }

    /// Changes of accounts: their keys and models.
    pub fn events_stream(&self) -> String {
        self.stream("EVENTS")
    }

    /// The key-value bucket in which nodes coordinate.
    pub fn nodes_bucket(&self) -> String {
        self.stream("NODES")
    }

    /// The key-value bucket of what of accounts outlives a process.
    pub fn accounts_bucket(&self) -> String {
        self.stream("ACCOUNTS")
    }

    /// The key-value bucket of what operators paused and cancelled.
    pub fn controls_bucket(&self) -> String {
        self.stream("CONTROLS")
    }

    /// The object store of jobs that no message can hold.
    pub fn requests_bucket(&self) -> String {
        self.stream("REQUESTS")
    }

    /// The object store of completions that no message can hold.
    pub fn answers_bucket(&self) -> String {
        self.stream("ANSWERS")
    }

    /// The stream of an object store, which NATS clients derive from its name.
    pub fn bucket_stream(bucket: &str) -> String {
        format!("OBJ_{bucket}")
    }

    /// Chunks and descriptions of a bucket's objects, which NATS clients derive from its name.
    pub fn bucket_subjects(bucket: &str) -> [String; 2] {
        [format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")]
    }

    /// The object of a job that no message can hold.
    pub fn object(&self, team: &str, batch: Option<&str>, id: &str) -> String {
        format!("{team}/{}/{}", batch.unwrap_or(NO_BATCH), encode_id(id))
    }

    /// The object of a completion that no message can hold; no other completion's object has its name.
    pub fn answer_object(&self, team: &str, batch: Option<&str>, id: &str, whole: &[u8]) -> String {
        format!("{}/{}", self.object(team, batch, id), digest(whole))
    }

    /// Every job's subject.
    pub fn all_jobs(&self) -> String {
        format!("{}.jobs.>", self.prefix)
    }

    /// The full subject of a flow's jobs.
    pub fn job(&self, flow: &Flow) -> String {
        format!("{}.jobs.{flow}", self.prefix)
    }

    /// Every subject, short forms included, that means this flow.
    pub fn job_filters(&self, flow: &Flow) -> Vec<String> {
        let mut filters = vec![self.job(flow)];
        if flow.lane == Lane::Normal {
            filters.push(format!("{}.jobs.{}.{}", self.prefix, flow.pool, flow.team));
            if flow.team == DEFAULT_TEAM {
                filters.push(format!("{}.jobs.{}", self.prefix, flow.pool));
            }
        }
        filters
    }

    /// The flow that a job's or an announcement's subject means; `None` if it has not the form of one.
    /// Its pool and team need not be names: see [`Flow::problem`].
    pub fn flow_of(&self, subject: &str) -> Option<Flow> {
        let rest = subject.strip_prefix(&self.prefix)?;
        let kinds = [".jobs.", ".seen.", ".due.", ".seen_due."];
        let rest = kinds.into_iter().find_map(|kind| rest.strip_prefix(kind))?;
        let mut tokens = rest.split('.');
        // The server stores a publish to a literal `*`; a filter made of it would take other people's jobs.
        let literal = |token: &&str| !matches!(*token, "" | "*" | ">");
        let pool = tokens.next().filter(literal)?.to_owned();
        let team = Some(tokens.next().unwrap_or(DEFAULT_TEAM))
            .filter(literal)?
            .to_owned();
        let lane = tokens.next().map_or(Ok(Lane::Normal), str::parse).ok()?;
        tokens.next().is_none().then_some(Flow { pool, team, lane })
    }

    /// The subjects of jobs for a model, in words: to publish on, and to ask on.
    pub fn subjects_of_model(&self, model: &str) -> String {
        let pool = pool_of_model(model);
        format!(
            "`{prefix}.jobs.{pool}`, or `{prefix}.ask.{pool}.{DEFAULT_TEAM}` to wait for the answer",
            prefix = self.prefix
        )
    }

    /// Where the server announces the headers of new jobs.
    pub fn all_seen(&self) -> String {
        format!("{}.seen.>", self.prefix)
    }

    /// Where the server announces the headers of jobs whose time has come.
    pub fn all_seen_due(&self) -> String {
        format!("{}.seen_due.>", self.prefix)
    }

    /// The durable consumer of a flow. Names can hold `-`, so the parts are joined by what they cannot.
    pub fn consumer(&self, flow: &Flow) -> String {
        if !flow.has_names() {
            return format!("odd+{}", hex(&Sha256::digest(flow.to_string())[..16]));
        }
        format!("{}+{}+{}", flow.pool, flow.team, flow.lane)
    }

    /// Jobs that wait for their own time, and those whose time has come.
    pub fn scheduled_subjects(&self) -> Vec<String> {
        vec![
            format!("{}.scheduled.>", self.prefix),
            format!("{}.due.>", self.prefix),
        ]
    }

    /// Where a job waits for its time.
    pub fn scheduled(&self, team: &str, batch: Option<&str>, id: &str) -> String {
        let batch = batch.unwrap_or(NO_BATCH);
        format!("{}.scheduled.{team}.{batch}.{}", self.prefix, encode_id(id))
    }

    /// Where all jobs of a batch wait for their time, or those of a team that are of none.
    pub fn scheduled_of(&self, team: &str, batch: Option<&str>) -> String {
        format!(
            "{}.scheduled.{team}.{}.*",
            self.prefix,
            batch.unwrap_or(NO_BATCH)
        )
    }

    /// Where a flow's jobs come back when their time has come.
    pub fn due(&self, flow: &Flow) -> String {
        format!("{}.due.{flow}", self.prefix)
    }

    /// Every subject of jobs whose time has come.
    pub fn all_due(&self) -> String {
        format!("{}.due.>", self.prefix)
    }

    /// Where a job's completion is published.
    pub fn completion(&self, team: &str, batch: Option<&str>, id: &str) -> String {
        let batch = batch.unwrap_or(NO_BATCH);
        format!(
            "{}.completions.{team}.{batch}.{}",
            self.prefix,
            encode_id(id)
        )
    }

    /// Every completion's subject.
    pub fn all_completions(&self) -> String {
        format!("{}.completions.>", self.prefix)
    }

    /// The completions of a team, or of one of its batches.
    pub fn completions_of(&self, team: &str, batch: Option<&str>) -> String {
        match batch {
            Some(batch) => format!("{}.completions.{team}.{batch}.*", self.prefix),
            None => format!("{}.completions.{team}.>", self.prefix),
        }
    }

    /// Every dead letter's subject.
    pub fn all_dead(&self) -> String {
        format!("{}.dead.>", self.prefix)
    }

    /// Where a pool's and team's dead letters go; of one that is no name, what a name can hold.
    pub fn dead(&self, pool: &str, team: &str) -> String {
        format!(
            "{}.dead.{}.{}",
            self.prefix,
            pool_of_model(pool),
            pool_of_model(team)
        )
    }

    /// The jobs of a team, in every pool and the usual lane; a lane more names the others.
    pub fn job_of_team(&self, team: &str) -> String {
        format!("{}.jobs.*.{team}", self.prefix)
    }

    /// The request subject of a team, in every pool.
    pub fn ask_of_team(&self, team: &str) -> String {
        format!("{}.ask.*.{team}", self.prefix)
    }

    /// The prefix of a team's inboxes.
    pub fn inbox(&self, team: &str) -> String {
        format!("_INBOX_{team}")
    }

    /// The subjects of the dead letters of a pool, a team, both or all.
    pub fn dead_of(&self, pool: Option<&str>, team: Option<&str>) -> String {
        let token = |name: Option<&str>| name.map_or_else(|| "*".to_owned(), pool_of_model);
        format!("{}.dead.{}.{}", self.prefix, token(pool), token(team))
    }

    /// Every event's subject.
    pub fn all_events(&self) -> String {
        format!("{}.events.>", self.prefix)
    }

    /// Where changes of an account are told.
    pub fn account_event(&self, account: &str) -> String {
        format!("{}.events.accounts.{account}", self.prefix)
    }

    /// The request subject of those who wait for their completion; tokens are pool and team.
    pub fn ask(&self) -> String {
        format!("{}.ask.*.*", self.prefix)
    }

    /// Pool and team of a request on [`Names::ask`].
    pub fn flow_of_ask(&self, subject: &str) -> Option<Flow> {
        let rest = subject.strip_prefix(&self.prefix)?.strip_prefix(".ask.")?;
        let (pool, team) = rest.split_once('.')?;
        (is_name(pool) && is_name(team)).then(|| Flow {
            pool: pool.to_owned(),
            team: team.to_owned(),
            lane: Lane::Interactive,
        })
    }

    /// The request subject of an operator's verb.
    pub fn ctl(&self, verb: &str) -> String {
        format!("{}.ctl.{verb}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::is_team;

    fn flow(pool: &str, team: &str, lane: Lane) -> Flow {
        Flow {
            pool: pool.to_owned(),
            team: team.to_owned(),
            lane,
        }
    }

    #[test]
    fn every_short_form_means_the_flow_that_filters_it() {
        let names = Names::default();
        for flow in [
            flow("chat", "default", Lane::Normal),
            flow("chat", "acme", Lane::Normal),
            flow("chat", "default", Lane::Bulk),
        ] {
            for filter in names.job_filters(&flow) {
                assert_eq!(names.flow_of(&filter), Some(flow.clone()), "{filter}");
            }
        }
        assert_eq!(
            names
                .job_filters(&flow("chat", "default", Lane::Normal))
                .len(),
            3
        );
        assert_eq!(
            names.flow_of("ai.seen.chat.acme"),
            Some(flow("chat", "acme", Lane::Normal))
        );
        let late = flow("chat", "acme", Lane::Bulk);
        assert_eq!(names.flow_of(&names.due(&late)), Some(late));
    }

    #[test]
    fn no_two_flows_share_a_consumer() {
        let names = Names::default();
        let one = names.consumer(&flow("gpt-4o", "mini-x", Lane::Normal));
        assert_ne!(one, names.consumer(&flow("gpt-4o-mini", "x", Lane::Normal)));
    }

    #[test]
    fn subjects_that_name_no_flow_are_none() {
        let names = Names::default();
        for subject in [
            "ai.jobs",
            "ai.jobs.a.b.c",
            "ai.jobs.a.b.bulk.d",
            "other.jobs.a",
            "ai.jobs.*",
            "ai.jobs.a.*",
            "ai.jobs.>",
        ] {
            assert_eq!(names.flow_of(subject), None, "{subject}");
        }
    }

    #[test]
    fn a_flow_with_what_is_no_name_has_a_problem_and_safe_names() {
        let names = Names::default();
        let odd = names.flow_of("ai.jobs.llama3:8b").expect("a flow");
        assert!(
            odd.problem()
                .is_some_and(|problem| problem.contains("write `llama3_8b`")),
            "{odd}"
        );
        assert!(is_name(&names.consumer(&odd).replace('+', "")));
        assert_eq!(
            names.dead(&odd.pool, &odd.team),
            "ai.dead.llama3_8b.default"
        );
        for subject in [
            "ai.jobs.a._",
            "ai.jobs.a.b:c",
            "ai.jobs.a/b",
            "ai.jobs.gpt-4.1-mini",
            "ai.jobs.a.-b",
        ] {
            assert!(
                names.flow_of(subject).expect("a flow").problem().is_some(),
                "{subject}"
            );
        }
        assert_eq!(
            names.flow_of("ai.jobs.a.b").expect("a flow").problem(),
            None
        );
    }

    #[test]
    fn a_team_begins_with_a_letter_and_the_rest_of_a_models_name_is_told_as_such() {
        for team in ["acme", "A-1", "b_2"] {
            assert!(is_team(team), "{team}");
        }
        for team in ["1-mini", "_a", "-a", "", "a.b"] {
            assert!(!is_team(team), "{team}");
        }
        let names = Names::default();
        let flow = names.flow_of("ai.jobs.gpt-4.1-mini").expect("a flow");
        assert!(
            flow.problem()
                .is_some_and(|problem| problem.contains("a letter")),
            "{flow}"
        );
        assert_eq!(
            names.subjects_of_model(&flow.dotted_model()),
            "`ai.jobs.gpt-4_1-mini`, or `ai.ask.gpt-4_1-mini.default` to wait for the answer"
        );
    }

    #[test]
    fn ids_are_one_token_whatever_they_hold() {
        assert_eq!(encode_id("request-1"), "request-1");
        assert_eq!(encode_id("a.b *>\u{e9}%"), "a%2Eb%20%2A%3E%C3%A9%25");
        let long = "x".repeat(129);
        assert_eq!(encode_id(&long).len(), "%sha256-".len() + 64);
        assert_ne!(encode_id(&long), encode_id(&"y".repeat(129)));
    }

    #[test]
    fn streams_are_named_after_the_prefix() {
        let names = Names::new("team-a").expect("a name");
        assert_eq!(names.jobs_stream(), "TEAM_A_JOBS");
        assert!(Names::new("a.b").is_err());
    }
}
