//! `/api/policies`: where each policy stands, and the way to another version of it.

use std::sync::Arc;

use http::StatusCode;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;

use super::body;
use super::reply::Reply;
use crate::live::Live;
use crate::policy::{Hash, Library, RollbackError};

/// Which version is to serve.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Activate {
    /// Its hash, or the beginning of it.
    version: String,
}

/// All policies.
pub fn list(live: &Live) -> Reply {
    Reply::ok(&live.library.status())
}

/// Goes back to the version before what serves.
pub async fn rollback(live: &Arc<Live>, name: &str) -> Reply {
    let name = name.to_owned();
    switch(live, move |library| library.rollback(&name)).await
}

/// Goes to any version that is kept.
pub async fn activate(live: &Arc<Live>, name: &str, body: Incoming) -> Reply {
    let body = match body::text(body).await {
        Ok(body) => body,
        Err(reply) => return reply,
    };
    let Ok(Activate { version }) = serde_json::from_str(&body) else {
        let instead = "send {\"version\": \"HASH\"}, with the beginning of a hash that /api/policies lists";
        return Reply::problem(StatusCode::BAD_REQUEST, instead);
    };
    // As answers and logs name it.
    let (name, version) = (
        name.to_owned(),
        version.rsplit('@').next().unwrap_or_default().to_owned(),
    );
    switch(live, move |library| library.activate(&name, &version)).await
}

/// Loading a version blocks, so it happens on a thread for such things.
async fn switch(live: &Arc<Live>, to: impl FnOnce(&Library) -> Result<Hash, RollbackError> + Send + 'static) -> Reply {
    let live = live.clone();
    let done = tokio::task::spawn_blocking(move || {
        let hash = to(&live.library)?;
        live.swap_policies();
        Ok(hash)
    });
    let error = match done.await {
        Ok(Ok(hash)) => return Reply::ok(&json!({ "version": hash.to_string() })),
        Ok(Err(error)) => error,
        Err(_) => return Reply::problem(StatusCode::INTERNAL_SERVER_ERROR, "it was interrupted"),
    };
    let status = match &error {
        RollbackError::Unknown(_) | RollbackError::NoVersion { .. } => StatusCode::NOT_FOUND,
        RollbackError::NoEarlier(_) | RollbackError::Ambiguous { .. } => StatusCode::CONFLICT,
        RollbackError::Refused { .. } | RollbackError::Closed => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Reply::problem(status, &error.to_string())
}
