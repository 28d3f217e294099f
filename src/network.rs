//! Where listeners and peers are, and what is shared among peers sees as one address.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// What counts as one address: of IPv6 the network of 64 bits, of which a peer has all.
pub(crate) fn network_of(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V4(addr) => IpAddr::V4(addr),
        IpAddr::V6(addr) => IpAddr::V6(Ipv6Addr::from_bits(addr.to_bits() >> 64 << 64)),
    }
}

/// Where a listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoundTo {
    /// In the network; the port is the real one, also when the configuration says 0.
    Ip(SocketAddr),
    /// In the file system.
    Unix(PathBuf),
}

impl BoundTo {
    /// Nobody gets there but processes of this machine.
    #[must_use]
    pub const fn is_local(&self) -> bool {
        match self {
            Self::Ip(addr) => addr.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Its address in the network.
    #[must_use]
    pub const fn addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(addr) => Some(*addr),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for BoundTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => addr.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Where somebody is who is connected: an address of the network, or a process of this machine that came by a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerAddr {
    /// Of the network.
    Ip(SocketAddr),
    /// A process, as the kernel says.
    Unix {
        /// Its user.
        uid: u32,
        /// The process itself; 0 where the system does not say it.
        pid: i32,
    },
}

impl PeerAddr {
    /// The address without its port. A process of this machine has none, so no rule about networks fits it.
    #[must_use]
    pub const fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(addr) => Some(addr.ip()),
            Self::Unix { .. } => None,
        }
    }

    /// What limits of addresses count it by. Processes of one user count as one address, which nobody in the network can
    /// have: it begins as a multicast address does.
    #[must_use]
    pub fn counted_by(&self) -> IpAddr {
        match self {
            Self::Ip(addr) => addr.ip(),
            Self::Unix { uid, .. } => IpAddr::V6(Ipv6Addr::from_bits((0xFF00 << 112) | u128::from(*uid) << 64)),
        }
    }
}

impl<I: Into<IpAddr>> From<(I, u16)> for PeerAddr {
    fn from(addr: (I, u16)) -> Self {
        Self::Ip(addr.into())
    }
}

impl From<SocketAddr> for PeerAddr {
    fn from(addr: SocketAddr) -> Self {
        Self::Ip(addr)
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => addr.fmt(f),
            Self::Unix { uid, pid } => write!(f, "unix:{uid}:{pid}"),
        }
    }
}

impl Serialize for PeerAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The text is not one that [`PeerAddr`] is shown as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAPeer;

impl FromStr for PeerAddr {
    type Err = NotAPeer;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(process) = text.strip_prefix("unix:") else {
            return text.parse().map(Self::Ip).map_err(|_| NotAPeer);
        };
        let (uid, pid) = process.split_once(':').ok_or(NotAPeer)?;
        Ok(Self::Unix { uid: uid.parse().map_err(|_| NotAPeer)?, pid: pid.parse().map_err(|_| NotAPeer)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read_again() {
        for text in ["192.0.2.7:50112", "[2001:db8::7]:1", "unix:1000:4711", "unix:0:0"] {
            assert_eq!(text.parse::<PeerAddr>().map(|peer| peer.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "unix", "unix:1000", "unix:-1:7", "unix:1:2:3", "192.0.2.7"] {
            assert_eq!(text.parse::<PeerAddr>(), Err(NotAPeer), "{text}");
        }
    }

    #[test]
    fn processes_of_one_user_count_as_one_address() {
        let process = |uid, pid| PeerAddr::Unix { uid, pid };
        let counted = |peer: PeerAddr| network_of(peer.counted_by());
        assert_eq!(counted(process(1000, 1)), counted(process(1000, 2)));
        assert_ne!(counted(process(1000, 1)), counted(process(1001, 1)));
        assert_ne!(counted(process(u32::MAX, 1)), counted(process(0, 1)));
        assert!(process(7, 1).counted_by().is_multicast() && process(7, 1).ip().is_none());
        let peer = PeerAddr::from(SocketAddr::from(([192, 0, 2, 7], 9)));
        assert_eq!((peer.ip(), peer.counted_by()), (Some([192, 0, 2, 7].into()), [192, 0, 2, 7].into()));
    }

    #[test]
    fn a_peer_takes_no_more_memory_than_an_address() {
        assert_eq!(size_of::<PeerAddr>(), size_of::<SocketAddr>());
    }
}
