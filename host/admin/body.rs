//! The body of an operator's request: short, and text.

use std::time::Duration;

use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::reply::Reply;

/// Bytes of a body; everything that operators send is shorter.
const MAX_BODY: usize = 4096;
/// Time for a body to arrive.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The whole body without the white space around it; otherwise what the operator is answered.
pub async fn text(body: Incoming) -> Result<String, Reply> {
    let Ok(arrived) = tokio::time::timeout(TIMEOUT, Limited::new(body, MAX_BODY).collect()).await else {
        return Err(Reply::problem(
            StatusCode::REQUEST_TIMEOUT,
            "the body did not arrive in time",
        ));
    };
    let Ok(whole) = arrived else {
        return Err(Reply::problem(
            StatusCode::PAYLOAD_TOO_LARGE,
            &format!("the body is longer than {MAX_BODY} bytes, or broke off"),
        ));
    };
    match std::str::from_utf8(&whole.to_bytes()) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(_) => Err(Reply::problem(StatusCode::BAD_REQUEST, "the body is not text in UTF-8")),
    }
}
