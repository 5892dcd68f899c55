//! Checks of sizes and of relations between keys. [`Validate`](super::values::Validate) checks the
//! rest.

use std::collections::BTreeSet;

use bytesize::ByteSize;

use super::{ApiKey, Config, ConfigError, Size};

/// Below this, every image would be refused.
const LEAST_DECODE_MEMORY: ByteSize = ByteSize::mib(16);
const LEAST_QUEUE_MEMORY: ByteSize = ByteSize::mib(1);
/// Below this, ordinary requests of browsers would be refused.
const LEAST_HEADER_SIZE: ByteSize = ByteSize::kib(4);
const MOST_HEADER_SIZE: ByteSize = ByteSize::mib(1);

impl Config {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.validate()?;
        self.check_sizes()?;
        self.check_tls()?;
        self.check_api_keys()?;
        for (name, table) in &self.model {
            self.check_not_zero(&format!("model.{name}.gpu_memory_limit"), table.gpu_memory_limit)?;
            self.check_batch(name)?;
            self.check_pixels(name)?;
        }
        self.check_batch("")?;
        self.check_pixels("")
    }

    fn check_sizes(&self) -> Result<(), ConfigError> {
        self.check_not_zero("max_body", Some(self.max_body))?;
        self.check_not_zero("gpu_memory_limit", self.gpu_memory_limit)?;
        // Otherwise one long body could leave no room for others.
        if self.body_memory.as_u64() < self.max_body.as_u64().saturating_mul(2) {
            let message = format!(
                "expected at least twice max_body ({}), found {}",
                self.max_body, self.body_memory
            );
            return Err(self.mistake("body_memory", &message));
        }
        self.check_at_least("decode_memory", self.decode_memory, LEAST_DECODE_MEMORY)?;
        self.check_at_least("queue_memory", self.queue_memory, LEAST_QUEUE_MEMORY)?;
        self.check_at_least("max_header_size", self.max_header_size, LEAST_HEADER_SIZE)?;
        if *self.max_header_size > MOST_HEADER_SIZE {
            let message = format!(
                "expected at most {MOST_HEADER_SIZE}, found {}",
                self.max_header_size
            );
            return Err(self.mistake("max_header_size", &message));
        }
        Ok(())
    }

    fn check_not_zero(&self, key: &str, size: Option<Size>) -> Result<(), ConfigError> {
        match size {
            Some(size) if size.as_u64() == 0 => Err(self.mistake(key, "expected at least 1, found 0")),
            _ => Ok(()),
        }
    }

    fn check_at_least(&self, key: &str, size: Size, least: ByteSize) -> Result<(), ConfigError> {
        if *size >= least {
            return Ok(());
        }
        let message = format!("expected at least {least}, found {size}");
        Err(self.mistake(key, &message))
    }

    fn check_tls(&self) -> Result<(), ConfigError> {
        let needs =
            |key: &str, other: &str| Err(self.mistake(key, &format!("expected {other} as well, found none")));
        match (&self.tls_certificate, &self.tls_key, &self.tls_client_ca) {
            (Some(_), None, _) => needs("tls_certificate", "tls_key"),
            (None, Some(_), _) => needs("tls_key", "tls_certificate"),
            (None, None, Some(_)) => needs("tls_client_ca", "tls_certificate and tls_key"),
            _ => Ok(()),
        }
    }

    fn check_api_keys(&self) -> Result<(), ConfigError> {
        let mut names = BTreeSet::new();
        let mut hashes = BTreeSet::new();
        for (at, key) in self.api_keys.iter().enumerate() {
            let mistake =
                |field: &str, message: &str| Err(self.mistake(&format!("api_keys[{at}].{field}"), message));
            if let Err(message) = ApiKey::check_name(&key.name) {
                return mistake("name", &message);
            }
            if !names.insert(&key.name) {
                let message = format!(
                    "expected a different name for each key, found {:?} again",
                    key.name
                );
                return mistake("name", &message);
            }
            if !hashes.insert(key.sha256.0) {
                return mistake(
                    "sha256",
                    "expected a different key for each name, found one twice",
                );
            }
        }
        Ok(())
    }

    /// A batch must fit into the queue. The empty name stands for all models without a table.
    fn check_batch(&self, name: &str) -> Result<(), ConfigError> {
        let model = self.of_model(name);
        match model.max_batch {
            Some(max_batch) if max_batch > model.queue_capacity => {
                let limit = self.key_for(name, "queue_capacity");
                let message = format!(
                    "expected at most {limit} ({}), found {max_batch}",
                    model.queue_capacity
                );
                Err(self.mistake(&self.key_for(name, "max_batch"), &message))
            }
            _ => Ok(()),
        }
    }

    /// One image must fit into a request. The empty name stands for all models without a table.
    fn check_pixels(&self, name: &str) -> Result<(), ConfigError> {
        let largest = self.of_model(name).max_image_pixels;
        if self.max_request_pixels >= largest.get() {
            return Ok(());
        }
        let message = format!(
            "expected at most max_request_pixels ({}), found {largest}",
            self.max_request_pixels
        );
        Err(self.mistake(&self.key_for(name, "max_image_pixels"), &message))
    }
}
