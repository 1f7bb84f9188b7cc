//! Who may use the listener: no web page in an operator's browser, and where other machines can reach it, only who shows the token.

use std::net::SocketAddr;

use http::{HeaderName, HeaderValue, Method, StatusCode, header, request};
use subtle::ConstantTimeEq;

use super::reply::Reply;
use crate::config::{Operators, Secret};
use crate::origin::{Host, host_allowed, sender_allowed};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Characters of a host that an error repeats.
const MAX_SHOWN: usize = 100;

/// Where the listener is, and who may use it.
pub struct Access<'a> {
    /// The address that was bound.
    pub bound: SocketAddr,
    /// What the configuration says now.
    pub rules: &'a Operators,
}

impl Access<'_> {
    /// Whether this request may go on; otherwise what is answered.
    pub fn check(&self, head: &request::Parts) -> Result<(), Reply> {
        if self.is_open(head.uri.path()) {
            return Ok(());
        }
        let host = match Host::of(head) {
            Host::Named(host) => host,
            // No browser leaves it out.
            Host::Missing => "localhost",
            Host::Invalid => {
                let error = "the request must have one `host` header";
                return Err(refused(StatusCode::BAD_REQUEST, error));
            }
        };
        if !host_allowed(host, &self.rules.hosts) {
            let shown: String = host.chars().take(MAX_SHOWN).collect();
            let error = format!(
                "this listener is not known as `{shown}`; use its address, or write the name into admin_hosts of the configuration"
            );
            return Err(refused(StatusCode::MISDIRECTED_REQUEST, &error));
        }
        let is_write = ![Method::GET, Method::HEAD].contains(&head.method);
        if is_write && !self.is_sender_allowed(head, host) {
            let error = "a web page of another site sent this request; use a program such as curl";
            return Err(refused(StatusCode::FORBIDDEN, error));
        }
        self.check_token(head)
    }

    /// Programs say nothing of where they are; web pages must have come from this listener, or by a name of it.
    fn is_sender_allowed(&self, head: &request::Parts, host: &str) -> bool {
        let origins = self.rules.hosts.iter();
        let origins = origins.flat_map(|name| ["http", "https"].map(|scheme| format!("{scheme}://{name}")));
        let mut sites = head.headers.get_all(SEC_FETCH_SITE).iter();
        let is_near = sites.all(|site| site == "same-origin" || site == "none");
        is_near && sender_allowed(&head.headers, host, &origins.collect::<Vec<_>>())
    }

    /// What probes ask without a token and under any name.
    fn is_open(&self, path: &str) -> bool {
        match path.trim_matches('/') {
            "healthz" | "readyz" => true,
            "metrics" => self.rules.open_metrics,
            _ => false,
        }
    }

    fn check_token(&self, head: &request::Parts) -> Result<(), Reply> {
        let Some(token) = &self.rules.token else {
            if is_private(self.bound) {
                return Ok(());
            }
            // A reload took the token away while the listener stayed where it was.
            let error = "other machines reach this listener, and the configuration has no admin_token";
            return Err(refused(StatusCode::FORBIDDEN, error));
        };
        if is_shown(token, head) {
            return Ok(());
        }
        let error = "send the admin_token of the configuration as `authorization: Bearer TOKEN`";
        let challenge = HeaderValue::from_static("Bearer realm=\"pointsman\"");
        Err(refused(StatusCode::UNAUTHORIZED, error).with_header(header::WWW_AUTHENTICATE, challenge))
    }
}

/// Whether only this machine reaches an address.
pub fn is_private(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// The time that this takes says nothing about the token but its length.
fn is_shown(token: &Secret, head: &request::Parts) -> bool {
    let mut shown = head.headers.get_all(header::AUTHORIZATION).iter();
    let (Some(only), None) = (shown.next(), shown.next()) else {
        return false;
    };
    let Some((scheme, shown)) = only.to_str().ok().and_then(|shown| shown.split_once(' ')) else {
        return false;
    };
    let is_equal: bool = token.reveal().as_bytes().ct_eq(shown.trim().as_bytes()).into();
    scheme.eq_ignore_ascii_case("bearer") && is_equal
}

fn refused(status: StatusCode, error: &str) -> Reply {
    tracing::debug!(status = status.as_u16(), error, "a request of an operator is refused");
    Reply::problem(status, error)
}
