//! nats-server itself as the judge: the same permissions and JWTs, asked there and here. Where the answers differ it is on
//! purpose, and the test says in what.

mod connection;
mod jwts;
mod permissions;
mod random;
mod server;
