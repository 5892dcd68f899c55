//! The priority of a request, which clients name and the configuration allows.

use std::str::FromStr;

use batching::Priority;
use serde::de::IntoDeserializer;
use serde::{Deserialize, Serialize};

/// Order in which waiting requests are served.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum RequestPriority {
    /// Served after all others.
    Low,
    #[default]
    Normal,
    /// Served before all others. Requires an API key with `priority = "high"`.
    High,
}

impl From<RequestPriority> for Priority {
    fn from(priority: RequestPriority) -> Self {
        match priority {
            RequestPriority::High => Self::High,
            RequestPriority::Normal => Self::Normal,
            RequestPriority::Low => Self::Low,
        }
    }
}

impl FromStr for RequestPriority {
    type Err = serde::de::value::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::deserialize(text.into_deserializer())
    }
}
