//! Connections to vendors: keeping them, and sending one request over them. It decides nothing about attempts.
//!
//! A connection is polled by the task of the request that uses it; nothing is spawned. So the frames of a stream reach the client
//! without a task switch, frames that have already arrived go out together, and dropping the answer closes the connection, which
//! cancels the vendor's work.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use crate::connect_error::{Cause, ConnectError};
use crate::content_encoding::{BodyError, ContentDecoder};
use crate::dialer::{Dial, Endpoint, Stream};

/// Why nothing was answered.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No connection: DNS, TCP or TLS.
    #[error("cannot connect to {host}: {error}")]
    Connect {
        /// The vendor's host.
        host: String,
        /// Why not.
        error: ConnectError,
    },
    /// The connection broke before an answer's head.
    #[error("the connection broke before an answer: {0}")]
    Broken(hyper::Error),
}

/// Limits of the connections that are kept.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Idle connections to one endpoint.
    pub per_endpoint: usize,
    /// How long an idle connection is worth keeping.
    pub idle: Duration,
    /// How long after it was opened a connection takes requests: a name may have other addresses by then.
    pub age: Duration,
}

/// How a request gets its connection.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// How long opening one may take.
    pub connect: Duration,
    /// Kept connections that were opened before this are closed and not used.
    pub opened_after: Option<Instant>,
}

impl Reach {
    /// Over any connection, or a new one within this time.
    pub fn within(connect: Duration) -> Self {
        Self {
            connect,
            opened_after: None,
        }
    }
}

/// The connections of one worker.
pub struct Connections {
    idle: Mutex<HashMap<Endpoint, Vec<Idle>>>,
    keep: Keep,
    dialer: Arc<dyn Dial>,
}

struct Idle {
    link: Link,
    since: Instant,
}

/// An open connection with the half that drives it.
struct Link {
    send: http1::SendRequest<Full<Bytes>>,
    /// `None` when the connection is closed. It must go as soon as it has ended: a request that it never took is given back by that.
    driver: Option<Driver>,
    opened: Instant,
}

/// The half of a connection that reads and writes.
type Driver = http1::Connection<TokioIo<Box<dyn Stream>>, Full<Bytes>>;

/// A vendor's answer: its head, and a body that still drives the connection.
pub struct Answer {
    /// Status and headers.
    pub head: http::response::Parts,
    /// What follows.
    pub body: AnswerBody,
}

/// The body of an answer. Read to its end, it gives the connection back; dropped before, it closes it.
pub struct AnswerBody {
    incoming: Incoming,
    link: Option<Link>,
    home: Arc<Connections>,
    endpoint: Arc<Endpoint>,
    /// The connection may take another request behind this one.
    may_be_kept: bool,
    /// How the body ended, when that was seen before it was asked for.
    ending: Option<Option<hyper::Error>>,
    /// Bytes that were looked at and put back.
    ahead: Option<Bytes>,
    /// What the body is encoded with.
    decoder: Option<ContentDecoder>,
}

/// What arrives in one go is joined up to this size, so that a burst of frames is one write.
const JOINED_BYTES: usize = 64 * 1024;

impl Connections {
    /// No connections yet.
    pub fn new(keep: Keep, dialer: Arc<dyn Dial>) -> Self {
        Self {
            idle: Mutex::default(),
            keep,
            dialer,
        }
    }

    /// Sends the request that `make` makes and waits for the head of the answer. Only the time to get a connection is bounded.
    ///
    /// A kept connection may turn out to be closed just as it is used. That says nothing about the vendor, so the request goes
    /// out once more, over a new one: if it was never sent, or if the connection closed right after; and if `may_resend` still says so.
    pub async fn send(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        make: impl Fn() -> http::Request<Full<Bytes>>,
        may_resend: impl Fn() -> bool,
        reach: Reach,
    ) -> Result<Answer, SendError> {
        if let Some(mut link) = self.kept(endpoint, reach.opened_after).await {
            let sent = Instant::now();
            match link.exchange(make()).await {
                Ok(response) => return Ok(self.answer(endpoint, link, response)),
                Err(error) if !is_stale(&error, sent.elapsed()) || !may_resend() => {
                    return Err(SendError::Broken(error));
                }
                Err(_) => {}
            }
        }
        // Rare, and by far the largest part of this future if it were not on the heap.
        let mut link = Box::pin(self.open(endpoint, reach.connect)).await?;
        let response = link.exchange(make()).await.map_err(SendError::Broken)?;
        Ok(self.answer(endpoint, link, response))
    }

    fn answer(self: &Arc<Self>, endpoint: &Arc<Endpoint>, link: Link, response: http::Response<Incoming>) -> Answer {
        let (mut head, incoming) = response.into_parts();
        let body = AnswerBody {
            incoming,
            link: Some(link),
            home: self.clone(),
            endpoint: endpoint.clone(),
            // A vendor that fails may be about to move: the next request finds out where it is by then.
            may_be_kept: !head.status.is_server_error(),
            ending: None,
            ahead: None,
            decoder: ContentDecoder::take(&mut head.headers),
        };
        Answer { head, body }
    }

    /// An idle connection that is still open, the most recently used first.
    async fn kept(&self, endpoint: &Endpoint, opened_after: Option<Instant>) -> Option<Link> {
        loop {
            let idle = self
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_mut(endpoint)?
                .pop()?;
            let is_trusted = opened_after.is_none_or(|after| idle.link.opened >= after);
            if !is_trusted || !self.is_worth_keeping(&idle) {
                continue;
            }
            let mut link = idle.link;
            if link.is_open().await {
                return Some(link);
            }
        }
    }

    fn is_worth_keeping(&self, idle: &Idle) -> bool {
        idle.since.elapsed() < self.keep.idle && idle.link.opened.elapsed() < self.keep.age
    }

    fn put_back(&self, endpoint: &Endpoint, link: Link) {
        if link.opened.elapsed() >= self.keep.age {
            return;
        }
        let mut all = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(endpoint) {
            all.insert(endpoint.clone(), Vec::new());
        }
        if let Some(kept) = all.get_mut(endpoint).filter(|kept| kept.len() < self.keep.per_endpoint) {
            kept.push(Idle {
                link,
                since: Instant::now(),
            });
        }
    }

    /// Closes what has been idle for too long, or is too old.
    pub fn sweep(&self) {
        let mut all = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, kept| {
            kept.retain(|idle| self.is_worth_keeping(idle));
            !kept.is_empty()
        });
    }

    /// Closes every idle connection; `false` where there was none.
    fn close_idle(&self) -> bool {
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        !idle.is_empty()
    }

    /// A new connection. Where this machine is at a limit, the idle ones are given up for it.
    async fn open(&self, endpoint: &Endpoint, within: Duration) -> Result<Link, SendError> {
        let by = Instant::now() + within;
        match self.dial(endpoint, by).await {
            Err(SendError::Connect { error, .. }) if error.cause == Cause::LocalLimit && self.close_idle() => {
                self.dial(endpoint, by).await
            }
            dialled => dialled,
        }
    }

    async fn dial(&self, endpoint: &Endpoint, by: Instant) -> Result<Link, SendError> {
        let failed = |error| SendError::Connect {
            host: endpoint.host.clone(),
            error,
        };
        let late = || ConnectError::new(Cause::ConnectTimeout, "connecting took too long");
        let dialled = timeout_at(by, self.dialer.dial(endpoint, by)).await;
        let stream = dialled.unwrap_or_else(|_| Err(late())).map_err(failed)?;
        let handshake = http1::Builder::new().handshake(TokioIo::new(stream)).await;
        let (send, driver) = handshake.map_err(|error| failed(ConnectError::new(Cause::Other, error.to_string())))?;
        Ok(Link {
            send,
            driver: Some(driver),
            opened: Instant::now(),
        })
    }
}

impl Link {
    /// Whether the vendor has not closed it since it was last used.
    async fn is_open(&mut self) -> bool {
        poll_fn(|cx| {
            self.drive(cx);
            Poll::Ready(self.is_idle())
        })
        .await
    }

    async fn exchange(
        &mut self,
        request: http::Request<Full<Bytes>>,
    ) -> Result<http::Response<Incoming>, hyper::Error> {
        let mut response = std::pin::pin!(self.send.send_request(request));
        poll_fn(|cx| {
            if let Poll::Ready(result) = response.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            self.drive(cx);
            response.as_mut().poll(cx)
        })
        .await
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        if self
            .driver
            .as_mut()
            .is_some_and(|driver| Pin::new(driver).poll(cx).is_ready())
        {
            self.driver = None;
        }
    }

    /// Whether the next request may go over it.
    fn is_idle(&self) -> bool {
        self.driver.is_some() && self.send.is_ready()
    }
}

/// How soon after a request went out a closed connection means that it had been closed before.
const STALE: Duration = Duration::from_secs(1);

/// Whether an error on a kept connection is about the connection, not about what the vendor did with the request.
fn is_stale(error: &hyper::Error, after: Duration) -> bool {
    let reset = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<io::Error>())
        .is_some();
    error.is_canceled() || (after < STALE && (error.is_incomplete_message() || reset))
}

impl AnswerBody {
    /// The next bytes, decoded: all that have arrived, up to a limit. `None` at the end, after which the connection is at home again.
    pub fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if let Some(ahead) = self.ahead.take() {
            return Poll::Ready(Some(Ok(ahead)));
        }
        let Some(mut decoder) = self.decoder.take() else {
            return self.poll_joined(cx).map_err(BodyError::Wire);
        };
        let bytes = decoder.poll_decoded(cx, |cx| self.poll_joined(cx));
        self.decoder = Some(decoder);
        bytes
    }

    /// Puts bytes back that were looked at: they are the next ones again.
    pub fn put_back(&mut self, bytes: Bytes) {
        self.ahead = Some(bytes).filter(|bytes| !bytes.is_empty());
    }

    /// The next bytes as they come, joined.
    fn poll_joined(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        let first = match ready!(self.poll_data(cx)) {
            Some(Ok(first)) => first,
            ending => return Poll::Ready(ending),
        };
        let Some(second) = self.more(cx, first.len()) else {
            return Poll::Ready(Some(Ok(first)));
        };
        let mut joined = BytesMut::with_capacity((first.len() + second.len()) * 2);
        joined.extend_from_slice(&first);
        joined.extend_from_slice(&second);
        while let Some(more) = self.more(cx, joined.len()) {
            joined.extend_from_slice(&more);
        }
        Poll::Ready(Some(Ok(joined.freeze())))
    }

    /// More bytes that are there already. An error or the end is kept for the next call: what came before it goes out first.
    fn more(&mut self, cx: &mut Context<'_>, joined: usize) -> Option<Bytes> {
        if joined >= JOINED_BYTES {
            return None;
        }
        match self.poll_data(cx) {
            Poll::Ready(Some(Ok(bytes))) => Some(bytes),
            Poll::Ready(Some(Err(error))) => {
                self.ending = Some(Some(error));
                None
            }
            Poll::Ready(None) => {
                self.ending = Some(None);
                None
            }
            Poll::Pending => None,
        }
    }

    /// [`AnswerBody::poll_bytes`] as a future.
    pub async fn bytes(&mut self) -> Option<Result<Bytes, BodyError>> {
        poll_fn(|cx| self.poll_bytes(cx)).await
    }

    /// Once for what has been read already, once more after the connection has read on.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        if let Some(ending) = self.ending.take() {
            return Poll::Ready(ending.map(Err));
        }
        if let Poll::Ready(data) = self.poll_read(cx) {
            return Poll::Ready(data);
        }
        if let Some(link) = &mut self.link {
            link.drive(cx);
        }
        self.poll_read(cx)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        loop {
            match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // Trailers mean nothing to any of the formats.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Some(Err(error)) => {
                    self.link = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    self.go_home(cx);
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn go_home(&mut self, cx: &mut Context<'_>) {
        let Some(mut link) = self.link.take() else { return };
        link.drive(cx);
        if self.may_be_kept && link.is_idle() {
            self.home.put_back(&self.endpoint, link);
        }
    }
}
