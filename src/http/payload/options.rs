//! The options of a request besides its inputs.

use std::time::Duration;

use serde::Deserialize;

use crate::http::error::{Error, quoted, shortened};
use crate::priority::RequestPriority;

/// The options of the query; JSON and multipart bodies have the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
// No examples: Swagger UI would send them along with the options of the body.
pub struct Options {
    /// Name of the model. Optional if only one model, or a default model, takes this kind of input.
    pub model: Option<String>,
    /// Number of labels to return for each input, best first. Default: 5.
    #[param(minimum = 1, maximum = 4_294_967_295_u32, format = Int64)]
    pub top_k: Option<u32>,
    /// Time limit in milliseconds, at most the server's own.
    #[param(minimum = 1, maximum = 4_294_967_295_u32, format = Int64)]
    pub timeout_ms: Option<u32>,
    /// Order in which waiting requests are served. Default: normal.
    #[param(inline)]
    pub priority: Option<RequestPriority>,
}

impl Options {
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

    /// Merges the options of query and body. An option that is given in both must be the same.
    pub(super) fn merge(self, other: Self) -> Result<Self, Error> {
        fn one<T: PartialEq>(
            key: &str,
            query: Option<T>,
            body: Option<T>,
            show: impl Fn(&T) -> String,
        ) -> Result<Option<T>, Error> {
            match (query, body) {
                (Some(query), Some(body)) if query != body => Err(Error::invalid_request(format!(
                    "{key}: expected the same value in query and body, found {} and {}",
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

    /// The time limit of the request, at most `longest`.
    pub fn timeout(&self, longest: Duration) -> Duration {
        self.timeout_ms.map_or(longest, |milliseconds| {
            Duration::from_millis(milliseconds.into()).min(longest)
        })
    }
}
