//! A client: one connection, one request, and what comes of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use pointsman::server::Worker;
use tokio::time::{Instant, timeout};

use super::heard::Format;

/// What a client got.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Bytes,
    /// From the request to the head of the answer.
    pub head_after: Duration,
    /// From the request to its end.
    pub whole_after: Duration,
}

/// Asks on a connection of its own; `None` when it left before the answer was whole.
pub async fn ask(
    worker: &Arc<Worker>,
    format: Format,
    streaming: bool,
    says: &str,
    headers: &[(&'static str, String)],
    leaves_after: Option<Duration>,
) -> Option<Answer> {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let served = tokio::spawn(worker.clone().serve_connection(theirs));
    let (mut sender, connection) = http1::handshake(TokioIo::new(ours)).await.expect("a connection");
    let driver = tokio::spawn(connection);
    let line = format.line("smart", streaming);
    let mut request = Request::post(line.trim_start_matches("POST "));
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let body = Full::new(Bytes::from(format.body("smart", streaming, says)));
    let request = request.header("host", "localhost").body(body).unwrap();
    let began = Instant::now();
    let exchange = async {
        let response = sender.send_request(request).await.expect("an answer");
        let head_after = began.elapsed();
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            bytes: body,
            head_after,
            whole_after: began.elapsed(),
        }
    };
    let answer = match leaves_after {
        Some(after) => timeout(after, exchange).await.ok(),
        None => Some(exchange.await),
    };
    driver.abort();
    let _ = driver.await;
    served.await.expect("no panic");
    answer
}
