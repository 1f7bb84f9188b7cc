//! The simulated vendors: an HTTP server of our own on a loopback port, so that a request to a simulated target goes
//! exactly the way of any other, through a socket and through the wire format.
//!
//! It owns how a simulated vendor answers, paces itself and fails, and it reads and writes the wire format by itself,
//! as any vendor does: a mistake in our codec must not find its mirror image here. It must not know routes, policies,
//! attempts or health; all that it is told are the names of targets and their [`Sim`]s.

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::stream;
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{self, Runtime};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use crate::config::{Sim, SimError};

mod embedding;
mod instance;
mod question;
mod refusal;
mod speech;
#[cfg(test)]
mod tests;

use embedding::EmbeddingRequest;
use question::Question;
use refusal::Refusal;
use speech::Speech;

/// Connections at a time; more wait in the system's queue.
const MAX_CONNECTIONS: usize = 8192;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Bytes of a request; twice what the gateway takes by default.
const MAX_REQUEST_BYTES: usize = 64 * 1024 * 1024;

/// For a request's head, which includes the time that a kept connection is idle.
const HEAD_WITHIN: Duration = Duration::from_secs(300);

/// For a request's body.
const BODY_WITHIN: Duration = Duration::from_secs(60);

/// Before the next try to accept after the system could not, which it cannot without file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The simulated vendors of a configuration, on a loopback port of their own. Dropping them ends their thread and
/// whatever they were answering.
pub struct SimServer {
    address: SocketAddr,
    sims: Arc<ArcSwap<Sims>>,
    /// Dropped to stop the thread.
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

/// The behaviours by target name.
type Sims = HashMap<String, Sim>;

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// Instead of an answer, the connection is torn down.
#[derive(Debug, thiserror::Error)]
#[error("the simulated vendor resets the connection")]
struct Reset;

impl SimServer {
    /// Binds a free port of 127.0.0.1 and serves it from a thread of its own. Nobody is simulated until
    /// [`SimServer::set`].
    ///
    /// # Errors
    ///
    /// The system has no port, thread or event queue to give.
    pub fn start() -> io::Result<Self> {
        Self::start_with(MAX_CONNECTIONS)
    }

    fn start_with(connections: usize) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = listen(&runtime)?;
        let address = listener.local_addr()?;
        let sims = Arc::<ArcSwap<Sims>>::default();
        let (stop, stopped) = oneshot::channel();
        let accepting = accept(listener, sims.clone(), connections);
        let serve = async move {
            tokio::select! {
                () = accepting => {}
                _ = stopped => {}
            }
        };
        let thread = thread::Builder::new()
            .name("sim".to_owned())
            .spawn(move || runtime.block_on(serve))?;
        Ok(Self {
            address,
            sims,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where they listen. A target's base URL is `http://ADDRESS/NAME`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the behaviours, by target name. Requests that are being answered keep theirs.
    pub fn set(&self, sims: impl IntoIterator<Item = (String, Sim)>) {
        self.sims.store(Arc::new(sims.into_iter().collect()));
    }
}

impl Drop for SimServer {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It has only failed if it panicked, which has been printed.
            let _ = thread.join();
        }
    }
}

fn listen(runtime: &Runtime) -> io::Result<TcpListener> {
    let _context = runtime.enter();
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, sims: Arc<ArcSwap<Sims>>, connections: usize) {
    let free = Arc::new(Semaphore::new(connections));
    while let Ok(permit) = free.clone().acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let sims = sims.clone();
        tokio::spawn(async move {
            serve(stream, &sims).await;
            drop(permit);
        });
    }
}

/// Serves one connection to its end. When the client closes it, the answer's future is dropped with it.
async fn serve(stream: TcpStream, sims: &Arc<ArcSwap<Sims>>) {
    // Without it frames would wait for each other; with an error the connection is gone anyway.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| Box::pin(answer(request, sims.clone())));
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), service);
    let ended = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
    if ended.is_err_and(|error| error.source().is_some_and(|source| source.is::<Reset>())) {
        // Closing it now sends a reset. If that cannot be had, closing it is what is left.
        let _ = connection.into_parts().io.into_inner().set_zero_linger();
    }
}

/// What a request to a simulated vendor asks for.
#[derive(Clone, Copy)]
enum Resource {
    ChatCompletion,
    Embeddings,
}

impl Resource {
    /// The target's name and the resource behind it in a path.
    fn find(path: &str) -> Option<(&str, Self)> {
        let path = path.strip_prefix('/')?;
        let chat = path
            .strip_suffix("/chat/completions")
            .map(|name| (name, Self::ChatCompletion));
        chat.or_else(|| path.strip_suffix("/embeddings").map(|name| (name, Self::Embeddings)))
    }
}

/// The life of a request to a simulated vendor.
async fn answer(request: Request<Incoming>, sims: Arc<ArcSwap<Sims>>) -> Result<Answer, Reset> {
    let (head, body) = request.into_parts();
    let found = Resource::find(head.uri.path())
        .and_then(|(name, resource)| Some((name, resource, sims.load().get(name)?.clone())));
    let body = match read(body).await {
        Ok(body) => body,
        Err(refusal) => return Ok(refusal.answer()),
    };
    let Some((name, resource, sim)) = found.filter(|_| head.method == Method::POST) else {
        return Ok(Refusal::unknown_url(&head.method, head.uri.path()).answer());
    };
    sleep(sim.latency).await;
    // As at a real vendor, what is wrong with its servers or its customer comes before what is wrong with the request.
    let cut = match draw(&sim.errors, fastrand::f64()) {
        Some(SimError::Status(status)) => return Ok(Refusal::simulated(status).answer()),
        Some(SimError::Reset) => return Err(Reset),
        Some(SimError::Hang) => std::future::pending().await,
        Some(SimError::Cut) => true,
        None => false,
    };
    let answered = match resource {
        Resource::ChatCompletion => complete(name, &body, &sim, cut).await,
        Resource::Embeddings => EmbeddingRequest::read(&body).map(|request| json_answer(request.answer(), cut)),
    };
    Ok(answered.unwrap_or_else(|refusal| refusal.answer()))
}

async fn complete(name: &str, body: &[u8], sim: &Sim, cut: bool) -> Result<Answer, Refusal> {
    let question = Question::read(body)?;
    let streaming = question.streaming;
    let speech = Speech::new(name, question, sim);
    Ok(if streaming {
        speech.stream(cut)
    } else {
        json_answer(speech.whole().await, cut)
    })
}

/// Reads a request's body within its limits.
async fn read<B>(body: B) -> Result<Bytes, Refusal>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match timeout(BODY_WITHIN, Limited::new(body, MAX_REQUEST_BYTES).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        // A body that broke off is refused the same way; nobody is there to read it.
        Ok(Err(_)) => Err(Refusal {
            status: 413,
            ..Refusal::bad_request("the request body is too large")
        }),
        Err(_) => Err(Refusal::simulated(408)),
    }
}

/// The error that a throw of the dice, from 0 to 1, falls on.
fn draw(errors: &[(SimError, f64)], dice: f64) -> Option<SimError> {
    let mut upper = 0.0;
    let hit = errors.iter().find(|(_, share)| {
        upper += share;
        dice < upper
    });
    hit.map(|(error, _)| *error)
}

fn respond(content_type: &'static str, body: UnsyncBoxBody<Bytes, io::Error>) -> Answer {
    let mut answer = Response::new(body);
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

fn whole_body(bytes: Bytes) -> UnsyncBoxBody<Bytes, io::Error> {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// An answer as JSON. Cut, it promises its whole length and stops half way.
fn json_answer(bytes: Bytes, cut: bool) -> Answer {
    if !cut {
        return respond("application/json", whole_body(bytes));
    }
    let length = HeaderValue::from(bytes.len());
    let mut answer = respond("application/json", cut_body(bytes.slice(..bytes.len() / 2)));
    answer.headers_mut().insert(CONTENT_LENGTH, length);
    answer
}

/// Some bytes, and then the connection breaks.
fn cut_body(bytes: Bytes) -> UnsyncBoxBody<Bytes, io::Error> {
    let frames = stream::unfold(Some(bytes), |bytes| async move {
        match bytes {
            Some(bytes) => Some((Ok(Frame::data(bytes)), None)),
            None => Some((Err(broken().await), None)),
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

/// The error that makes hyper close the connection without an end. Hyper forgets what it has not sent by then, so it
/// gets a turn to send.
async fn broken() -> io::Error {
    tokio::task::yield_now().await;
    io::Error::other("the simulated vendor cuts its answer off")
}
