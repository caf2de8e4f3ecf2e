//! The rules for which subjects are served, and the refusals of jobs on other subjects.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use forebay_schemas::flow::DEFAULT_TEAM;
use forebay_schemas::{Flow, Format, Names};

use crate::outcome::outcome::Rejection;

/// The rules that decide whether jobs of a pool and a team are served.
#[derive(Debug, Clone, Default)]
pub struct SubjectRules {
    /// The names under which jobs are published.
    pub names: Names,
    /// The known models whose names have one dot. A subject can part such a name into a pool and a team.
    pub dotted_models: Arc<HashSet<String>>,
    /// True if only configured teams are served, and the default team, which is that of jobs without a team.
    pub refuses_unknown_teams: bool,
}

impl SubjectRules {
    /// Returns the refusal of a flow's jobs; `None` if they are served. Jobs in format 1 with valid names are served,
    /// because they were published before these rules.
    pub(crate) fn refusal<T>(
        &self,
        flow: &Flow,
        teams: &HashMap<String, T>,
        format: Format,
    ) -> Option<Rejection> {
        if format == Format::One && flow.has_names() {
            return None;
        }
        let is_configured = teams.contains_key(&flow.team);
        let model = flow.dotted_model();
        if !is_configured && self.dotted_models.contains(&model) {
            let subjects = self.names.subjects_of_model(&model);
            let Flow { pool, team, .. } = flow;
            let problem = format!(
                "the subject names the pool `{pool}` and the team `{team}`: for the model {model} use {subjects}"
            );
            return Some(("invalid_subject", problem));
        }
        if let Some(mut problem) = flow.problem() {
            // A subject without a team has not parted a model's name by its dot.
            if flow.team != DEFAULT_TEAM {
                let subjects = self.names.subjects_of_model(&model);
                problem.push_str(&format!("; if {model} is a model, use {subjects}"));
            }
            return Some(("invalid_subject", problem));
        }
        if self.refuses_unknown_teams && !is_configured && flow.team != DEFAULT_TEAM {
            return Some(("unknown_team", unknown_team(&flow.team)));
        }
        None
    }

    /// Returns the teams that are served; `None` if all are.
    pub(crate) fn served<T>(&self, teams: &HashMap<String, T>) -> Option<BTreeSet<String>> {
        if !self.refuses_unknown_teams {
            return None;
        }
        let mut served: BTreeSet<_> = teams.keys().cloned().collect();
        served.insert(DEFAULT_TEAM.to_owned());
        Some(served)
    }
}

/// Returns the message for a team that is not configured, where only configured teams are served.
pub fn unknown_team(team: &str) -> String {
    format!(
        "there is no team `{team}`: add [team.{team}] to the configuration, or set [nats] unknown_teams = \"serve\""
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(subject: &str, refuses_unknown_teams: bool, format: Format) -> Option<Rejection> {
        let names = Names::default();
        let flow = names.flow_of(subject).expect("a flow");
        let dotted_models = Arc::new(
            ["gpt-4.1-mini", "anthropic.claude-v2", "amazon.acme"]
                .map(str::to_owned)
                .into(),
        );
        let teams = HashMap::from([("acme".to_owned(), ())]);
        SubjectRules {
            names,
            dotted_models,
            refuses_unknown_teams,
        }
        .refusal(&flow, &teams, format)
    }

    #[test]
    fn a_models_name_that_its_dot_makes_a_pool_and_a_team_is_refused_with_the_right_subject() {
        for (subject, right) in [
            ("ai.jobs.gpt-4.1-mini", "`ai.jobs.gpt-4_1-mini`"),
            ("ai.jobs.gpt-4.1-mini.bulk", "`ai.jobs.gpt-4_1-mini`"),
            (
                "ai.jobs.anthropic.claude-v2",
                "`ai.jobs.anthropic_claude-v2`",
            ),
            // Not a known model, but no team either.
            ("ai.jobs.gpt-9.9-nano", "`ai.jobs.gpt-9_9-nano`"),
            ("ai.jobs.llama3.1:8b", "`ai.jobs.llama3_1_8b`"),
        ] {
            let (code, message) = refusal(subject, false, Format::Two).expect(subject);
            assert!(
                code == "invalid_subject" && message.contains(right),
                "{subject}: {message}"
            );
        }
        assert_eq!(
            refusal("ai.jobs.amazon.acme", false, Format::Two),
            None,
            "that team is configured"
        );
        assert_eq!(refusal("ai.jobs.anthropic.other", false, Format::Two), None);
        assert_eq!(
            refusal("ai.jobs.gpt-4.1-mini", false, Format::One),
            None,
            "it was taken before"
        );
    }

    #[test]
    fn unknown_teams_are_refused_where_that_is_configured() {
        assert_eq!(refusal("ai.jobs.chat.other", false, Format::Two), None);
        let (code, message) = refusal("ai.jobs.chat.other", true, Format::Two).expect("refused");
        assert!(
            code == "unknown_team" && message.contains("[team.other]"),
            "{message}"
        );
        for known in [
            "ai.jobs.chat.acme",
            "ai.jobs.chat.default.bulk",
            "ai.jobs.chat",
        ] {
            assert_eq!(refusal(known, true, Format::Two), None, "{known}");
        }
    }
}
