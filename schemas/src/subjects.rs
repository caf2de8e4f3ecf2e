//! Every name of a subject, stream or consumer, and the encoding of ids in subjects. No other file
//! spells one out.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::flow::{DEFAULT_TEAM, Flow, Lane, NAME_RULE, NO_BATCH, is_name, pool_of_model};

/// The longest encoded id, in bytes, that is put into a subject as it is.
const MAX_ENCODED_ID: usize = 128;
/// The longest name of a job's object, in bytes.
const MAX_OBJECT: usize = 512;

/// Returns true if an object may hold a job of this team. Its name begins with the team's and a
/// slash. It has at most 512 bytes and no control characters, since it becomes a part of a subject.
pub fn is_object_of(object: &str, team: &str) -> bool {
    object.len() <= MAX_OBJECT
        && !object.contains(char::is_control)
        && object
            .strip_prefix(team)
            .is_some_and(|rest| rest.starts_with('/'))
}

/// The last token of the subject of a rejection.
pub const REJECTED: &str = ".rejected";

/// Encodes an id as one subject token: bytes outside `[A-Za-z0-9_-]` become `%XX`. If that is
/// longer than 128 bytes, the token is `%sha256-` and the SHA-256 of the id in hex. Every `%` of an
/// encoded id is followed by two upper-case hex digits, so the two forms cannot collide.
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

/// Encodes `bytes` as lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Returns the bytes of lower-case hexadecimal digits; `None` if the text is no such number of bytes.
pub fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let byte = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    digits.chunks_exact(2).map(byte).collect()
}

/// Returns the first 32 hex digits of the SHA-256 of `bytes`, which identify them.
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
    /// Creates the names under `prefix`, a single subject token.
    ///
    /// # Errors
    /// Fails when `prefix` is not a name (see [`is_name`]).
    pub fn new(prefix: &str) -> Result<Self, String> {
        if is_name(prefix) {
            Ok(Self {
                prefix: prefix.to_owned(),
            })
        } else {
            Err(format!("`{prefix}` cannot be a prefix: use {NAME_RULE}"))
        }
    }

    /// Returns the prefix itself.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the object of a job that no message can hold.
    pub fn object(&self, team: &str, batch: Option<&str>, id: &str) -> String {
        format!("{team}/{}/{}", batch.unwrap_or(NO_BATCH), encode_id(id))
    }

    /// Returns the object of a completion that no message can hold. No other completion's object
    /// has this name.
    pub fn answer_object(&self, team: &str, batch: Option<&str>, id: &str, whole: &[u8]) -> String {
        format!("{}/{}", self.object(team, batch, id), digest(whole))
    }

    /// Returns the filter for every job's subject.
    pub fn all_jobs(&self) -> String {
        format!("{}.jobs.>", self.prefix)
    }

    /// Returns the full subject of a flow's jobs.
    pub fn job(&self, flow: &Flow) -> String {
        format!("{}.jobs.{flow}", self.prefix)
    }

    /// Returns every subject of this flow, short forms included.
    pub fn job_filters(&self, flow: &Flow) -> Vec<String> {
        let prefix = &self.prefix;
        let Flow { pool, team, lane } = flow;
        let mut filters = vec![self.job(flow)];
        if *lane == Lane::Normal {
            filters.push(format!("{prefix}.jobs.{pool}.{team}"));
            if team == DEFAULT_TEAM {
                filters.push(format!("{prefix}.jobs.{pool}"));
            }
        }
        filters
    }

    /// Returns the flow of a job's or an announcement's subject; `None` if the subject has another
    /// form. Its pool and team need not be names: see [`Flow::problem`].
    pub fn flow_of(&self, subject: &str) -> Option<Flow> {
        let rest = subject.strip_prefix(&self.prefix)?;
        let kinds = [".jobs.", ".seen.", ".due.", ".seen_due."];
        let rest = kinds.into_iter().find_map(|kind| rest.strip_prefix(kind))?;
        let mut tokens = rest.split('.');
        // The server stores a publish to a literal `*`. A filter made of it would take other teams'
        // jobs.
        let literal = |token: &&str| !matches!(*token, "" | "*" | ">");
        let pool = tokens.next().filter(literal)?.to_owned();
        let team = Some(tokens.next().unwrap_or(DEFAULT_TEAM))
            .filter(literal)?
            .to_owned();
        let lane = tokens.next().map_or(Ok(Lane::Normal), str::parse).ok()?;
        tokens.next().is_none().then_some(Flow { pool, team, lane })
    }

    /// Returns the subjects of jobs for a model, as text for people: the one for publishes and the
    /// one for requests.
    pub fn subjects_of_model(&self, model: &str) -> String {
        let pool = pool_of_model(model);
        format!(
            "`{prefix}.jobs.{pool}`, or `{prefix}.ask.{pool}.{DEFAULT_TEAM}` to wait for the answer",
            prefix = self.prefix
        )
    }

    /// Returns the filter for the subjects on which the server announces the headers of new jobs.
    pub fn all_seen(&self) -> String {
        format!("{}.seen.>", self.prefix)
    }

    /// Returns the filter for the subjects on which the server announces the headers of due jobs.
    pub fn all_seen_due(&self) -> String {
        format!("{}.seen_due.>", self.prefix)
    }

    /// Returns the durable consumer of a flow. Names can contain `-`, so the parts are joined by
    /// `+`, which they cannot contain.
    pub fn consumer(&self, flow: &Flow) -> String {
        if !flow.has_names() {
            return format!("odd+{}", hex(&Sha256::digest(flow.to_string())[..16]));
        }
        format!("{}+{}+{}", flow.pool, flow.team, flow.lane)
    }

    /// Returns one of the names that a flow's durable consumer can have, by its number from 1. The first is
    /// [`Names::consumer`]; the others are for a server that cannot create that one.
    pub fn consumer_numbered(&self, flow: &Flow, number: u32) -> String {
        match number {
            1 => self.consumer(flow),
            number => format!("{}+{number}", self.consumer(flow)),
        }
    }

    /// Returns the filter for jobs that wait for their scheduled time.
    pub fn all_scheduled(&self) -> String {
        format!("{}.scheduled.>", self.prefix)
    }

    /// Returns the filters for jobs that wait for their scheduled time, and for due jobs.
    pub fn scheduled_subjects(&self) -> Vec<String> {
        vec![self.all_scheduled(), format!("{}.due.>", self.prefix)]
    }

    /// Returns the subject on which a job waits for its scheduled time, without its last token: a code that only Forebay
    /// can compute, so that no other program can name the subject.
    pub fn scheduled(&self, team: &str, batch: Option<&str>, id: &str) -> String {
        let batch = batch.unwrap_or(NO_BATCH);
        format!("{}.scheduled.{team}.{batch}.{}", self.prefix, encode_id(id))
    }

    /// Returns the filter for the subject on which a job waits for its scheduled time, with any code.
    pub fn scheduled_of_job(&self, team: &str, batch: Option<&str>, id: &str) -> String {
        format!("{}.*", self.scheduled(team, batch, id))
    }

    /// Returns the filter for the scheduled jobs of a batch; without one, for a team's jobs that
    /// have no batch.
    pub fn scheduled_of(&self, team: &str, batch: Option<&str>) -> String {
        format!(
            "{}.scheduled.{team}.{}.*.*",
            self.prefix,
            batch.unwrap_or(NO_BATCH)
        )
    }

    /// Returns the subject on which a flow's jobs come back at their scheduled time.
    pub fn due(&self, flow: &Flow) -> String {
        format!("{}.due.{flow}", self.prefix)
    }

    /// Returns the filter for every due job's subject.
    pub fn all_due(&self) -> String {
        format!("{}.due.>", self.prefix)
    }

    /// Returns the subject of the calls for a job, without its last token: a code that only Forebay can compute.
    pub fn attempts(&self, team: &str, batch: Option<&str>, id: &str) -> String {
        let batch = batch.unwrap_or(NO_BATCH);
        format!("{}.attempts.{team}.{batch}.{}", self.prefix, encode_id(id))
    }

    /// Returns the filter for every job's calls.
    pub fn all_attempts(&self) -> String {
        format!("{}.attempts.>", self.prefix)
    }

    /// Returns the subject of a job's completion.
    pub fn completion(&self, team: &str, batch: Option<&str>, id: &str) -> String {
        let batch = batch.unwrap_or(NO_BATCH);
        format!(
            "{}.completions.{team}.{batch}.{}",
            self.prefix,
            encode_id(id)
        )
    }

    /// Returns the subject on which a request is rejected whose identity is another's.
    pub fn rejection(&self, team: &str, batch: Option<&str>, id: &str) -> String {
        self.completion(team, batch, id) + REJECTED
    }

    /// Returns the filter for the rejections of a batch.
    pub fn rejections_of(&self, team: &str, batch: &str) -> String {
        self.completions_of(team, Some(batch)) + REJECTED
    }

    /// Returns the beginning of the subjects of a team's completions. A batch and an id follow.
    pub fn completion_prefix(&self, team: &str) -> String {
        format!("{}.completions.{team}.", self.prefix)
    }

    /// Returns the filter for every completion's subject.
    pub fn all_completions(&self) -> String {
        format!("{}.completions.>", self.prefix)
    }

    /// Returns the filter for the completions of a team, or of one of its batches.
    pub fn completions_of(&self, team: &str, batch: Option<&str>) -> String {
        match batch {
            Some(batch) => format!("{}.completions.{team}.{batch}.*", self.prefix),
            None => format!("{}.completions.{team}.>", self.prefix),
        }
    }

    /// Returns the filter for every dead letter's subject.
    pub fn all_dead(&self) -> String {
        format!("{}.dead.>", self.prefix)
    }

    /// Returns the subject of the dead letters of a pool and a team. In a text that is not a name,
    /// every character that a name cannot contain becomes `_`.
    pub fn dead(&self, pool: &str, team: &str) -> String {
        format!(
            "{}.dead.{}.{}",
            self.prefix,
            pool_of_model(pool),
            pool_of_model(team)
        )
    }

    /// Returns the filter for a team's jobs, in every pool and in the normal lane. One token more
    /// names another lane.
    pub fn job_of_team(&self, team: &str) -> String {
        format!("{}.jobs.*.{team}", self.prefix)
    }

    /// Returns the filter for a team's requests, in every pool.
    pub fn ask_of_team(&self, team: &str) -> String {
        format!("{}.ask.*.{team}", self.prefix)
    }

    /// Returns the prefix of a team's inboxes.
    pub fn inbox(&self, team: &str) -> String {
        format!("_INBOX_{team}")
    }

    /// Returns the filter for a team's services of one kind: `read`, `write` or `manage`.
    pub fn team_services(&self, team: &str, kind: &str) -> String {
        format!("{}.team.{team}.{kind}.>", self.prefix)
    }

    /// Returns the filter for the services of one kind of all teams.
    pub fn all_team_services(&self, kind: &str) -> String {
        self.team_services("*", kind)
    }

    /// Returns the filter for every request of clients that wait for their completion.
    pub fn all_ask(&self) -> String {
        format!("{}.ask.>", self.prefix)
    }

    /// Returns the filter for every service of operators.
    pub fn all_ctl(&self) -> String {
        self.ctl(">")
    }

    /// Returns the filter for every subject under the prefix.
    pub fn all(&self) -> String {
        format!("{}.>", self.prefix)
    }

    /// Returns the filter for the dead letters of a pool, a team, both or all.
    pub fn dead_of(&self, pool: Option<&str>, team: Option<&str>) -> String {
        let token = |name: Option<&str>| name.map_or_else(|| "*".to_owned(), pool_of_model);
        format!("{}.dead.{}.{}", self.prefix, token(pool), token(team))
    }

    /// Returns the filter for every event's subject.
    pub fn all_events(&self) -> String {
        format!("{}.events.>", self.prefix)
    }

    /// Returns the subject of the events of an account.
    pub fn account_event(&self, account: &str) -> String {
        format!("{}.events.accounts.{account}", self.prefix)
    }

    /// Returns the filter for requests of clients that wait for their completion. The wildcards are
    /// pool and team.
    pub fn ask(&self) -> String {
        format!("{}.ask.*.*", self.prefix)
    }

    /// Returns the flow of a request on [`Names::ask`]; `None` for another subject, and where pool
    /// or team is not a name.
    pub fn flow_of_ask(&self, subject: &str) -> Option<Flow> {
        let rest = subject.strip_prefix(&self.prefix)?.strip_prefix(".ask.")?;
        let (pool, team) = rest.split_once('.')?;
        if !is_name(pool) || !is_name(team) {
            return None;
        }
        Some(Flow {
            pool: pool.to_owned(),
            team: team.to_owned(),
            lane: Lane::Interactive,
        })
    }

    /// Returns the request subject of an operator's verb.
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
        assert_eq!(
            one,
            names.consumer_numbered(&flow("gpt-4o", "mini-x", Lane::Normal), 1)
        );
        let second = names.consumer_numbered(&flow("gpt-4o", "mini-x", Lane::Normal), 2);
        assert!(second != one && is_name(&second.replace('+', "")));
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
    fn a_team_begins_with_a_letter_and_the_rest_of_a_models_name_is_reported() {
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
