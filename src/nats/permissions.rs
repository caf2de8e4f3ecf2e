//! Rights as a nats-server's configuration takes them: users, and a NATS account of a team's own.

use forebay_schemas::Names;
use forebay_schemas::rights::{Rights, Role, Team, inbox_of_user};
use serde_json::{Value, json};

/// The placeholder for the NATS account of Forebay's own user.
const FOREBAY: &str = "FOREBAY";
/// The inboxes of a NATS account that belongs to one team.
const ALL_INBOXES: &str = "_INBOX.>";

/// A user of the server, with the environment variable of its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUser {
    name: String,
    password_variable: String,
    /// The prefix of its inboxes.
    inbox: String,
    rights: Rights,
}

impl ServerUser {
    /// Returns the user of a team in one of the team's roles. Members have the name of the team. The names of others end with
    /// their role, after a dot, which no team's name contains.
    pub fn of_team(team: Team<'_>, role: Role, names: &Names) -> Self {
        let name = team.name;
        let suffix = match role {
            Role::TeamReader => Some("reader"),
            Role::TeamOwner => Some("owner"),
            _ => None,
        };
        let escaped = name.replace('_', "__").replace('-', "_h");
        let dotted = suffix.map(|suffix| format!(".{suffix}"));
        // No escaped name contains a single underscore before these letters.
        let underscored = suffix.map(|suffix| format!("_{suffix}"));
        Self {
            name: format!("{name}{}", dotted.unwrap_or_default()),
            password_variable: format!(
                "TEAM_{escaped}{}_PASSWORD",
                underscored.unwrap_or_default()
            ),
            inbox: names.inbox(name),
            rights: Rights::in_team(role, team, names),
        }
    }

    /// Returns a user that belongs to no team.
    pub fn of_system(name: &str, role: Role, names: &Names) -> Self {
        Self {
            name: name.to_owned(),
            password_variable: format!("{}_PASSWORD", name.to_uppercase()),
            inbox: inbox_of_user(name),
            rights: Rights::of(role, names),
        }
    }

    /// Returns the same user in a NATS account of its team's own, in which all inboxes are the team's.
    fn in_own_account(mut self) -> Self {
        self.rights.subscribe.push(ALL_INBOXES.to_owned());
        self
    }

    /// Formats the user for a nats-server's configuration.
    pub fn to_text(&self) -> String {
        let list = |subjects: &[String]| {
            let quoted: Vec<_> = subjects
                .iter()
                .map(|subject| format!("        {subject:?}"))
                .collect();
            quoted.join("\n")
        };
        format!(
            r#"{{
  user: {user:?}
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
            user = self.name,
            variable = self.password_variable,
            publish = list(&self.rights.publish),
            subscribe = list(&self.rights.subscribe),
        )
    }

    /// Formats the user of Forebay's NATS account, with a line that says where it goes.
    pub fn to_shared_text(&self) -> String {
        format!(
            "# User {name}: goes into `authorization {{ users: [ … ] }}` of the nats-server, or into `users` of the NATS account\n\
             # that Forebay's user is in. Its clients set their inbox prefix to {inbox}.\n{user}",
            name = self.name,
            inbox = self.inbox,
            user = self.to_text(),
        )
    }

    /// Returns the user as JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "user": self.name,
            "permissions": {
                "publish": { "allow": self.rights.publish },
                "subscribe": { "allow": self.rights.subscribe },
            },
        })
    }
}

/// A NATS account of a team's own. The server separates its subjects from those of Forebay's account. What crosses is what an
/// owner of the team may do, whatever the roles of its users. Replies reach only the account of the request.
#[derive(Debug, Clone)]
pub struct TeamAccount {
    team: String,
    crossing: Rights,
    user: ServerUser,
}

impl TeamAccount {
    /// Returns the NATS account of a team, with a user of this role.
    pub fn new(team: Team<'_>, role: Role, names: &Names) -> Self {
        Self {
            team: team.name.to_owned(),
            crossing: Rights::in_team(Role::TeamOwner, team, names),
            user: ServerUser::of_team(team, role, names).in_own_account(),
        }
    }

    /// Calls `entry` with the kind and the subject of each import and export.
    fn crossing<T>(&self, entry: impl Fn(&str, &str) -> T) -> Vec<T> {
        let services = self.crossing.publish.iter();
        let streams = self.crossing.subscribe.iter();
        services
            .map(|subject| entry("service", subject))
            .chain(streams.map(|subject| entry("stream", subject)))
            .collect()
    }

    /// Formats the account for a nats-server's configuration. The text has the exports of Forebay's account and the team's
    /// account with its imports.
    pub fn to_text(&self) -> String {
        let team = &self.team;
        let exports = self
            .crossing(|kind, subject| format!("{{ {kind}: {subject:?}, accounts: [{team:?}] }}"));
        let imports = self.crossing(|kind, subject| {
            format!("    {{ {kind}: {{ account: {FOREBAY}, subject: {subject:?} }} }}")
        });
        let user = self.user.to_text().replace('\n', "\n    ");
        format!(
            r#"# Team {team}, in a NATS account of its own. {FOREBAY} stands for the NATS account that Forebay's user is in.
# The account is the same for each --role; only the user differs. `users` takes several.
# Goes into `accounts {{ {FOREBAY}: {{ exports: [ … ] }} }}`:
{exports}
# Goes into `accounts {{ … }}`:
{team}: {{
  users: [
    {user}
  ]
  imports: [
{imports}
  ]
}}"#,
            exports = exports.join("\n"),
            imports = imports.join("\n"),
        )
    }

    /// Returns the exports, the account and its user as JSON.
    pub fn to_json(&self) -> Value {
        let team = &self.team;
        json!({
            "exports": self.crossing(|kind, subject| json!({ kind: subject, "accounts": [team] })),
            "account": team,
            "users": [self.user.to_json()],
            "imports": self.crossing(|kind, subject| json!({ kind: { "account": FOREBAY, "subject": subject } })),
        })
    }
}
