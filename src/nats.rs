//! NATS as Forebay uses it: the server that it starts, the connection, the streams and the objects in them.

pub mod server;

pub mod connection;
pub mod permissions;
pub mod streams;

pub mod objects;
