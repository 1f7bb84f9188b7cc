//! Watches what clients take of their answers. A library for HTTP asks for the next piece of an answer only when the client can be sent one,
//! so a deadline that is looked at on asking never passes for a client that reads nothing. Here it runs on a timer of its own, beside
//! the connection (HTTP/1) or the stream (HTTP/2), and ends it.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::time::{Instant, Sleep};

/// What is known of a client on a connection or a stream: since when it has left something unread, and when its answer must be complete.
#[derive(Debug)]
pub struct Progress {
    origin: Instant,
    /// Milliseconds since the origin, from 1 on; 0: nothing is unread.
    unread_since: AtomicU64,
    /// Milliseconds since the origin, from 1 on; 0: there is no limit.
    complete_by: AtomicU64,
    cut: AtomicBool,
}

/// How much later than the answer's own deadline the watch ends it: the answer's own tells the client why.
const AFTER_ITS_OWN: Duration = Duration::from_secs(1);

impl Default for Progress {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            unread_since: AtomicU64::new(0),
            complete_by: AtomicU64::new(0),
            cut: AtomicBool::new(false),
        }
    }
}

impl Progress {
    /// The client was sent something that it has not taken yet.
    pub fn waits(&self) {
        // Mostly it has been waiting already.
        if self.unread_since.load(Ordering::Relaxed) == 0 {
            self.unread_since.store(self.millis(Instant::now()), Ordering::Relaxed);
        }
    }

    /// The client took something, and there is more.
    pub fn took_some(&self) {
        self.unread_since.store(self.millis(Instant::now()), Ordering::Relaxed);
    }

    /// The client took all that there was.
    pub fn took_all(&self) {
        if self.unread_since.load(Ordering::Relaxed) != 0 {
            self.unread_since.store(0, Ordering::Relaxed);
        }
    }

    /// Says when the answer in progress must be complete; `None`: whenever it is.
    pub fn set_deadline(&self, by: Option<Instant>) {
        let by = by.map_or(0, |by| self.millis(by));
        self.complete_by.store(by, Ordering::Relaxed);
    }

    /// Whether the client has left something unread.
    pub fn is_waiting(&self) -> bool {
        self.unread_since.load(Ordering::Relaxed) != 0
    }

    /// Whether the watch has ended it.
    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.origin).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX).max(1)
    }

    /// When it is to be ended, if nothing changes.
    fn due(&self, stall: Duration) -> Option<Instant> {
        let at = |counter: &AtomicU64, later: Duration| match counter.load(Ordering::Relaxed) {
            0 => None,
            millis => self
                .origin
                .checked_add(Duration::from_millis(millis))?
                .checked_add(later),
        };
        let unread = at(&self.unread_since, stall);
        let complete = at(&self.complete_by, AFTER_ITS_OWN);
        [unread, complete].into_iter().flatten().min()
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Progress>>> = const { RefCell::new(None) };
}

/// The progress of what is being polled on this thread, if that is watched.
pub fn current() -> Option<Arc<Progress>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Runs a future to its end; `None`: its client has left something unread for as long as `stall`, or its answer is too late.
pub async fn watched<F: Future>(future: F, progress: &Arc<Progress>, stall: Duration) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut timer = None;
    poll_fn(|cx| {
        let before = CURRENT.replace(Some(progress.clone()));
        let polled = future.as_mut().poll(cx);
        CURRENT.set(before);
        match polled {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => {
                ready!(poll_due(progress, stall, &mut timer, cx));
                progress.cut.store(true, Ordering::Relaxed);
                Poll::Ready(None)
            }
        }
    })
    .await
}

/// Ready when it is to be ended. The timer is set only while something is unread or there is a deadline; where that changes meanwhile, it
/// rings for nothing.
fn poll_due(
    progress: &Progress,
    stall: Duration,
    timer: &mut Option<Pin<Box<Sleep>>>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    loop {
        let Some(due) = progress.due(stall) else {
            return Poll::Pending;
        };
        if Instant::now() >= due {
            return Poll::Ready(());
        }
        let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if timer.is_elapsed() || timer.deadline() > due {
            timer.as_mut().reset(due);
        }
        ready!(timer.as_mut().poll(cx));
    }
}

/// The pieces of an answer that were handed out and that the client has not taken: for HTTP/2, where nothing else says so.
#[derive(Debug)]
pub struct Unread {
    progress: Arc<Progress>,
    pieces: AtomicUsize,
    waker: AtomicWaker,
}

impl Unread {
    /// Nothing is unread yet.
    pub fn new(progress: Arc<Progress>) -> Arc<Self> {
        Arc::new(Self {
            progress,
            pieces: AtomicUsize::new(0),
            waker: AtomicWaker::new(),
        })
    }

    /// A piece that is unread until the last of it is dropped, which is when it has been sent.
    pub fn hand_out(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        self.pieces.fetch_add(1, Ordering::Relaxed);
        self.progress.waits();
        Bytes::from_owner(Piece {
            bytes,
            unread: self.clone(),
        })
    }

    /// Ready when the client has taken all pieces.
    pub fn poll_taken(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.is_taken() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Whether the client has taken all pieces.
    pub fn is_taken(&self) -> bool {
        self.pieces.load(Ordering::Acquire) == 0
    }
}

struct Piece {
    bytes: Bytes,
    unread: Arc<Unread>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let unread = &self.unread;
        if unread.pieces.fetch_sub(1, Ordering::Release) > 1 {
            unread.progress.took_some();
            return;
        }
        unread.progress.took_all();
        unread.waker.wake();
    }
}

/// Spawns the streams of HTTP/2 connections, each of which is watched alone: a client may leave one unread and go on with the others.
#[derive(Debug, Clone)]
pub struct WatchedStreams {
    /// How long a client may leave a stream unread.
    pub stall: Duration,
}

impl<F> hyper::rt::Executor<F> for WatchedStreams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let stall = self.stall;
        tokio::spawn(async move {
            if watched(stream, &Arc::default(), stall).await.is_none() {
                tracing::debug!("a stream whose answer was left unread was reset");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn what_is_left_unread_is_ended_and_what_is_taken_is_not() {
        let progress = Arc::<Progress>::default();
        let ended = watched(std::future::pending::<()>(), &progress, STALL);
        let mut ended = pin!(ended);
        assert!(
            tokio::time::timeout(100 * STALL, &mut ended).await.is_err(),
            "nothing is unread"
        );
        for _ in 0..5 {
            progress.waits();
            assert!(tokio::time::timeout(STALL / 2, &mut ended).await.is_err());
            progress.took_some();
        }
        progress.took_all();
        assert!(tokio::time::timeout(100 * STALL, &mut ended).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_on_a_timer_and_not_on_polling() {
        let progress = Arc::<Progress>::default();
        let started = Instant::now();
        let stalls = async {
            current().unwrap().waits();
            std::future::pending::<()>().await;
        };
        assert_eq!(watched(stalls, &progress, STALL).await, None);
        assert!((STALL..2 * STALL).contains(&started.elapsed()) && progress.is_cut());
        assert!(current().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_has_its_own_deadline() {
        let progress = Arc::<Progress>::default();
        let started = Instant::now();
        progress.set_deadline(Some(started + Duration::from_secs(5)));
        assert_eq!(watched(std::future::pending::<()>(), &progress, STALL).await, None);
        assert!((Duration::from_secs(5)..Duration::from_secs(10)).contains(&started.elapsed()));
    }

    #[test]
    fn a_piece_is_unread_until_the_last_of_it_is_dropped() {
        let progress = Arc::<Progress>::default();
        let unread = Unread::new(progress.clone());
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        let (first, second) = (
            unread.hand_out(Bytes::from_static(b"ab")),
            unread.hand_out(Bytes::new()),
        );
        let half = first.slice(1..);
        drop((first, second));
        assert!(unread.poll_taken(cx).is_pending() && progress.due(STALL).is_some());
        assert_eq!(&half[..], b"b");
        drop(half);
        assert!(unread.poll_taken(cx).is_ready() && progress.due(STALL).is_none());
    }
}
