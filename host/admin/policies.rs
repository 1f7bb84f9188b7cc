//! `/api/policies`: where each policy stands, and the way back to an earlier version.

use std::sync::Arc;

use http::StatusCode;
use serde_json::json;

use super::reply::Reply;
use crate::live::Live;
use crate::policy::RollbackError;

/// All policies.
pub fn list(live: &Live) -> Reply {
    Reply::ok(&live.library.status())
}

/// Loading an earlier version blocks, so it happens on a thread for such things.
pub async fn rollback(live: &Arc<Live>, name: &str) -> Reply {
    let (live, name) = (live.clone(), name.to_owned());
    let done = tokio::task::spawn_blocking(move || {
        let hash = live.library.rollback(&name)?;
        live.swap_policies();
        Ok(hash)
    });
    match done.await {
        Ok(Ok(hash)) => Reply::ok(&json!({ "version": hash.to_string() })),
        Ok(Err(error @ RollbackError::Unknown(_))) => Reply::problem(StatusCode::NOT_FOUND, &error.to_string()),
        Ok(Err(error @ RollbackError::NoEarlier(_))) => Reply::problem(StatusCode::CONFLICT, &error.to_string()),
        Ok(Err(error)) => Reply::problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        Err(_) => Reply::problem(StatusCode::INTERNAL_SERVER_ERROR, "the rollback was interrupted"),
    }
}
