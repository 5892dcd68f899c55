//! What the OpenAPI document says about API keys and rates, once for all routes that are guarded.

use utoipa::openapi::header::Header;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder};
use utoipa::openapi::security::{SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, ResponseBuilder};

use crate::error::Code;

const BEARER: &str = "bearer";
const API_KEY: &str = "api_key";

/// Adds the security schemes, and to each operation of these paths that it may need a key and what it answers then.
pub(super) fn describe(document: &mut OpenApi, guarded: &OpenApi) {
    let components = document.components.get_or_insert_default();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API key. Needed where the server has any."))
        .build();
    components.add_security_scheme(BEARER, SecurityScheme::Http(bearer));
    let header = ApiKeyValue::with_description("X-Api-Key", "The same key in a header of its own.");
    components.add_security_scheme(API_KEY, SecurityScheme::ApiKey(ApiKey::Header(header)));

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
            for (code, header) in [
                (Code::Unauthorized, "WWW-Authenticate"),
                (Code::RateLimited, "Retry-After"),
            ] {
                let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem")));
                let response = ResponseBuilder::new()
                    .description(format!("`{}`", code.as_str()))
                    .header(header, Header::default())
                    .content("application/problem+json", problem.build());
                let status = code.status().as_str().to_owned();
                operation
                    .responses
                    .responses
                    .insert(status, response.build().into());
            }
        }
    }
}
