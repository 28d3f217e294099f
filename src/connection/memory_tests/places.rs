//! The places that clients take of their user and of their account.

use mqtt_access::{Limit, Limits, User};
use proto_map::MountPoint;

use super::rights::Known;
use super::*;

/// Users of an account that has so many places.
async fn world(places: u64) -> World {
    let (world, known): (World, Known) = World::with_users().await;
    for name in ["eve", "adam"] {
        let user = User { name: name.to_owned(), ..User::default() };
        let limits = Limits { connections: Limit::Max(places), ..Limits::UNLIMITED };
        known.set(name, Principal { user, limits, ..Principal::all() });
    }
    world
}

/// A listener whose users have so many connections, at a mount point or at none.
fn listener(per_user: u32, mount: Option<&str>) -> Arc<Entrance> {
    let mut entrance = Entrance::plain("test", crate::listener::Protocol::Mqtt);
    entrance.mount = mount.map(|mount| Arc::new(MountPoint::new(mount, "$NMQ").unwrap()));
    let limits = crate::config::Limits { connections_per_user: Some(per_user), ..entrance.limits.get() };
    entrance.limits.set(limits);
    Arc::new(entrance)
}

impl World {
    /// Connects, and holds the connection if that succeeds.
    async fn enter(&self, at: &Arc<Entrance>, user: &'static str, client_id: &'static str) -> Result<Wire, ReasonCode> {
        let Packet::Connect(mut packet) = connect(client_id, ConnectProperties::default()) else { unreachable!() };
        packet.username = Some(user.into());
        let (wire, _served, connack) = self.answered_at(at, PIPE, &Packet::Connect(packet)).await;
        if connack.reason == ReasonCode::Success { Ok(wire) } else { Err(connack.reason) }
    }
}

const FULL: Option<ReasonCode> = Some(ReasonCode::QuotaExceeded);

#[tokio::test]
async fn only_its_own_session_lets_a_user_in_who_has_as_many_connections_as_it_may() {
    let world = world(u64::MAX).await;
    let (plain, mounted) = (listener(1, None), listener(1, Some("site7/")));
    let _held = world.enter(&plain, "eve", "lamp").await.unwrap();
    assert_eq!(world.enter(&mounted, "eve", "lamp").await.err(), FULL, "another session with this id");
    let _of_adam = world.enter(&plain, "adam", "hub").await.unwrap();
    assert_eq!(world.enter(&plain, "eve", "hub").await.err(), FULL, "the session is another user's");
    let _again = world.enter(&plain, "eve", "lamp").await.unwrap();
    let of_mounted = world.enter(&mounted, "adam", "door").await.err();
    assert_eq!(of_mounted, FULL, "one user has so many at all listeners");
}

#[tokio::test]
async fn a_session_below_a_mount_point_is_taken_over_in_a_full_account_as_any_other() {
    let (world, mounted) = (world(1).await, listener(9, Some("site7/")));
    let _held = world.enter(&mounted, "eve", "lamp").await.unwrap();
    let _again = world.enter(&mounted, "eve", "lamp").await.unwrap();
    assert_eq!(world.enter(&listener(9, None), "eve", "lamp").await.err(), FULL);
}

#[tokio::test]
async fn an_account_is_as_full_as_before_when_a_session_in_it_was_taken_over() {
    let (world, at) = (world(2).await, listener(9, None));
    let mut first = world.enter(&at, "eve", "one").await.unwrap();
    let _second = world.enter(&at, "eve", "two").await.unwrap();
    let mut held = Vec::new();
    for _ in 0..3 {
        let again = world.enter(&at, "eve", "one").await.unwrap();
        // The one before is told, and gone.
        while first.next().await.is_some() {}
        held.push(std::mem::replace(&mut first, again));
        assert_eq!(world.enter(&at, "eve", "three").await.err(), FULL);
    }
}
