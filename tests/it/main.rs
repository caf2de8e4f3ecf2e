//! Forebay against a real nats-server, real sockets and a simulated provider, in one binary.

mod support;

mod addressing;
mod aims;
mod attempts;
mod cache;
mod check;
mod cluster;
mod contract;
mod controls;
mod costs;
mod crashes;
mod crashes_together;
mod damaged_consumers;
mod dead;
mod dialects;
mod disk;
mod dry_run;
mod examples;
mod fallback;
mod faults;
mod fence;
mod flows;
mod foreign_completions;
mod foreign_values;
mod hostile;
mod identity;
mod journal;
mod kinds;
mod large;
mod logs;
mod memory;
mod merged;
mod message_ids;
mod nats_troubles;
mod no_configuration;
mod objects;

mod permissions;
mod process;
mod program;
mod publish;
mod refusals;
mod replies;
mod roles;
mod run_command;
mod run_files;
mod saved_state;
mod services;
mod standby;
mod state_copies;

mod store;
mod tls;
mod topology;
mod upgrade;
