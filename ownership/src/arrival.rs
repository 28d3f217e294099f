//! Which of two connections with one client id came later, when both are at one node.

/// The place of a connection in the order in which its node took them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArrivalPlace(pub u64);

/// How a connection stands that has sent CONNECT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// Its place in the order in which the node took connections.
    pub place: ArrivalPlace,
    /// Its peer is gone, and has sent nothing behind CONNECT that is to be carried out.
    pub is_gone: bool,
    /// Its CONNECT is answered.
    pub is_answered: bool,
}

impl Arrival {
    /// Whether a newcomer gives way to the one that has the client id. Packets of two connections that wait at the same time
    /// are handled in any order: the one whose peer is gone is the older one, and of two that wait for an answer it is the
    /// one that was connected first.
    #[must_use]
    pub const fn yields_to(&self, holder: &Self) -> bool {
        self.is_gone || (!holder.is_answered && !holder.is_gone && self.place.0 < holder.place.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Arrival, ArrivalPlace};

    #[test]
    fn the_newcomer_wins_unless_it_is_gone_or_came_before() {
        let at = |place| Arrival { place: ArrivalPlace(place), ..Arrival::default() };
        let gone = |place| Arrival { is_gone: true, ..at(place) };
        let answered = |place| Arrival { is_answered: true, ..at(place) };
        assert!(!at(2).yields_to(&at(1)), "it was connected later");
        assert!(at(1).yields_to(&at(2)), "its CONNECT waited for longer");
        assert!(!at(1).yields_to(&answered(2)), "its CONNECT came later");
        assert!(gone(1).yields_to(&at(2)) && gone(2).yields_to(&answered(1)), "nobody is there");
        assert!(!at(1).yields_to(&gone(2)), "the other one has left");
    }
}
