//! What goes on on a client's connection: requests in progress, how far their answers are, and when it is not worth keeping.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use http::Version;
use tokio::time::Instant;

use crate::config::Server;

/// See the module.
#[derive(Debug)]
pub struct Activity {
    origin: Instant,
    /// Requests and streams in progress.
    busy: AtomicUsize,
    /// Milliseconds from the origin to the end of the last of them; 0 before the first.
    last_ms: AtomicU64,
    answering: AtomicU8,
}

/// One request in progress on a connection.
#[derive(Debug)]
pub struct Busy(Arc<Activity>);

/// How far the answer on a connection of HTTP/1 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answering {
    /// Its head has not been sent, and the client knows interim responses.
    NotYet,
    /// Its body goes out in chunks.
    InChunks,
    /// Anything else.
    Otherwise,
}

impl Answering {
    /// Of a request of this version whose answer is not there yet.
    pub fn before(version: Version) -> Self {
        match version {
            Version::HTTP_11 => Answering::NotYet,
            _ => Answering::Otherwise,
        }
    }

    /// Of a request of this version whose answer has this length, if that is known.
    pub fn with(version: Version, length: Option<u64>) -> Self {
        match (version, length) {
            (Version::HTTP_11, None) => Answering::InChunks,
            _ => Answering::Otherwise,
        }
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            busy: AtomicUsize::new(0),
            last_ms: AtomicU64::new(0),
            answering: AtomicU8::new(Answering::Otherwise as u8),
        }
    }
}

impl Activity {
    /// Ends when the connection is not worth keeping: it never asked for anything, or has been quiet for too long.
    pub async fn idle(&self, server: &Server) {
        loop {
            let last_ms = self.last_ms.load(Ordering::Relaxed);
            let (since, limit) = match last_ms {
                0 => (self.origin, server.head_timeout),
                _ => (
                    self.origin + std::time::Duration::from_millis(last_ms),
                    server.idle_timeout,
                ),
            };
            let is_busy = self.is_busy();
            if !is_busy && since.elapsed() >= limit {
                return;
            }
            // A request that is in progress now makes the limit begin anew when it ends.
            let from = if is_busy { Instant::now() } else { since };
            tokio::time::sleep_until(from + limit).await;
        }
    }

    /// Whether a request is in progress.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    /// How far the answer is.
    pub fn answering(&self) -> Answering {
        let now = self.answering.load(Ordering::Relaxed);
        let all = [Answering::NotYet, Answering::InChunks];
        all.into_iter()
            .find(|answering| *answering as u8 == now)
            .unwrap_or(Answering::Otherwise)
    }

    /// Notes how far the answer is.
    pub fn set_answering(&self, answering: Answering) {
        self.answering.store(answering as u8, Ordering::Relaxed);
    }
}

impl Busy {
    /// A request has come.
    pub fn new(activity: Arc<Activity>) -> Self {
        activity.busy.fetch_add(1, Ordering::Relaxed);
        Self(activity)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let passed = self.0.origin.elapsed().as_millis() as u64;
        self.0.last_ms.store(passed.max(1), Ordering::Relaxed);
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}
