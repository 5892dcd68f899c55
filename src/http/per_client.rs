//! How many connections one client may have open.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::IntCounter;

use super::guard::client;
use crate::config::Network;

/// Counts the connections of each client.
#[derive(Debug)]
pub struct PerClient {
    limit: usize,
    /// These stand for many clients.
    trusted_proxies: Vec<Network>,
    refused: IntCounter,
    /// Of those that have any, so that there are never more entries than connections.
    open: Mutex<HashMap<IpAddr, usize>>,
}

impl PerClient {
    /// At most `limit` for each client; `refused` counts those beyond it.
    pub fn new(limit: usize, trusted_proxies: Vec<Network>, refused: IntCounter) -> Self {
        Self {
            limit,
            trusted_proxies,
            refused,
            open: Mutex::default(),
        }
    }

    /// Counts a connection as long as the answer lives; none if the client has as many as it may.
    pub fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let peer = peer.to_canonical();
        let mut place = Place(None);
        if self.trusted_proxies.iter().any(|proxy| proxy.contains(&peer)) {
            return Some(place);
        }
        let client = client::network(peer);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(client).or_default();
        // There is an entry only where there is a connection, and the limit is at least 1, so none is left behind here.
        if *count >= self.limit {
            self.refused.inc();
            return None;
        }
        *count += 1;
        place.0 = Some((Arc::clone(self), client));
        Some(place)
    }
}

/// A connection that counts.
#[derive(Debug)]
pub struct Place(Option<(Arc<PerClient>, IpAddr)>);

impl Drop for Place {
    fn drop(&mut self) {
        let Some((clients, client)) = self.0.take() else {
            return;
        };
        let mut open = clients.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                open.remove(&client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_own_places_and_proxies_have_any_number() {
        let refused = IntCounter::new("refused", "connections").unwrap();
        let proxies = vec!["10.0.0.0/8".parse().unwrap()];
        let clients = Arc::new(PerClient::new(2, proxies, refused.clone()));
        let enter = |address: &str| clients.enter(address.parse().unwrap());
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none());
        let _other = enter("192.0.2.2").unwrap();
        let proxy: Vec<_> = (0..5).map(|_| enter("10.1.2.3").unwrap()).collect();
        drop(first);
        let _third = enter("192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none());
        assert_eq!(refused.get(), 2);
        drop(proxy);
        assert_eq!(clients.open.lock().unwrap().len(), 2);
    }

    #[test]
    fn those_who_have_gone_are_forgotten() {
        let refused = IntCounter::new("refused", "connections").unwrap();
        let clients = Arc::new(PerClient::new(1, Vec::new(), refused));
        for address in 0..100_u128 {
            let network = IpAddr::V6((address << 64).into());
            drop(clients.enter(network).unwrap());
        }
        assert!(clients.open.lock().unwrap().is_empty());
    }
}
