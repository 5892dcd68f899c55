//! What a request may say beside its inputs.

use std::str::FromStr;
use std::time::Duration;

use serde::de::IntoDeserializer;
use serde::{Deserialize, Serialize};

use crate::http::error::{Error, quoted, shortened};
use batching::Priority;

/// What may stand in the query, in JSON and in a multipart form alike.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
// Without examples: Swagger UI would send them along with those of the body, which say other
// things.
pub struct Options {
    /// Name of the model. May be left out where one loaded model takes this kind of input, or a
    /// default is configured.
    pub model: Option<String>,
    /// How many labels to list for each input, best first. Default: 5.
    #[param(minimum = 1, maximum = 4_294_967_295_u32, format = Int64)]
    pub top_k: Option<u32>,
    /// Shortens the server's time limit, in milliseconds.
    #[param(minimum = 1, maximum = 4_294_967_295_u32, format = Int64)]
    pub timeout_ms: Option<u32>,
    /// Who goes first when requests wait. Default: normal.
    #[param(inline)]
    pub priority: Option<RequestPriority>,
}

/// Who goes first when requests wait.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum RequestPriority {
    /// After all others.
    Low,
    /// As usual.
    #[default]
    Normal,
    /// Before all others. Only with an API key that is allowed it.
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

impl Options {
    /// The options of the query string.
    pub fn from_query(query: Option<&str>) -> Result<Self, Error> {
        let Some(query) = query.filter(|query| !query.is_empty()) else {
            return Ok(Self::default());
        };
        let options: Self = serde_urlencoded::from_str(query).map_err(|error| {
            Error::invalid_request(format!(
                "query: expected model, top_k, timeout_ms or priority, found {}: {}",
                quoted(query),
                shortened(&error.to_string())
            ))
        })?;
        options.check()
    }

    pub(super) fn check(self) -> Result<Self, Error> {
        if self.top_k == Some(0) {
            return Err(Error::invalid_request("top_k: expected at least 1, found 0"));
        }
        if self.timeout_ms == Some(0) {
            return Err(Error::invalid_request("timeout_ms: expected at least 1, found 0"));
        }
        Ok(self)
    }

    /// Both together. What stands in both must be the same.
    pub(super) fn merge(self, other: Self) -> Result<Self, Error> {
        fn one<T: PartialEq>(
            key: &str,
            query: Option<T>,
            body: Option<T>,
            show: impl Fn(&T) -> String,
        ) -> Result<Option<T>, Error> {
            match (query, body) {
                (Some(query), Some(body)) if query != body => Err(Error::invalid_request(format!(
                    "{key}: expected the same in the query and in the body, found {} and {}",
                    show(&query),
                    show(&body)
                ))),
                (query, body) => Ok(query.or(body)),
            }
        }
        Ok(Self {
            model: one("model", self.model, other.model, |name| quoted(name))?,
            top_k: one("top_k", self.top_k, other.top_k, u32::to_string)?,
            timeout_ms: one("timeout_ms", self.timeout_ms, other.timeout_ms, u32::to_string)?,
            priority: one("priority", self.priority, other.priority, |priority| {
                format!("{priority:?}").to_lowercase()
            })?,
        })
    }

    /// How long the request may take, given what the server allows.
    pub fn timeout(&self, longest: Duration) -> Duration {
        self.timeout_ms.map_or(longest, |milliseconds| {
            Duration::from_millis(milliseconds.into()).min(longest)
        })
    }
}
