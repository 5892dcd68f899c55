//! API keys and rate limits in the OpenAPI document.

use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder};
use utoipa::openapi::security::{SecurityRequirement, SecurityScheme};

use std::time::Duration;

use super::document::problems;
use super::guard::{self, keys};

const BEARER: &str = "bearer";
const API_KEY: &str = "api_key";

/// Adds the security schemes, and to each guarded operation its security requirement and error
/// responses.
pub(super) fn describe(document: &mut OpenApi, guarded: &OpenApi) {
    let components = document.components.get_or_insert_default();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API key. Required if the server has any."))
        .build();
    components.add_security_scheme(BEARER, SecurityScheme::Http(bearer));
    let header = ApiKeyValue::with_description("X-Api-Key", "The same API key in a separate header.");
    components.add_security_scheme(API_KEY, SecurityScheme::ApiKey(ApiKey::Header(header)));

    let refusals = problems([
        keys::missing(),
        guard::rate_limited("this address", Duration::from_millis(1500)),
    ]);
    for path in guarded.paths.paths.keys() {
        let Some(item) = document.paths.paths.get_mut(path) else {
            continue;
        };
        for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
            let none: [&str; 0] = [];
            operation.security = Some(vec![
                SecurityRequirement::default(),
                SecurityRequirement::new(BEARER, none),
                SecurityRequirement::new(API_KEY, none),
            ]);
            operation.responses.responses.extend(refusals.clone());
        }
    }
}
