//! The open connections by client: the limit for one client, and which connection is closed when
//! all slots are taken.
//!
//! When `max_connections` are open and another arrives, the client with the most connections loses
//! the one that has been waiting for its client the longest: idle, with an incomplete head or body,
//! or with a response that is not read. So a client that opens thousands of connections locks out
//! only itself. A connection whose request is being processed is never closed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::IntCounter;
use tokio::sync::Notify;

use super::guard::client;
use super::stream::Exchange;
use crate::config::Network;

/// The connections that are open, by client.
#[derive(Debug, Default)]
pub struct Connections {
    /// Limit of connections of one client.
    per_client: Option<usize>,
    /// Proxies stand for many clients, so their connections are neither limited nor closed for
    /// others.
    trusted_proxies: Vec<Network>,
    counters: Option<Counters>,
    open: Mutex<Open>,
}

/// Metrics of connections that were closed because there were too many.
#[derive(Debug, Clone)]
pub struct Counters {
    /// Closed at once, because their client had reached its limit.
    pub refused: IntCounter,
    /// Closed while waiting for their client, because another connection needed the slot.
    pub displaced: IntCounter,
}

#[derive(Debug, Default)]
struct Open {
    next_id: u64,
    /// Clients without connections are removed, so there are never more entries than connections.
    clients: HashMap<IpAddr, HashMap<u64, Arc<Handle>>>,
}

#[derive(Debug, Default)]
struct Handle {
    exchange: Arc<Exchange>,
    displaced: AtomicBool,
    close: Notify,
}

impl Connections {
    pub fn new(trusted_proxies: Vec<Network>) -> Self {
        Self {
            trusted_proxies,
            ..Self::default()
        }
    }

    /// Limits the connections of each client. `None`: no limit.
    #[must_use]
    pub fn with_limit(self, per_client: Option<usize>) -> Self {
        Self { per_client, ..self }
    }

    #[must_use]
    pub fn with_counters(self, counters: Counters) -> Self {
        Self {
            counters: Some(counters),
            ..self
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // The state is consistent even after a panic.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a connection of `peer` until the returned slot is dropped. `None` if the client is
    /// at its limit.
    pub fn enter(self: &Arc<Self>, peer: IpAddr, exchange: &Arc<Exchange>) -> Option<Place> {
        let peer = peer.to_canonical();
        if self.trusted_proxies.iter().any(|proxy| proxy.contains(&peer)) {
            return Some(Place(None));
        }
        let client = client::network(peer);
        let mut open = self.lock();
        let count = open.clients.get(&client).map_or(0, HashMap::len);
        if self.per_client.is_some_and(|limit| count >= limit) {
            if let Some(counters) = &self.counters {
                counters.refused.inc();
            }
            return None;
        }
        let id = open.next_id;
        open.next_id += 1;
        let handle = Arc::new(Handle {
            exchange: Arc::clone(exchange),
            ..Handle::default()
        });
        open.clients
            .entry(client)
            .or_default()
            .insert(id, Arc::clone(&handle));
        Some(Place(Some(Entered {
            connections: Arc::clone(self),
            client,
            id,
            handle,
        })))
    }

    /// Tells one connection to close, to make room for another. Returns false if no connection is
    /// waiting for its client.
    pub fn make_room(&self) -> bool {
        let open = self.lock();
        let mut clients: Vec<_> = open.clients.values().collect();
        clients.sort_unstable_by_key(|handles| std::cmp::Reverse(handles.len()));
        let longest_waiting = |handles: &HashMap<u64, Arc<Handle>>| {
            let waiting = handles.values().filter_map(|handle| {
                let since = handle.exchange.waits_since()?;
                (!handle.displaced.load(Ordering::Relaxed)).then_some((since, Arc::clone(handle)))
            });
            waiting.min_by_key(|(since, _)| *since)
        };
        let Some((_, handle)) = clients.into_iter().find_map(longest_waiting) else {
            return false;
        };
        handle.displaced.store(true, Ordering::Relaxed);
        handle.close.notify_one();
        if let Some(counters) = &self.counters {
            counters.displaced.inc();
        }
        true
    }
}

/// The registration of an open connection, removed on drop.
#[derive(Debug)]
pub struct Place(Option<Entered>);

#[derive(Debug)]
struct Entered {
    connections: Arc<Connections>,
    client: IpAddr,
    id: u64,
    handle: Arc<Handle>,
}

impl Place {
    /// Completes when the connection must make room for another.
    pub async fn displaced(&self) {
        match &self.0 {
            Some(entered) => entered.handle.close.notified().await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(entered) = self.0.take() else {
            return;
        };
        let mut open = entered.connections.lock();
        if let Some(handles) = open.clients.get_mut(&entered.client) {
            handles.remove(&entered.id);
            if handles.is_empty() {
                open.clients.remove(&entered.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    fn counters() -> Counters {
        let counter = |name| IntCounter::new(name, "connections").unwrap();
        Counters {
            refused: counter("refused"),
            displaced: counter("displaced"),
        }
    }

    fn enter(connections: &Arc<Connections>, address: &str) -> Option<Place> {
        connections.enter(address.parse().unwrap(), &Arc::default())
    }

    #[test]
    fn each_client_has_its_own_places_and_proxies_have_any_number() {
        let counters = counters();
        let proxies = vec!["10.0.0.0/8".parse().unwrap()];
        let connections = Connections::new(proxies)
            .with_limit(Some(2))
            .with_counters(counters.clone());
        let connections = Arc::new(connections);
        let enter = |address: &str| enter(&connections, address);
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none());
        let _other = enter("192.0.2.2").unwrap();
        let proxy: Vec<_> = (0..5).map(|_| enter("10.1.2.3").unwrap()).collect();
        drop(first);
        let _third = enter("192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none());
        assert_eq!(counters.refused.get(), 2);
        drop(proxy);
        assert_eq!(connections.lock().clients.len(), 2);
    }

    #[test]
    fn those_who_have_gone_are_forgotten() {
        let connections = Arc::new(Connections::new(Vec::new()).with_limit(Some(1)));
        for address in 0..100_u128 {
            let network = IpAddr::V6((address << 64).into());
            drop(connections.enter(network, &Arc::default()).unwrap());
        }
        assert!(connections.lock().clients.is_empty());
    }

    #[test]
    fn the_client_with_the_most_connections_makes_room_and_proxies_never_do() {
        let counters = counters();
        let proxies = vec!["10.0.0.0/8".parse().unwrap()];
        let connections = Connections::new(proxies).with_counters(counters.clone());
        let connections = Arc::new(connections);
        let proxy: Vec<_> = (0..5).map(|_| enter(&connections, "10.1.2.3").unwrap()).collect();
        assert!(!connections.make_room());

        let other = enter(&connections, "192.0.2.2").unwrap();
        let many: Vec<_> = (0..3)
            .map(|_| enter(&connections, "192.0.2.1").unwrap())
            .collect();
        assert!(connections.make_room());
        let told = |place: &Place| task::spawn(place.displaced()).poll().is_ready();
        assert!(!proxy.iter().any(told));
        assert!(!told(&other));
        assert_eq!(many.iter().filter(|place| told(place)).count(), 1);
        // The same connection is not chosen twice.
        assert!(connections.make_room());
        assert_eq!(many.iter().filter(|place| told(place)).count(), 1);
        assert_eq!(counters.displaced.get(), 2);
    }

    #[test]
    fn a_connection_whose_answer_is_being_made_is_not_closed() {
        let connections = Arc::new(Connections::new(Vec::new()));
        let busy = Arc::new(Exchange::default());
        busy.answers();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let place = connections.enter(address, &busy).unwrap();
        assert!(!connections.make_room());
        let mut displaced = task::spawn(place.displaced());
        assert_pending!(displaced.poll());
        busy.end();
        assert!(connections.make_room());
        assert_ready!(displaced.poll());
    }
}
