//! The command `forebay nats-permissions`.

use anyhow::anyhow;
use clap::ValueEnum;
use forebay_schemas::flow::problem_of_team;
use forebay_schemas::rights::{Role, Team};

use super::{GlobalOptions, print};
use crate::config::Config;
use crate::nats::connection::Error;
use crate::nats::permissions::{ServerUser, TeamAccount};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The team.
    #[arg(required_unless_present = "system_user")]
    team: Option<String>,
    /// The role of the team's user. A reader sees completions; a member publishes jobs, too; an owner manages what the team
    /// owns, too.
    #[arg(long, value_name = "ROLE", default_value = "member")]
    role: TeamRole,
    /// Print a user of Forebay's own NATS account instead of a NATS account for the team. This is
    /// for teams that trust each other.
    #[arg(long)]
    shared_account: bool,
    /// Print a user of Forebay's NATS account that belongs to no team: for Forebay itself, for an operator, or for an operator
    /// that changes nothing.
    #[arg(long = "for", id = "system_user", value_name = "USER", conflicts_with_all = ["team", "role", "shared_account"])]
    system_user: Option<SystemUser>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TeamRole {
    Reader,
    Member,
    Owner,
}

impl From<TeamRole> for Role {
    fn from(role: TeamRole) -> Self {
        match role {
            TeamRole::Reader => Role::TeamReader,
            TeamRole::Member => Role::TeamMember,
            TeamRole::Owner => Role::TeamOwner,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SystemUser {
    Forebay,
    Operator,
    Reader,
}

impl SystemUser {
    /// The user's name, and its role.
    fn name_and_role(self) -> (&'static str, Role) {
        match self {
            SystemUser::Forebay => ("forebay", Role::Forebay),
            SystemUser::Operator => ("operator", Role::Operator),
            SystemUser::Reader => ("reader", Role::OperatorReader),
        }
    }
}

pub(super) fn permissions(global: &GlobalOptions, args: &Args) -> Result<u8, Error> {
    let config = Config::load(global.config.as_deref())?;
    let names = &config.nats.names;
    let user = match (&args.team, args.system_user) {
        (_, Some(user)) => {
            let (name, role) = user.name_and_role();
            ServerUser::of_system(name, role, names)
        }
        (Some(team), None) => {
            if let Some(problem) = problem_of_team(team) {
                return Err(Error::Usage(anyhow!(problem)));
            }
            let role = args.role.into();
            let lanes = config.team(team).lanes;
            let team = Team {
                name: team,
                lanes: &lanes,
            };
            if !args.shared_account {
                let account = TeamAccount::new(team, role, names);
                print_as(global, || account.to_text(), || account.to_json());
                return Ok(0);
            }
            ServerUser::of_team(team, role, names)
        }
        (None, None) => return Err(Error::Usage(anyhow!("name a team, or use --for"))),
    };
    print_as(global, || user.to_shared_text(), || user.to_json());
    Ok(0)
}

fn print_as(
    global: &GlobalOptions,
    text: impl FnOnce() -> String,
    json: impl FnOnce() -> serde_json::Value,
) {
    if global.json {
        print::json(&json());
    } else {
        print::line(&text());
    }
}
