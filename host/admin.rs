//! The listener for operators: health, metrics, the state of targets and policies, rollback and switches. Loopback by default; elsewhere
//! it needs a token. One file below for each group of endpoints.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::config::Config;
use crate::live::Live;

mod access;
mod body;
mod log;
mod metrics;
mod overview;
mod policies;
mod ready;
mod reply;
mod switches;
mod targets;

use access::{Access, is_private};
use reply::Reply;

/// Connections of operators at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 256;
/// Time for the head of a request to arrive, also of the next one on a connection that is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait before connections are accepted again when that has failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The address is taken before anything else starts. One that other machines reach is refused without a token.
pub fn bind(config: &Config) -> io::Result<std::net::TcpListener> {
    if !is_private(config.admin) && config.operators.token.is_none() {
        return Err(io::Error::other(
            "other machines reach this address: write admin_token = { env = \"NAME\" } in the configuration, or a loopback address",
        ));
    }
    let listener = std::net::TcpListener::bind(config.admin)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Answers operators for as long as the future is polled.
pub async fn serve(listener: std::net::TcpListener, live: Arc<Live>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let bound = listener.local_addr()?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return Ok(());
        };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let live = live.clone();
        tokio::spawn(async move {
            serve_connection(stream, bound, live).await;
            drop(place);
        });
    }
}

async fn serve_connection(stream: TcpStream, bound: SocketAddr, live: Arc<Live>) {
    let service = service_fn(move |request| {
        let live = live.clone();
        async move { Ok::<_, Infallible>(answer(&live, bound, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    // A client that goes away is not an error.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

/// Every endpoint: method, path and what it does. `{name}` stands for one segment. `HEAD` works wherever `GET` does.
const ENDPOINTS: [(&str, &str, &str); 15] = [
    ("GET", "/healthz", "200 while the process lives"),
    ("GET", "/readyz", "200 while new requests are welcome, else 503"),
    ("GET", "/metrics", "Prometheus metrics"),
    ("GET", "/api/overview", "what is broken"),
    (
        "GET",
        "/api/targets",
        "health, breaker, latency and load of each target",
    ),
    (
        "POST",
        "/api/targets/{name}/reset",
        "ends every wait and rest of a target and its keys",
    ),
    ("GET", "/api/policies", "state, versions and decisions of each policy"),
    (
        "POST",
        "/api/policies/{name}/rollback",
        "goes back to the version before",
    ),
    (
        "POST",
        "/api/policies/{name}/activate",
        "makes the version of the body serve, such as {\"version\": \"1a2b3c4d\"}",
    ),
    ("GET", "/api/switches", "the switches that are set"),
    (
        "PUT",
        "/api/switches/{name}",
        "sets a switch to the value in the body, such as off",
    ),
    ("DELETE", "/api/switches/{name}", "forgets a switch"),
    ("GET", "/api/log", "the level of the log"),
    ("PUT", "/api/log", "changes the level of the log for a time"),
    ("DELETE", "/api/log", "goes back to the level of the configuration"),
];

async fn answer(live: &Arc<Live>, bound: SocketAddr, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let snapshot = live.snapshot();
    let access = Access {
        bound,
        rules: &snapshot.config.operators,
    };
    let reply = match access.check(&head) {
        Ok(()) => route(live, &head, body).await,
        Err(refused) => refused,
    };
    reply.into_response()
}

async fn route(live: &Arc<Live>, head: &request::Parts, body: Incoming) -> Reply {
    let path: Vec<&str> = head.uri.path().trim_matches('/').split('/').collect();
    // The body of an answer to HEAD is left out by the connection.
    let method = if head.method == Method::HEAD {
        &Method::GET
    } else {
        &head.method
    };
    match (method, path.as_slice()) {
        (&Method::GET, ["healthz"]) => Reply::text(StatusCode::OK, "ok"),
        (&Method::GET, ["readyz"]) => ready::show(live),
        (&Method::GET, ["metrics"]) => metrics::show(live),
        (&Method::GET, ["api"]) => index(),
        (&Method::GET, ["api", "overview"]) => overview::show(live),
        (&Method::GET, ["api", "targets"]) => targets::list(live),
        (&Method::POST, ["api", "targets", name @ .., "reset"]) if !name.is_empty() => {
            targets::reset(live, &named(name))
        }
        (&Method::GET, ["api", "policies"]) => policies::list(live),
        (&Method::POST, ["api", "policies", name, "rollback"]) => policies::rollback(live, name).await,
        (&Method::POST, ["api", "policies", name, "activate"]) => policies::activate(live, name, body).await,
        (&Method::GET, ["api", "switches"]) => switches::list(live),
        (&Method::PUT, ["api", "switches", name @ ..]) if !name.is_empty() => {
            switches::set(live, &named(name), head, body).await
        }
        (&Method::DELETE, ["api", "switches", name @ ..]) if !name.is_empty() => switches::delete(live, &named(name)),
        (&Method::GET, ["api", "log"]) => log::show(live),
        (&Method::PUT, ["api", "log"]) => log::change(live, body).await,
        (&Method::DELETE, ["api", "log"]) => log::reset(live),
        (_, path) => unknown(path),
    }
}

/// A name in a path. Those of targets may have slashes, which are written as they are or as `%2F`.
fn named(segments: &[&str]) -> String {
    let name = segments.join("/");
    percent_decode_str(&name).decode_utf8_lossy().into_owned()
}

/// What there is.
fn index() -> Reply {
    let endpoint = |(method, path, what): &(&str, &str, &str)| json!({ "method": method, "path": path, "what": what });
    Reply::ok(&ENDPOINTS.iter().map(endpoint).collect::<Vec<_>>())
}

/// Nothing is at this path, or not with this method.
fn unknown(path: &[&str]) -> Reply {
    let methods = methods_of(path);
    if methods.is_empty() {
        let mut paths: Vec<&str> = ENDPOINTS.iter().map(|(_, path, _)| *path).collect();
        paths.dedup();
        let known = format!("no such path; there are {}", paths.join(", "));
        return Reply::problem(StatusCode::NOT_FOUND, &known);
    }
    let allowed = methods.join(", ");
    let reply = Reply::problem(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("this path takes {allowed} only"),
    );
    match HeaderValue::from_str(&allowed) {
        Ok(allowed) => reply.with_header(header::ALLOW, allowed),
        Err(_) => reply,
    }
}

/// The methods that a path takes; none where nothing is there.
fn methods_of(path: &[&str]) -> Vec<&'static str> {
    let is_at = |pattern: &str| {
        let pattern: Vec<&str> = pattern.trim_matches('/').split('/').collect();
        // A name may have slashes: what is behind it is counted from the end.
        match pattern.iter().position(|part| part.starts_with('{')) {
            None => pattern == path,
            Some(place) => {
                path.len() >= pattern.len()
                    && path.starts_with(&pattern[..place])
                    && path.ends_with(&pattern[place + 1..])
            }
        }
    };
    let there = ENDPOINTS.iter().filter(|(_, pattern, _)| is_at(pattern));
    there
        .flat_map(|(method, ..)| {
            let head = (*method == "GET").then_some("HEAD");
            std::iter::once(*method).chain(head)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_knows_its_methods() {
        assert_eq!(methods_of(&["healthz"]), ["GET", "HEAD"]);
        assert_eq!(methods_of(&["api", "switches", "gpt"]), ["PUT", "DELETE"]);
        assert_eq!(methods_of(&["api", "switches", "eu", "gpt"]), ["PUT", "DELETE"]);
        assert_eq!(methods_of(&["api", "policies", "p", "rollback"]), ["POST"]);
        assert_eq!(methods_of(&["api", "targets", "eu", "gpt", "reset"]), ["POST"]);
        assert!(methods_of(&["api", "targets", "reset"]).is_empty());
        assert!(methods_of(&["v1", "chat", "completions"]).is_empty());
    }
}
