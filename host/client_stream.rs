//! The bytes of a client's connection. It notes what the client does not take, refuses what RFC 9112 lets a server refuse and the library
//! for HTTP does not, and goes on answering a client that sends nothing more.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

use crate::activity::{Activity, Answering};
use crate::framing::Framing;
use crate::progress::Progress;

/// See the module.
pub struct ClientStream<S> {
    inner: S,
    progress: Arc<Progress>,
    activity: Arc<Activity>,
    framing: Framing,
    half_closed: Option<HalfClosed>,
}

/// A connection that can say whether the client has given it up.
pub trait Connection: AsyncRead + AsyncWrite + Unpin {
    /// Whether the client's system has answered that nobody reads any more.
    fn is_reset(&self) -> bool {
        false
    }
}

impl Connection for TcpStream {
    fn is_reset(&self) -> bool {
        !matches!(SockRef::from(self).take_error(), Ok(None))
    }
}

impl Connection for TlsStream<TcpStream> {
    fn is_reset(&self) -> bool {
        self.get_ref().0.is_reset()
    }
}

impl Connection for tokio::io::DuplexStream {}

/// A client that has ended its side of the connection while it waits for an answer. Either it only has nothing more to send, or it is gone:
/// that shows when something is sent to it, which a client that is gone refuses. Something that means nothing is sent now and then.
struct HalfClosed {
    timer: Pin<Box<Sleep>>,
    look_after: Duration,
    send_after: u32,
}

/// The first look at a client that has ended its side; later ones come less and less often.
const FIRST_LOOK: Duration = Duration::from_millis(50);
/// The time from one look to the next at most.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// What is put in the place of a line's end that is refused: the library then refuses the head that it belongs to.
const REFUSED: &[u8] = b"\0\r\n\r\n";

impl<S: Connection> ClientStream<S> {
    /// Notes the progress of a connection.
    pub fn new(inner: S, progress: Arc<Progress>, activity: Arc<Activity>) -> Self {
        Self {
            inner,
            progress,
            activity,
            framing: Framing::default(),
            half_closed: None,
        }
    }

    fn note<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &written {
            Poll::Pending => self.progress.waits(),
            Poll::Ready(_) => self.progress.took_all(),
        }
        written
    }

    /// Looks now and then whether the client is still there, until it has its answer.
    fn poll_half_closed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(half_closed) = &mut self.half_closed {
            if !self.activity.is_busy() {
                break;
            }
            ready!(half_closed.timer.as_mut().poll(cx));
            if self.inner.is_reset() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            let sends = half_closed.look();
            // What waits to be sent will show it as well.
            if sends && !self.progress.is_waiting() {
                self.send_nothing(cx)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what means nothing to the client: before the head of its answer an interim response, which every client of HTTP/1.1 skips
    /// (RFC 9110, section 15.2), and between two chunks a leading zero of the next one's size (RFC 9112, section 7.1).
    fn send_nothing(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let bytes: &[u8] = match self.activity.answering() {
            Answering::NotYet => b"HTTP/1.1 100 Continue\r\n\r\n",
            Answering::InChunks => b"0",
            Answering::Otherwise => return Ok(()),
        };
        match Pin::new(&mut self.inner).poll_write(cx, bytes) {
            Poll::Ready(Ok(written)) if written == bytes.len() => {}
            Poll::Ready(Ok(0)) | Poll::Pending => return Ok(()),
            // A part of it would make nonsense of what follows.
            Poll::Ready(Ok(_)) => return Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Ready(Err(error)) => return Err(error),
        }
        match Pin::new(&mut self.inner).poll_flush(cx) {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Ok(()),
        }
    }
}

impl HalfClosed {
    fn new() -> Self {
        Self {
            timer: Box::pin(tokio::time::sleep(FIRST_LOOK)),
            look_after: FIRST_LOOK,
            send_after: 0,
        }
    }

    /// Sets the timer for the next look; whether something is to be sent at this one.
    fn look(&mut self) -> bool {
        self.timer.as_mut().reset(Instant::now() + self.look_after);
        self.look_after = (2 * self.look_after).min(LAST_LOOK);
        self.send_after = self.send_after.checked_sub(1).unwrap_or(LOOKS_BETWEEN);
        self.send_after == LOOKS_BETWEEN
    }
}

/// Looks between two that send something.
const LOOKS_BETWEEN: u32 = 8;

impl<S: Connection> AsyncRead for ClientStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if stream.half_closed.is_some() {
            return stream.poll_half_closed(cx);
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut stream.inner).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            if let Some(at) = stream.framing.read(&buffer.filled()[before..]) {
                buffer.set_filled(before + at);
                let room = buffer.remaining().min(REFUSED.len());
                buffer.put_slice(&REFUSED[..room]);
            }
            return Poll::Ready(Ok(()));
        }
        if buffer.remaining() > 0 && stream.framing.is_between_requests() && stream.activity.is_busy() {
            stream.half_closed = Some(HalfClosed::new());
            return stream.poll_half_closed(cx);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Connection> AsyncWrite for ClientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, pieces);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.note(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.note(closed)
    }
}
