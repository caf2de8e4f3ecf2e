//! The rights of each role at NATS: one table of the subjects to which it may publish or subscribe.
//!
//! # Why
//!
//! A server checks the subject of a message, but not the reply subject that the message names. The answer is published there
//! with the rights of the component that answers. Therefore no role but Forebay and operators gets anything whose answer
//! could do harm on a foreign subject:
//! - no reads of a stream, whose answers are whole messages, and whose settings hold the secret of its tags;
//! - no acks and no requests to delete;
//! - no consumers, for which the server publishes to any subject that they name;
//! - no services of the server or of other programs (`$SRV`), which may copy headers of a request into their answer.
//!
//! # How
//!
//! [`Rights::of`] reads the rows of the table that name a role. The subjects `ai.team.<team>.…` are reserved for services that
//! do not exist yet. No program listens and no stream takes messages there.

use crate::flow::{Lane, is_name};
use crate::subjects::Names;

/// A role at NATS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A user of a team that reads the team's completions.
    TeamReader,
    /// A user of a team that publishes the team's jobs, too.
    TeamMember,
    /// A user of a team that manages what the team owns, too.
    TeamOwner,
    /// Forebay itself.
    Forebay,
    /// A person or program that operates Forebay.
    Operator,
    /// An operator that changes nothing.
    OperatorReader,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 6] = [
        Role::TeamReader,
        Role::TeamMember,
        Role::TeamOwner,
        Role::Forebay,
        Role::Operator,
        Role::OperatorReader,
    ];
}

/// The use of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Publish,
    Subscribe,
}

use Action::{Publish, Subscribe};
use Role::{Forebay, Operator, OperatorReader, TeamMember, TeamOwner, TeamReader};

/// The kinds of services of a team.
const READ: &str = "read";
const WRITE: &str = "write";
const MANAGE: &str = "manage";

/// The services of operators that change nothing.
const READING_VERBS: [&str; 5] = ["queues", "accounts", "results", "dead.list", "dead.show"];

/// The user name of operators that change nothing.
const OPERATOR_READER: &str = "reader";

/// A team, as far as its rights depend on it.
#[derive(Debug, Clone, Copy)]
pub struct Team<'a> {
    /// Its name.
    pub name: &'a str,
    /// The lanes that it may use.
    pub lanes: &'a [Lane],
}

/// The roles, the action, and the subjects of a team under a prefix.
type Row = (
    &'static [Role],
    Action,
    fn(names: &Names, team: Team<'_>) -> Vec<String>,
);

/// The table: roles, what they may do, and on which subjects.
const TABLE: [Row; 14] = [
    // Teams.
    (
        &[TeamReader, TeamMember, TeamOwner],
        Subscribe,
        |names, team| {
            vec![
                names.completions_of(team.name, None),
                format!("{}.>", names.inbox(team.name)),
            ]
        },
    ),
    (
        &[TeamReader, TeamMember, TeamOwner],
        Publish,
        |names, team| vec![names.team_services(team.name, READ)],
    ),
    (&[TeamMember, TeamOwner], Publish, |names, team| {
        let mut subjects = jobs_of(names, team);
        subjects.push(names.ask_of_team(team.name));
        subjects.push(names.team_services(team.name, WRITE));
        subjects
    }),
    (&[TeamOwner], Publish, |names, team| {
        vec![names.team_services(team.name, MANAGE)]
    }),
    // Forebay. It publishes to the server, and copies of completions to inboxes and to the prefixes of all teams.
    (&[Forebay], Publish, |_, _| vec![">".to_owned()]),
    (&[Forebay], Subscribe, |names, _| {
        vec![names.all(), "$SRV.>".to_owned()]
    }),
    (&[Forebay, Operator], Subscribe, |_, _| {
        vec!["_INBOX.>".to_owned()]
    }),
    // Operators. They change streams and read every message.
    (&[Operator], Publish, |names, _| {
        vec![names.all_ctl(), names.all_jobs(), names.all_ask()]
    }),
    (&[Operator], Publish, |names, _| {
        [READ, WRITE, MANAGE]
            .map(|kind| names.all_team_services(kind))
            .into()
    }),
    (&[Operator], Publish, |names, _| {
        Names::bucket_subjects(&names.requests_bucket()).into()
    }),
    (&[Operator], Publish, |_, _| {
        vec![
            "$JS.API.>".to_owned(),
            "$JS.ACK.>".to_owned(),
            "$SRV.>".to_owned(),
        ]
    }),
    (&[Operator, OperatorReader], Subscribe, |names, _| {
        vec![
            names.all_completions(),
            names.all_events(),
            names.all_dead(),
        ]
    }),
    // Operators that change nothing.
    (&[OperatorReader], Publish, |names, _| {
        let mut subjects = READING_VERBS.map(|verb| names.ctl(verb)).to_vec();
        subjects.push(names.all_team_services(READ));
        subjects
    }),
    // Replies to others hold others' jobs, and the secrets of tags.
    (&[OperatorReader], Subscribe, |_, _| {
        vec![format!("{}.>", inbox_of_user(OPERATOR_READER))]
    }),
];

/// The subjects of a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// Subjects on which it may publish.
    pub publish: Vec<String>,
    /// Subjects to which it may subscribe.
    pub subscribe: Vec<String>,
}

impl Rights {
    /// Returns the rights of a role that belongs to no team.
    pub fn of(role: Role, names: &Names) -> Self {
        let none = Team {
            name: "",
            lanes: &[],
        };
        Self::in_team(role, none, names)
    }

    /// Returns the rights of a role in a team.
    pub fn in_team(role: Role, team: Team<'_>, names: &Names) -> Self {
        let subjects = |wanted: Action| {
            TABLE
                .iter()
                .filter(|(roles, action, _)| *action == wanted && roles.contains(&role))
                .flat_map(|(_, _, subjects)| subjects(names, team))
                .collect()
        };
        Self {
            publish: subjects(Publish),
            subscribe: subjects(Subscribe),
        }
    }
}

/// Returns the subjects of a team's jobs on its lanes. A subject without a lane is of the normal one.
fn jobs_of(names: &Names, team: Team<'_>) -> Vec<String> {
    let jobs = names.job_of_team(team.name);
    if Lane::ALL.iter().all(|lane| team.lanes.contains(lane)) {
        return vec![jobs.clone(), format!("{jobs}.*")];
    }
    let mut subjects = Vec::new();
    if team.lanes.contains(&Lane::Normal) {
        subjects.push(jobs.clone());
    }
    subjects.extend(team.lanes.iter().map(|lane| format!("{jobs}.{lane}")));
    subjects
}

/// Returns the prefix of the inboxes of a user. Every inbox of Forebay's own clients is below the usual `_INBOX`. A user with
/// another kind of name has the usual prefix.
pub fn inbox_of_user(user: &str) -> String {
    if is_name(user) {
        format!("_INBOX.{user}")
    } else {
        "_INBOX".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(role: Role) -> Rights {
        on_lanes(role, &Lane::ALL)
    }

    fn on_lanes(role: Role, lanes: &[Lane]) -> Rights {
        let team = Team {
            name: "acme",
            lanes,
        };
        Rights::in_team(role, team, &Names::default())
    }

    #[test]
    fn a_team_may_publish_on_its_lanes_alone() {
        let jobs = |lanes: &[Lane]| {
            let mut publish = on_lanes(Role::TeamMember, lanes).publish;
            publish.retain(|subject| subject.starts_with("ai.jobs."));
            publish
        };
        assert_eq!(jobs(&Lane::ALL), ["ai.jobs.*.acme", "ai.jobs.*.acme.*"]);
        assert_eq!(jobs(&[Lane::Bulk]), ["ai.jobs.*.acme.bulk"]);
        assert_eq!(
            jobs(&[Lane::Normal]),
            ["ai.jobs.*.acme", "ai.jobs.*.acme.normal"]
        );
    }

    #[test]
    fn only_forebay_and_operators_use_the_services_and_the_streams_of_the_server() {
        for role in Role::ALL {
            let Rights { publish, subscribe } = rights(role);
            let is_trusted = matches!(role, Role::Forebay | Role::Operator);
            let powerful = |subject: &String| subject == ">" || subject.starts_with('$');
            assert_eq!(publish.iter().any(powerful), is_trusted, "{role:?}");
            let sees_services = subscribe.iter().any(|subject| subject == "$SRV.>");
            assert_eq!(sees_services, role == Role::Forebay, "{role:?}");
        }
    }

    #[test]
    fn each_role_of_a_team_may_what_the_one_before_may_and_nothing_of_others() {
        let roles = [Role::TeamReader, Role::TeamMember, Role::TeamOwner].map(rights);
        for pair in roles.windows(2) {
            let has = |subject| pair[1].publish.contains(subject);
            assert!(pair[0].publish.iter().all(has));
            assert!(pair[0].publish.len() < pair[1].publish.len());
            assert_eq!(pair[0].subscribe, pair[1].subscribe);
        }
        for subject in roles.iter().flat_map(|rights| &rights.publish) {
            let of_team = [
                ".acme",
                ".acme.*",
                ".acme.read.>",
                ".acme.write.>",
                ".acme.manage.>",
            ];
            assert!(
                of_team.iter().any(|end| subject.ends_with(end)),
                "{subject}"
            );
        }
    }

    #[test]
    fn no_list_is_empty_since_a_server_reads_an_empty_one_as_everything() {
        for role in Role::ALL {
            let Rights { publish, subscribe } = rights(role);
            assert!(!publish.is_empty() && !subscribe.is_empty(), "{role:?}");
        }
    }
}
