//! Rate limits of an API key and of client addresses.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, NotUntil, Quota, RateLimiter};

use super::client;
use crate::config::RateLimit;

fn quota(limit: RateLimit) -> Quota {
    // The period is never zero, so there always is a quota.
    Quota::with_period(limit.period())
        .unwrap_or(Quota::per_second(limit.burst))
        .allow_burst(limit.burst)
}

#[derive(Debug)]
pub(super) struct Rate {
    rate: DefaultDirectRateLimiter,
    burst: NonZeroU32,
}

impl Rate {
    pub(super) fn new(limit: RateLimit) -> Self {
        Self {
            rate: RateLimiter::direct(quota(limit)),
            burst: limit.burst,
        }
    }

    /// `Err` with the time to wait if the limit is exceeded.
    pub(super) fn check(&self) -> Result<(), Duration> {
        self.rate.check().map_err(wait)
    }

    /// Charges `more` requests right after [`Self::check`]. Both together count as at most the
    /// burst, since the request could otherwise never be allowed.
    pub(super) fn charge(&self, more: NonZeroU32) -> Result<(), Duration> {
        match beside_one(more, self.burst) {
            Some(more) => self.rate.check_n(more).unwrap_or(Ok(())).map_err(wait),
            None => Ok(()),
        }
    }
}

fn wait(until: NotUntil<<DefaultClock as Clock>::Instant>) -> Duration {
    until.wait_time_from(DefaultClock::default().now())
}

/// `more`, limited to the burst minus the one request that was already counted.
fn beside_one(more: NonZeroU32, burst: NonZeroU32) -> Option<NonZeroU32> {
    NonZeroU32::new(more.get().min(burst.get() - 1))
}

/// Most rates that are kept, in about 10 MB. Beyond that, clients share rates.
const SLOTS: u64 = 1 << 18;

/// A rate limit for each client, in bounded memory.
#[derive(Debug)]
pub(super) struct ClientRates {
    rates: DefaultKeyedRateLimiter<u32>,
    burst: NonZeroU32,
    /// Randomly seeded, so that nobody can choose whose slot to share.
    hasher: RandomState,
}

impl ClientRates {
    pub(super) fn new(limit: RateLimit) -> Self {
        Self {
            rates: RateLimiter::keyed(quota(limit)),
            burst: limit.burst,
            hasher: RandomState::new(),
        }
    }

    /// `Err` with the time to wait if the limit is exceeded.
    pub(super) fn check(&self, address: IpAddr) -> Result<(), Duration> {
        self.rates.check_key(&self.slot(address)).map_err(wait)
    }

    /// Like [`Rate::charge`].
    pub(super) fn charge(&self, address: IpAddr, more: NonZeroU32) -> Result<(), Duration> {
        match beside_one(more, self.burst) {
            Some(more) => {
                let slot = self.slot(address);
                self.rates
                    .check_key_n(&slot, more)
                    .unwrap_or(Ok(()))
                    .map_err(wait)
            }
            None => Ok(()),
        }
    }

    fn slot(&self, address: IpAddr) -> u32 {
        let slot = self.hasher.hash_one(client::network(address)) % SLOTS;
        slot as u32
    }

    /// Removes clients whose limit has fully recovered.
    pub(super) fn forget(&self) {
        self.rates.retain_recent();
        self.rates.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(text: &str) -> RateLimit {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_is_allowed_and_then_one_for_each_period() {
        let rate = Rate::new(limit("1/h burst 3"));
        for _ in 0..3 {
            rate.check().unwrap();
        }
        let wait = rate.check().unwrap_err();
        assert!(
            wait > Duration::from_mins(59) && wait <= Duration::from_hours(1),
            "{wait:?}"
        );
    }

    #[test]
    fn a_request_of_several_inputs_counts_as_several() {
        let many = |count| NonZeroU32::new(count).unwrap();
        let rate = Rate::new(limit("1/h burst 5"));
        rate.check().unwrap();
        rate.charge(many(2)).unwrap();
        rate.check().unwrap();
        rate.charge(many(2)).unwrap_err();
        rate.charge(many(1)).unwrap();
    }

    #[test]
    fn a_request_that_costs_more_than_the_burst_takes_all_of_it() {
        let many = NonZeroU32::new(100).unwrap();
        for burst in [1, 4] {
            let rate = Rate::new(limit(&format!("1/h burst {burst}")));
            rate.check().unwrap();
            rate.charge(many).unwrap();
            rate.check().unwrap_err();
        }
        let rates = ClientRates::new(limit("1/h burst 4"));
        let address = IpAddr::from([192, 0, 2, 1]);
        rates.check(address).unwrap();
        rates.charge(address, many).unwrap();
        rates.check(address).unwrap_err();
    }

    #[test]
    fn clients_do_not_share_a_rate() {
        let rates = ClientRates::new(limit("1/h"));
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        rates.check(address("192.0.2.1")).unwrap();
        rates.check(address("192.0.2.1")).unwrap_err();
        rates.check(address("192.0.2.2")).unwrap();
        rates.check(address("2001:db8::1")).unwrap();
        rates.check(address("2001:db8::2")).unwrap_err();
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        let rates = ClientRates::new(limit("1000000/s burst 1"));
        for number in 0..2 * SLOTS as u32 {
            let _ = rates.check(IpAddr::V4(number.into()));
        }
        assert!(rates.rates.len() <= SLOTS as usize);
        std::thread::sleep(Duration::from_millis(1));
        rates.forget();
        assert_eq!(rates.rates.len(), 0);
    }
}
