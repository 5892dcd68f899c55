//! The address of a client, also behind proxies.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::{HeaderMap, HeaderName};

use crate::config::Network;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address of the client: the peer of the connection, or, if the peer is a trusted proxy, the
/// rightmost address in `X-Forwarded-For` that is not a trusted proxy. Addresses further left come
/// from the client, which can write anything.
pub fn address(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
    let mut address = peer.to_canonical();
    if !is_trusted(address) {
        return address;
    }
    // Several such headers are one list.
    let hops = headers.get_all(X_FORWARDED_FOR).into_iter().rev();
    let hops = hops.flat_map(|value| value.as_bytes().rsplit(|&byte| byte == b','));
    for hop in hops {
        // An entry that is not an address hides the client; the proxy that wrote it counts instead.
        let Some(hop) = parse(hop) else { break };
        address = hop;
        if !is_trusted(address) {
            break;
        }
    }
    address
}

/// The address with its port, which is 0 if the address comes from a proxy.
pub fn socket(peer: SocketAddr, headers: &HeaderMap, trusted: &[Network]) -> SocketAddr {
    let address = address(peer.ip(), headers, trusted);
    if address == peer.ip().to_canonical() {
        peer
    } else {
        SocketAddr::new(address, 0)
    }
}

/// Some proxies write addresses with a port.
fn parse(hop: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(hop).ok()?.trim();
    let plain = || {
        text.trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
            .ok()
    };
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    plain().or_else(with_port).map(|address| address.to_canonical())
}

/// The addresses that count as one client: an IPv4 address, or a /64 of IPv6, which is what a
/// household gets.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn found(peer: &str, forwarded: &[&'static str]) -> String {
        let trusted: Vec<Network> = ["10.0.0.0/8", "fd00::/8"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_static(value));
        }
        address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        assert_eq!(found("192.0.2.1", &[]), "192.0.2.1");
        assert_eq!(found("192.0.2.1", &["198.51.100.7"]), "192.0.2.1", "not a proxy");
        assert_eq!(found("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(found("::ffff:10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(found("fd00::1", &["2001:db8::7"]), "2001:db8::7");
        assert_eq!(found("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn the_nearest_hop_that_is_no_proxy_counts() {
        let client_lies = "203.0.113.9, 198.51.100.7, 10.1.1.1";
        assert_eq!(found("10.0.0.1", &[client_lies]), "198.51.100.7");
        assert_eq!(
            found("10.0.0.1", &["203.0.113.9", "198.51.100.7", "10.1.1.1"]),
            "198.51.100.7"
        );
        assert_eq!(
            found("10.0.0.1", &["10.3.3.3, 10.2.2.2"]),
            "10.3.3.3",
            "all are proxies"
        );
    }

    #[test]
    fn what_is_no_address_ends_the_search() {
        assert_eq!(found("10.0.0.1", &["198.51.100.7, unknown"]), "10.0.0.1");
        assert_eq!(
            found("10.0.0.1", &["203.0.113.9, nonsense, 10.2.2.2"]),
            "10.2.2.2"
        );
        assert_eq!(found("10.0.0.1", &[""]), "10.0.0.1");
        assert_eq!(found("10.0.0.1", &["198.51.100.7:4711"]), "198.51.100.7");
        assert_eq!(found("10.0.0.1", &["[2001:db8::7]:4711"]), "2001:db8::7");
        assert_eq!(found("10.0.0.1", &["[2001:db8::7]"]), "2001:db8::7");
    }

    #[test]
    fn a_client_has_one_address_of_ipv4_and_many_of_ipv6() {
        let network = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(network("192.0.2.1"), "192.0.2.1");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }
}
