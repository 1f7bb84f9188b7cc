//! `/readyz`: whether new requests are welcome, and what they do without.

use std::fmt::Write as _;

use http::StatusCode;

use super::reply::{Reply, TEXT};
use crate::live::Live;

/// 503 while the gateway drains and, where the operator requires policies, while a route has none of those that it names.
pub fn show(live: &Live) -> Reply {
    if !live.is_ready() {
        return Reply::text(StatusCode::SERVICE_UNAVAILABLE, "draining");
    }
    let snapshot = live.snapshot();
    let lacking = snapshot.routes.iter().filter(|route| route.lacks_policy());
    let mut lines = String::new();
    for route in lacking {
        let names: Vec<&str> = route.policies.iter().map(|policy| policy.name.as_str()).collect();
        // Writing into a string cannot fail.
        let _ = write!(
            lines,
            "\nroute {}: no version of {} serves",
            route.rules.model,
            names.join(", ")
        );
    }
    let (status, word) = if !lines.is_empty() && snapshot.config.policies.required {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    } else {
        (StatusCode::OK, ready(live))
    };
    Reply::new(status, TEXT, [word, &lines].concat())
}

/// A gateway that is ready may not come back from a restart.
fn ready(live: &Live) -> &'static str {
    if live.refused_config().is_some() {
        "ready, but the configuration on disk is refused: a restart would not come up with it (see /api/overview)"
    } else {
        "ready"
    }
}
