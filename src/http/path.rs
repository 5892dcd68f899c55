//! The parts of a path that stand for something.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::http::error::Error;

/// As axum's [`Path`], but a part that cannot be read is refused with a problem document.
pub struct PathOf<T>(pub T);

impl<T, S> FromRequestParts<S> for PathOf<T>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(parts)) => Ok(Self(parts)),
            Err(rejection) => Err(Error::invalid_request(format!(
                "path: expected UTF-8: {}",
                rejection.body_text()
            ))),
        }
    }
}
