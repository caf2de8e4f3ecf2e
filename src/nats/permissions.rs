//! What one team may do at a NATS server: publish its own jobs, ask for its own answers, see its own completions
//! come, and nothing else.
//!
//! The server checks the subject of a message and not the reply subject that it names, to which whoever answers
//! then publishes with rights of their own. So nothing is granted whose answer could do harm where it does not
//! belong: no reads of the stream, whose answers are whole completions; no acks, whose answers are empty, as
//! requests to delete are; and no consumers, for which the server publishes to any subject that one names.

use forebay_schemas::Names;
use serde_json::{Value, json};

/// What stands for the NATS account that Forebay's own user is in.
const FOREBAY: &str = "FOREBAY";

/// What a team may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeamGrants {
    /// Subjects that it may publish on.
    pub publish: Vec<String>,
    /// Subjects that it may subscribe to.
    pub subscribe: Vec<String>,
}

impl TeamGrants {
    /// What `team` may do under `names`.
    pub fn of(team: &str, names: &Names) -> Self {
        Self {
            publish: vec![
                names.job_of_team(team),
                format!("{}.*", names.job_of_team(team)),
                names.ask_of_team(team),
            ],
            subscribe: vec![
                names.completions_of(team, None),
                format!("{}.>", names.inbox(team)),
            ],
        }
    }

    /// The same as a NATS account of the team's own in a nats-server's configuration, beside the one that Forebay is in:
    /// what that one exports, and what the team's imports. The server then keeps apart what they call subjects, and
    /// answers nowhere but in the account of whoever asked.
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

    /// The same as JSON: exports of Forebay's NATS account, and the team's own.
    pub fn in_json(&self, team: &str) -> Value {
        let of = |kind: &str, subjects: &[String], entry: &dyn Fn(&str, &str) -> Value| {
            subjects
                .iter()
                .map(|subject| entry(kind, subject))
                .collect::<Vec<_>>()
        };
        let both = |entry: &dyn Fn(&str, &str) -> Value| {
            [
                of("service", &self.publish, entry),
                of("stream", &self.subscribe, entry),
            ]
            .concat()
        };
        json!({
            "exports": both(&|kind, subject| json!({ kind: subject, "accounts": [team] })),
            "account": team,
            "imports": both(&|kind, subject| json!({ kind: { "account": FOREBAY, "subject": subject } })),
        })
    }

    /// The same as a user in a nats-server's configuration; the password is read from the environment.
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

/// The variable that a team's password is read from; no two teams have one.
fn password_of(team: &str) -> String {
    format!(
        "TEAM_{}_PASSWORD",
        team.replace('_', "__").replace('-', "_h")
    )
}
