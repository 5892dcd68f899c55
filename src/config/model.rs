//! What holds for a single model.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use classifier::Device;
use serde::{Deserialize, Serialize};

use super::HumanDuration;

/// A table `[model.NAME]` of the file. A key that is there is stronger than the key for all models, whatever that came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelTable {
    /// Version that is served. Default: the highest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// As the key for all models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_capacity: Option<u32>,
    /// As the key for all models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch: Option<u32>,
    /// As the key for all models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_tokens: Option<u32>,
    /// As the key for all models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_wait: Option<HumanDuration>,
    /// As the key for all models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lanes: Option<usize>,
    /// As the key for all models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// As the key for all models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// As the key for all models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<u32>,
    /// As the key for all models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fp16: Option<bool>,
    /// As the key for all models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tf32: Option<bool>,
    /// As the key for all models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_memory_limit: Option<ByteSize>,
    /// As the key for all models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensorrt_cache: Option<PathBuf>,
    /// As the key for all models. The body of a request must arrive within that one all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_timeout: Option<HumanDuration>,
    /// As the key for all models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_image_side: Option<u32>,
    /// As the key for all models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_image_pixels: Option<u64>,
}

impl ModelTable {
    /// The keys that count something, of which there must be one.
    pub(super) fn counts(&self) -> [(&'static str, Option<u64>); 9] {
        let count = |value: Option<usize>| value.map(|value| value as u64);
        [
            ("version", self.version),
            ("queue_capacity", self.queue_capacity.map(u64::from)),
            ("max_batch", self.max_batch.map(u64::from)),
            ("max_batch_tokens", self.max_batch_tokens.map(u64::from)),
            ("lanes", count(self.lanes)),
            ("threads", count(self.threads)),
            (
                "gpu_memory_limit",
                self.gpu_memory_limit.map(|limit| limit.as_u64()),
            ),
            ("max_image_side", self.max_image_side.map(u64::from)),
            ("max_image_pixels", self.max_image_pixels),
        ]
    }
}

/// What holds for one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelConfig {
    /// Most inputs that wait.
    pub queue_capacity: u32,
    /// Most inputs in a batch, and in one request.
    pub max_batch: Option<u32>,
    /// Most tokens of texts in a batch.
    pub max_batch_tokens: Option<u32>,
    /// How long a batch that is not full waits.
    pub max_wait: Duration,
    /// Sessions.
    pub lanes: Option<usize>,
    /// Threads of each session.
    pub threads: Option<usize>,
    /// CPU or GPU.
    pub device: Option<Device>,
    /// Which GPU.
    pub device_id: u32,
    /// 16-bit floats.
    pub fp16: Option<bool>,
    /// Rounded products.
    pub tf32: Option<bool>,
    /// Most memory of a session.
    pub gpu_memory_limit: Option<ByteSize>,
    /// Folder for engines.
    pub tensorrt_cache: Option<PathBuf>,
    /// Longest time to an answer.
    pub request_timeout: Duration,
    /// Most pixels along one side.
    pub max_image_side: u32,
    /// Most pixels in all.
    pub max_image_pixels: u64,
}
