//! The listener for operators: health, metrics, the state of targets and policies, rollback and switches. Loopback by default; it
//! has no keys of its own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::breaker::State;
use crate::live::Live;
use crate::policy::{PolicyStatus, RollbackError};
use crate::snapshot::Target;
use crate::switches::SwitchError;

/// The address is taken before anything else starts.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Answers operators for as long as the future is polled.
pub async fn serve(listener: std::net::TcpListener, live: Arc<Live>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let live = live.clone();
        let service = service_fn(move |request| {
            let live = live.clone();
            async move { Ok::<_, std::convert::Infallible>(answer(&live, request).await) }
        });
        tokio::spawn(async move {
            let mut builder = http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10));
            // A client that goes away is no news.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Reply = (StatusCode, &'static str, Bytes);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

async fn answer(live: &Arc<Live>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let path: Vec<&str> = head.uri.path().trim_matches('/').split('/').collect();
    let (status, kind, bytes) = match (&head.method, path.as_slice()) {
        (&Method::GET, ["healthz"]) => text(StatusCode::OK, "ok"),
        (&Method::GET, ["readyz"]) if live.is_ready() => text(StatusCode::OK, "ready"),
        (&Method::GET, ["readyz"]) => text(StatusCode::SERVICE_UNAVAILABLE, "draining"),
        (&Method::GET, ["metrics"]) => metrics(live),
        (&Method::GET, ["api", "targets"]) => json(StatusCode::OK, &targets(live)),
        (&Method::GET, ["api", "policies"]) => json(StatusCode::OK, &live.library.status()),
        (&Method::POST, ["api", "policies", name, "rollback"]) => rollback(live, name).await,
        (&Method::GET, ["api", "switches"]) => json(StatusCode::OK, &live.switches.all()),
        (&Method::PUT, ["api", "switches", name]) => set_switch(live, name, body).await,
        (&Method::DELETE, ["api", "switches", name]) => delete_switch(live, name),
        _ => problem(
            StatusCode::NOT_FOUND,
            "there are /healthz, /readyz, /metrics, /api/targets, /api/policies, /api/switches",
        ),
    };
    let mut response = Response::new(Full::new(bytes));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

fn text(status: StatusCode, text: &'static str) -> Reply {
    (status, TEXT, Bytes::from_static(text.as_bytes()))
}

fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    (
        status,
        JSON,
        serde_json::to_vec_pretty(value).unwrap_or_default().into(),
    )
}

fn problem(status: StatusCode, error: &str) -> Reply {
    json(status, &json!({ "error": error }))
}

fn targets(live: &Live) -> Vec<Value> {
    let snapshot = live.snapshot();
    let mut seen = std::collections::BTreeMap::new();
    for target in snapshot.routes.iter().flat_map(|route| &route.targets) {
        seen.entry(target.rules.name.clone())
            .or_insert_with(|| describe(target));
    }
    seen.into_values().collect()
}

fn describe(target: &Target) -> Value {
    let now = Instant::now();
    let reading = target.health.read(now);
    let load = target.limit.load();
    json!({
        "name": target.rules.name,
        "vendor": target.rules.vendor.name,
        "model": target.rules.model,
        "breaker": match reading.state {
            State::Closed => "closed",
            State::HalfOpen => "half-open",
            State::Open => "open",
        },
        "cooldown_ms": reading.cooldown.as_millis() as u64,
        "error_rate": reading.error_rate,
        "in_flight": reading.in_flight,
        "first_token_p50_ms": reading.first_token_p50_ms,
        "first_token_p95_ms": reading.first_token_p95_ms,
        "headroom": reading.headroom,
        // Of a target without a limit nothing is counted here.
        "limit": load.limit,
        "in_line": load.waiting,
        "keys_resting": target.signer.resting(now),
    })
}

/// Loading an earlier version blocks, so it happens on a thread for such things.
async fn rollback(live: &Arc<Live>, name: &str) -> Reply {
    let (live, name) = (live.clone(), name.to_owned());
    let done = tokio::task::spawn_blocking(move || {
        let hash = live.library.rollback(&name)?;
        live.swap_policies();
        Ok(hash)
    });
    match done.await {
        Ok(Ok(hash)) => json(StatusCode::OK, &json!({ "version": hash.to_string() })),
        Ok(Err(error @ RollbackError::Unknown(_))) => problem(StatusCode::NOT_FOUND, &error.to_string()),
        Ok(Err(error @ RollbackError::NoEarlier(_))) => problem(StatusCode::CONFLICT, &error.to_string()),
        Ok(Err(error)) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the rollback was interrupted"),
    }
}

/// Bytes of a switch's value on its way in; what is kept is shorter.
const MAX_SWITCH_BODY: usize = 4096;

async fn set_switch(live: &Live, name: &str, body: Incoming) -> Reply {
    let Ok(body) = Limited::new(body, MAX_SWITCH_BODY).collect().await else {
        return problem(StatusCode::PAYLOAD_TOO_LARGE, "the value is too long");
    };
    let bytes = body.to_bytes();
    let Ok(value) = std::str::from_utf8(&bytes) else {
        return problem(
            StatusCode::BAD_REQUEST,
            "the value is not text; send it as the body, such as `off`",
        );
    };
    match live.switches.set(name, value.trim()) {
        Ok(()) => {
            tracing::info!(switch = name, value = value.trim(), "a switch was set");
            json(StatusCode::OK, &live.switches.all())
        }
        Err(error) => switch_problem(&error),
    }
}

fn delete_switch(live: &Live, name: &str) -> Reply {
    match live.switches.delete(name) {
        Ok(true) => {
            tracing::info!(switch = name, "a switch was deleted");
            json(StatusCode::OK, &live.switches.all())
        }
        Ok(false) => problem(StatusCode::NOT_FOUND, "this switch is not set"),
        Err(error) => switch_problem(&error),
    }
}

fn switch_problem(error: &SwitchError) -> Reply {
    let status = match error {
        SwitchError::Kept { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        SwitchError::TooMany => StatusCode::CONFLICT,
        SwitchError::Name | SwitchError::Value => StatusCode::BAD_REQUEST,
    };
    problem(status, &error.to_string())
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PolicyLabels {
    policy: String,
    version: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct HealthLabels {
    target: String,
}

fn metrics(live: &Live) -> Reply {
    let mut text = live.telemetry.metrics.encode();
    // What is read off the policies and targets at this moment.
    let mut registry = Registry::default();
    register_policies(&mut registry, &live.library.status());
    register_targets(&mut registry, live);
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    (
        StatusCode::OK,
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
        text.into(),
    )
}

fn register_policies(registry: &mut Registry, policies: &[PolicyStatus]) {
    let mut column = |name: &str, help: &str, value: fn(&PolicyStatus) -> f64| {
        let family = Family::<PolicyLabels, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
        for status in policies {
            let version = status.version.map_or_else(String::new, |hash| hash.short());
            family
                .get_or_create(&PolicyLabels {
                    policy: status.name.clone(),
                    version,
                })
                .set(value(status));
        }
        registry.register(name, help, family);
    };
    column(
        "pointsman_policy_decisions",
        "Decisions of the version that serves",
        |s| s.decisions as f64,
    );
    column("pointsman_policy_traps", "Decisions that trapped", |s| s.traps as f64);
    column("pointsman_policy_timeouts", "Decisions that ran out of time", |s| {
        s.timeouts as f64
    });
    column(
        "pointsman_policy_nonsense",
        "Decisions that the contract forbids",
        |s| s.nonsense as f64,
    );
    column(
        "pointsman_policy_busy",
        "Decisions for which no instance was free",
        |s| s.busy as f64,
    );
    column(
        "pointsman_policy_dropped_log_lines",
        "Log lines beyond a decision's limit",
        |s| s.dropped_log_lines as f64,
    );
    column("pointsman_policy_refused", "Whether the newest file was refused", |s| {
        f64::from(u8::from(s.problem.is_some()))
    });
    column(
        "pointsman_policy_decision_p50_microseconds",
        "Median time of a decision",
        |s| s.p50_us,
    );
    column(
        "pointsman_policy_decision_p99_microseconds",
        "99th percentile of a decision",
        |s| s.p99_us,
    );
}

fn register_targets(registry: &mut Registry, live: &Live) {
    let (open, in_flight) = (
        Family::<HealthLabels, Gauge>::default(),
        Family::<HealthLabels, Gauge>::default(),
    );
    for target in live.snapshot().routes.iter().flat_map(|route| &route.targets) {
        let labels = HealthLabels {
            target: target.rules.name.clone(),
        };
        let reading = target.health.read(Instant::now());
        open.get_or_create(&labels)
            .set(i64::from(reading.state != State::Closed));
        in_flight.get_or_create(&labels).set(reading.in_flight.into());
    }
    registry.register(
        "pointsman_target_breaker_open",
        "1 while the breaker is not closed",
        open,
    );
    registry.register("pointsman_target_in_flight", "Attempts under way", in_flight);
}
