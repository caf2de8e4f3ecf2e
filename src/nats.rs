//! NATS: the managed server, the connection, the streams and the object stores.

pub mod server;

pub mod bucket;
pub mod connection;
pub mod permissions;
pub mod replicas;
pub mod stream_secrets;
pub mod streams;

pub mod objects;
mod publishers;
