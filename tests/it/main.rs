//! Forebay against a real nats-server, real sockets and a simulated provider, in one binary.

mod standing;
mod support;

mod contract;
mod crashes;
mod faults;
mod flows;
mod identity;
mod process;
mod program;
mod replies;
mod run_command;
mod services;
mod tls;
mod topology;
