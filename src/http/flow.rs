//! The client of a request, for fair sharing: its API key, or else its address.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::LazyLock;

use axum::http::request::Parts;

use super::guard::client;
use super::server::Peer;
use crate::config::Network;
use batching::Flow;

/// Randomly seeded, so that nobody can choose whose flow to share.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

pub fn of_key(name: &str) -> Flow {
    flow("key", name)
}

/// The flow of a client address: IPv6 by the /64.
pub fn of_address(address: IpAddr) -> Flow {
    flow("address", client::network(address))
}

/// The flow of a request: the one that the guard has set for its API key, or else that of its
/// address.
pub fn of(request: &Parts, trusted_proxies: &[Network]) -> Flow {
    if let Some(flow) = request.extensions.get::<Flow>() {
        return *flow;
    }
    let peer = request.extensions.get::<Peer>();
    // Only tests make requests without a connection.
    peer.map_or_else(Flow::default, |peer| {
        of_address(client::address(peer.0.ip(), &request.headers, trusted_proxies))
    })
}

fn flow(kind: &str, who: impl Hash) -> Flow {
    Flow(HASHER.hash_one((kind, who)))
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn flow_of(peer: &str, forwarded: Option<&str>) -> Flow {
        let mut request = Request::builder();
        if let Some(forwarded) = forwarded {
            request = request.header("x-forwarded-for", forwarded);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        parts.extensions.insert(Peer(peer.parse().unwrap()));
        of(&parts, &["10.0.0.0/8".parse().unwrap()])
    }

    #[test]
    fn connections_of_one_client_are_one_flow() {
        let one = flow_of("192.0.2.1:1000", None);
        assert_eq!(one, flow_of("192.0.2.1:2000", None));
        assert_eq!(one, flow_of("10.0.0.1:1000", Some("192.0.2.1")));
        assert_eq!(one, flow_of("192.0.2.1:1000", Some("192.0.2.9")), "not a proxy");
        assert_ne!(one, flow_of("192.0.2.2:1000", None));
        assert_eq!(
            flow_of("[2001:db8::1]:1", None),
            flow_of("[2001:db8::2]:1", None),
            "of one /64"
        );
        assert_ne!(of_key("192.0.2.1"), one);
    }
}
