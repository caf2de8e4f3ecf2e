//! The NATS permissions of one team. It may publish its own jobs, request its own answers and
//! receive its own completions.
//!
//! A server checks the subject of a message, but not the reply subject that the message names. The
//! reply is published with the rights of the component that answers.
//!
//! Therefore nothing is granted whose reply could do harm on a foreign subject:
//! - no reads of the stream, whose replies are whole completions;
//! - no acks, whose replies are empty, like requests to delete;
//! - no consumers, for which the server publishes to any subject that they name.

use forebay_schemas::{Lane, Names};
use serde_json::{Value, json};

/// The placeholder for the NATS account of Forebay's own user.
const FOREBAY: &str = "FOREBAY";

/// The permissions of a team.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeamGrants {
    /// Subjects on which it may publish.
    pub publish: Vec<String>,
    /// Subjects to which it may subscribe.
    pub subscribe: Vec<String>,
}

impl TeamGrants {
    /// Returns the permissions of `team`, which may use `lanes`, under `names`.
    pub fn of(team: &str, lanes: &[Lane], names: &Names) -> Self {
        let mut publish = jobs_of(team, lanes, names);
        publish.push(names.ask_of_team(team));
        Self {
            publish,
            subscribe: vec![
                names.completions_of(team, None),
                format!("{}.>", names.inbox(team)),
            ],
        }
    }

    /// Formats the permissions as a NATS account of the team's own in a nats-server's
    /// configuration. The text has the exports of Forebay's account and the imports of the team's
    /// account.
    ///
    /// The server then separates the subjects of both accounts. Replies reach only the account of
    /// the request.
    pub fn to_account(&self, team: &str) -> String {
        let lines = |kind: &str, subjects: &[String], line: &dyn Fn(&str, &str) -> String| {
            subjects
                .iter()
                .map(|subject| line(kind, subject))
                .collect::<Vec<_>>()
                .join("\n")
        };
        let export =
            |kind: &str, subject: &str| format!("{{ {kind}: {subject:?}, accounts: [{team:?}] }}");
        let import = |kind: &str, subject: &str| {
            format!("    {{ {kind}: {{ account: {FOREBAY}, subject: {subject:?} }} }}")
        };
        format!(
            r#"# Team {team}, in a NATS account of its own. {FOREBAY} stands for the NATS account that Forebay's user is in.
# Goes into `accounts {{ {FOREBAY}: {{ exports: [ … ] }} }}`:
{service_exports}
{stream_exports}
# Goes into `accounts {{ … }}`:
{team}: {{
  users: [{{ user: {team:?}, password: ${variable} }}]
  imports: [
{service_imports}
{stream_imports}
  ]
}}"#,
            service_exports = lines("service", &self.publish, &export),
            stream_exports = lines("stream", &self.subscribe, &export),
            service_imports = lines("service", &self.publish, &import),
            stream_imports = lines("stream", &self.subscribe, &import),
            variable = password_of(team),
        )
    }

    /// Returns the same exports and imports as JSON.
    pub fn in_json(&self, team: &str) -> Value {
        let entries = |kind: &str, subjects: &[String], entry: &dyn Fn(&str, &str) -> Value| {
            subjects
                .iter()
                .map(|subject| entry(kind, subject))
                .collect::<Vec<_>>()
        };
        let services_and_streams = |entry: &dyn Fn(&str, &str) -> Value| {
            [
                entries("service", &self.publish, entry),
                entries("stream", &self.subscribe, entry),
            ]
            .concat()
        };
        json!({
            "exports": services_and_streams(&|kind, subject| json!({ kind: subject, "accounts": [team] })),
            "account": team,
            "imports": services_and_streams(&|kind, subject| json!({ kind: { "account": FOREBAY, "subject": subject } })),
        })
    }

    /// Formats the permissions as a user in a nats-server's configuration. The password is read
    /// from the environment.
    pub fn to_user(&self, team: &str, names: &Names) -> String {
        let list = |subjects: &[String]| {
            let quoted: Vec<_> = subjects
                .iter()
                .map(|subject| format!("        {subject:?}"))
                .collect();
            quoted.join("\n")
        };
        let variable = password_of(team);
        format!(
            r#"# Team {team}: goes into `authorization {{ users: [ … ] }}` of the nats-server. Its clients set
# their inbox prefix to {inbox}.
{{
  user: {team:?}
  password: ${variable}
  permissions: {{
    publish: {{
      allow: [
{publish}
      ]
    }}
    subscribe: {{
      allow: [
{subscribe}
      ]
    }}
  }}
}}"#,
            inbox = names.inbox(team),
            publish = list(&self.publish),
            subscribe = list(&self.subscribe),
        )
    }
}

/// Returns the subjects of a team's jobs on `lanes`. A subject without a lane is of the normal one.
fn jobs_of(team: &str, lanes: &[Lane], names: &Names) -> Vec<String> {
    let jobs = names.job_of_team(team);
    if Lane::ALL.iter().all(|lane| lanes.contains(lane)) {
        return vec![jobs.clone(), format!("{jobs}.*")];
    }
    let mut subjects = Vec::new();
    if lanes.contains(&Lane::Normal) {
        subjects.push(jobs.clone());
    }
    subjects.extend(lanes.iter().map(|lane| format!("{jobs}.{lane}")));
    subjects
}

/// Returns the environment variable of a team's password. It differs for each team.
fn password_of(team: &str) -> String {
    format!(
        "TEAM_{}_PASSWORD",
        team.replace('_', "__").replace('-', "_h")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_team_may_publish_on_its_lanes_alone() {
        let names = Names::default();
        let publish = |lanes: &[Lane]| TeamGrants::of("acme", lanes, &names).publish;
        assert_eq!(
            publish(&Lane::ALL),
            ["ai.jobs.*.acme", "ai.jobs.*.acme.*", "ai.ask.*.acme"]
        );
        assert_eq!(
            publish(&[Lane::Bulk]),
            ["ai.jobs.*.acme.bulk", "ai.ask.*.acme"]
        );
        assert_eq!(
            publish(&[Lane::Normal]),
            ["ai.jobs.*.acme", "ai.jobs.*.acme.normal", "ai.ask.*.acme"]
        );
    }
}
