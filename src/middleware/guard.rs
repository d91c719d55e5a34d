//! Protection of a person whose browser can reach this service: a strict content policy, and no requests from
//! other sites.

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method,
        header::{CONTENT_SECURITY_POLICY, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::app::App;
use crate::error::{Kind, Problem};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Our pages load one style sheet and nothing else; no script runs at all.
const POLICY: &str =
    "default-src 'self'; script-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

/// The vendored API browser is a script of our own origin that sets styles and shows icons from data
/// addresses.
const DOCS_POLICY: &str =
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";

pub(super) async fn add_security_headers(request: Request, next: Next) -> Response {
    let in_docs = request.uri().path().starts_with("/docs") && !request.uri().path().starts_with("/docs/errors");
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let policy = if in_docs { DOCS_POLICY } else { POLICY };
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// A web page that someone visits must not be able to drive a service on their own machine: not by a host
/// name that resolves to 127.0.0.1, and not by a cross-site form.
pub(super) async fn refuse_foreign_requests(State(app): State<App>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    if app.config.server.bind.ip().is_loopback() && !names_loopback(headers) {
        return Problem::new(Kind::UnknownHost, "this service answers to localhost, 127.0.0.1 and [::1] only")
            .into_response();
    }
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if changes && headers.get(SEC_FETCH_SITE).is_some_and(|site| site == "cross-site") {
        return Problem::new(Kind::ForbiddenOrigin, "a page of another site sent this request").into_response();
    }
    next.run(request).await
}

/// True when `Host` is a name of the loopback interface. HTTP/1.0 clients may leave it out; browsers never
/// do.
fn names_loopback(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let loopback_address = name.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback());
    loopback_address || name == "[::1]" || name.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_pass() {
        for (host, passes) in [
            ("localhost:8080", true),
            ("127.0.0.1:8080", true),
            ("[::1]:8080", true),
            ("LOCALHOST", true),
            ("evil.example:8080", false),
            ("127.0.0.1.evil.example", false),
            ("10.0.0.1", false),
        ] {
            let headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
            assert_eq!(names_loopback(&headers), passes, "{host}");
        }
        assert!(names_loopback(&HeaderMap::new()));
    }
}
