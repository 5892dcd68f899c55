//! Authentication and rate limits of the routes under `/v1`.
//!
//! The limit of the client's address is checked first, so that it also limits guessing of API keys;
//! then the API key; then the limit of that key.

pub mod client;
pub(super) mod keys;
mod rate;

use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::EXPECT;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus::IntCounterVec;
use tokio::time::Instant;

use self::keys::{Key, Keyring};
use self::rate::ClientRates;
use super::App;
use super::flow;
use super::payload;
use super::server::Peer;
use crate::config::{ApiKey, Config, Network};
use crate::http::error::{Code, Error};
use crate::priority::RequestPriority;

/// How often idle addresses are removed.
const FORGET_EVERY: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub struct Guard {
    trusted_proxies: Vec<Network>,
    clients: Option<ClientRates>,
    /// `None`: no API key is required.
    keys: Option<RwLock<Arc<Keyring>>>,
    requests_by_key: IntCounterVec,
}

impl Guard {
    /// `None` if neither API keys nor rate limits are configured.
    pub fn new(config: &Config, requests_by_key: IntCounterVec) -> Option<Self> {
        if config.api_keys.is_empty() && config.rate_limit.is_none() {
            return None;
        }
        let keys = || RwLock::new(Arc::new(Keyring::new(&config.api_keys)));
        Some(Self {
            trusted_proxies: config.trusted_proxies.0.clone(),
            clients: config.rate_limit.map(ClientRates::new),
            keys: (!config.api_keys.is_empty()).then(keys),
            requests_by_key,
        })
    }

    /// Checks that [`Self::set_keys`] can take these keys. Whether keys are required at all is
    /// decided at start-up, so that a file that was emptied by mistake does not open the server.
    pub fn check_keys(guard: Option<&Self>, api_keys: &[ApiKey]) -> Result<(), &'static str> {
        let needed = guard.is_some_and(|guard| guard.keys.is_some());
        match (needed, api_keys.is_empty()) {
            (true, true) => Err(
                "api_keys: expected at least one key, found none; to serve without API keys, restart the server",
            ),
            // Without keys at start-up, requests do not pass through the guard.
            (false, false) => {
                Err("api_keys: adding the first key requires a restart; until then no API key is required")
            }
            _ => Ok(()),
        }
    }

    /// Replaces the keys. Their rate limits start afresh.
    pub fn set_keys(&self, api_keys: &[ApiKey]) {
        if let Some(keys) = &self.keys {
            *keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Keyring::new(api_keys));
        }
    }

    /// Charges an admitted request as `more` further requests, for what it costs.
    pub fn charge(&self, request: &Parts, more: u64) -> Result<(), Error> {
        let Some(more) = NonZeroU32::new(u32::try_from(more).unwrap_or(u32::MAX)) else {
            return Ok(());
        };
        if let (Some(clients), Some(peer)) = (&self.clients, request.extensions.get::<Peer>()) {
            let client = client::address(peer.0.ip(), &request.headers, &self.trusted_proxies);
            clients
                .charge(client, more)
                .map_err(|wait| rate_limited("this address", wait))?;
        }
        match request.extensions.get::<Charged>() {
            Some(Charged(key)) => key
                .charge(more)
                .map_err(|wait| rate_limited(&format!("API key {:?}", key.name), wait)),
            None => Ok(()),
        }
    }

    /// Removes idle addresses periodically. Never returns.
    pub async fn keep_small(&self) {
        let Some(clients) = &self.clients else { return };
        loop {
            tokio::time::sleep(FORGET_EVERY).await;
            clients.forget();
        }
    }

    /// The API key of the request. `None` if no keys are configured.
    fn identify(&self, request: &Request) -> Result<Option<Arc<Key>>, Error> {
        if let Some(clients) = &self.clients {
            let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
            let client = peer.map(|peer| client::address(peer, request.headers(), &self.trusted_proxies));
            // Only tests make requests without a connection.
            if let Some(client) = client {
                clients
                    .check(client)
                    .map_err(|wait| rate_limited("this address", wait))?;
            }
        }
        let Some(keys) = &self.keys else { return Ok(None) };
        let keyring = Arc::clone(&keys.read().unwrap_or_else(PoisonError::into_inner));
        let sent = keys::sent(request.headers())?;
        let unknown = || Error::new(Code::Unauthorized, "the API key is not known to this server");
        keyring.find(sent).map(Some).ok_or_else(unknown)
    }
}

/// The highest priority that a request may set. Normal without an API key.
#[derive(Debug, Clone, Copy, Default)]
pub struct HighestPriority(RequestPriority);

impl HighestPriority {
    pub fn check(self, asked: RequestPriority) -> Result<(), Error> {
        if asked <= self.0 {
            return Ok(());
        }
        Err(priority_refused())
    }
}

pub(super) fn priority_refused() -> Error {
    Error::new(
        Code::Forbidden,
        "priority: expected normal or low, found high, which requires an API key with priority = \"high\" in the server's configuration",
    )
}

/// The API key of a request, in its extensions.
#[derive(Debug, Clone)]
struct Charged(Arc<Key>);

pub(super) fn rate_limited(who: &str, wait: Duration) -> Error {
    let detail = format!("rate limit exceeded for {who}; retry in {wait:.1?}");
    Error {
        retry_after: Some(wait),
        ..Error::new(Code::RateLimited, detail)
    }
}

/// The middleware.
pub async fn check(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let Some(guard) = &app.guard else {
        return next.run(request).await;
    };
    let key = match guard.identify(&request) {
        Ok(Some(key)) => key,
        Ok(None) => return next.run(request).await,
        Err(error) => return refuse(&app, error, request).await.into_response(),
    };
    request.extensions_mut().insert(flow::of_key(&key.name));
    request.extensions_mut().insert(Charged(Arc::clone(&key)));
    let response = match key.check_rate() {
        Ok(()) => {
            request.extensions_mut().insert(HighestPriority(key.priority));
            next.run(request).await
        }
        Err(wait) => {
            let error = rate_limited(&format!("API key {:?}", key.name), wait);
            refuse(&app, error, request).await.into_response()
        }
    };
    guard
        .requests_by_key
        .with_label_values(&[key.name.as_str(), response.status().as_str()])
        .inc();
    response
}

async fn refuse(app: &App, error: Error, request: Request) -> Error {
    if request.headers().contains_key(EXPECT) {
        // The client has not sent the body: it waits for `100 Continue`.
        return error.with_body_unread();
    }
    let deadline = Instant::now() + app.config.request_timeout.0;
    payload::refuse(
        error,
        request.into_body(),
        app.config.max_body.0.as_u64(),
        deadline,
    )
    .await
}
