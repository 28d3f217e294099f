//! From SUBSCRIBE and streams to what is left for a session, against a server that the test plays.

mod backlog;
mod catching_up;
mod core;
mod following;
mod restarting;
mod subscribing;
