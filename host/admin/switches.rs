//! `/api/switches`: what operators take out of service by hand, and what else policies ask for.

use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::reply::Reply;
use crate::live::Live;
use crate::switches::SwitchError;

/// Bytes of a switch's value on its way in; what is kept is shorter.
const MAX_BODY: usize = 4096;

/// All switches that are set.
pub fn list(live: &Live) -> Reply {
    Reply::ok(&live.switches.all())
}

/// Sets a switch to the value in the body.
pub async fn set(live: &Live, name: &str, body: Incoming) -> Reply {
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return Reply::problem(StatusCode::PAYLOAD_TOO_LARGE, "the value is too long");
    };
    let bytes = body.to_bytes();
    let Ok(value) = std::str::from_utf8(&bytes) else {
        return Reply::problem(
            StatusCode::BAD_REQUEST,
            "the value is not text; send it as the body, such as `off`",
        );
    };
    match live.switches.set(name, value.trim()) {
        Ok(()) => {
            tracing::info!(switch = name, value = value.trim(), "a switch was set");
            Reply::ok(&live.switches.all())
        }
        Err(error) => problem(&error),
    }
}

/// Forgets a switch.
pub fn delete(live: &Live, name: &str) -> Reply {
    match live.switches.delete(name) {
        Ok(true) => {
            tracing::info!(switch = name, "a switch was deleted");
            Reply::ok(&live.switches.all())
        }
        Ok(false) => Reply::problem(StatusCode::NOT_FOUND, "this switch is not set"),
        Err(error) => problem(&error),
    }
}

fn problem(error: &SwitchError) -> Reply {
    let status = match error {
        SwitchError::Kept { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        SwitchError::TooMany => StatusCode::CONFLICT,
        SwitchError::Name | SwitchError::Value => StatusCode::BAD_REQUEST,
    };
    Reply::problem(status, &error.to_string())
}
