//! What one team may do at a NATS server: publish its own jobs, ask for its own answers, read its own completions,
//! and nothing else.
//!
//! A team may not make consumers: the server would publish to any subject that one names. It reads completions
//! as they come, each one by its subject, or all of them through the one consumer that Forebay makes for it.
//! Consumers are granted by their exact names: a prefix of one team's could be that of another's.

use async_nats::jetstream::consumer::{self, AckPolicy};
use forebay_schemas::Names;

use crate::connection::Connection;

/// What a team may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grants {
    /// Subjects that it may publish on.
    pub publish: Vec<String>,
    /// Subjects that it may subscribe to.
    pub subscribe: Vec<String>,
}

impl Grants {
    /// What `team` may do under `names`.
    pub fn of(team: &str, names: &Names) -> Self {
        let (stream, consumer) = (names.completions_stream(), names.team_consumer(team));
        let completions = names.completions_of(team, None);
        Self {
            publish: vec![
                names.job_of_team(team),
                format!("{}.*", names.job_of_team(team)),
                names.ask_of_team(team),
                format!("$JS.API.DIRECT.GET.{stream}.{completions}"),
                format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}"),
                format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
                format!("$JS.ACK.{stream}.{consumer}.>"),
            ],
            subscribe: vec![completions, format!("{}.>", names.inbox(team))],
        }
    }

    /// The same as a user in a nats-server's configuration; the password is read from the environment.
    pub fn to_config(&self, team: &str, names: &Names) -> String {
        let list = |subjects: &[String]| {
            let quoted: Vec<_> = subjects.iter().map(|subject| format!("        {subject:?}")).collect();
            quoted.join("\n")
        };
        let variable = format!("{}_PASSWORD", team.to_uppercase().replace('-', "_"));
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

/// Makes the consumer of a team's completions, if it is not there. It begins with those that come after it.
///
/// # Errors
/// Says why NATS does not make it.
pub async fn make_consumer(connection: &Connection, team: &str) -> Result<(), String> {
    let names = &connection.names;
    let config = consumer::pull::Config {
        durable_name: Some(names.team_consumer(team)),
        description: Some(format!("completions of team {team}")),
        ack_policy: AckPolicy::Explicit,
        deliver_policy: consumer::DeliverPolicy::New,
        filter_subject: names.completions_of(team, None),
        ..consumer::pull::Config::default()
    };
    let stream = connection.context.get_stream_no_info(names.completions_stream()).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let name = names.team_consumer(team);
    // One that is there keeps its place.
    stream.get_or_create_consumer(&name, config).await.map_err(|error| error.to_string())?;
    Ok(())
}
