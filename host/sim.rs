//! The simulated vendors: an HTTP server of our own on a loopback port, so that a request to a simulated target goes
//! exactly the way of any other, through a socket and through the wire format.
//!
//! It owns how a simulated vendor answers, paces itself and fails, and it reads and writes the wire format by itself,
//! as any vendor does: a mistake in our codec must not find its mirror image here. It must not know routes, policies,
//! attempts or health; all that it is told are the names of targets and their [`Sim`]s.

use std::borrow::Cow;
use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::stream;
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{self, Runtime};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::chat::estimated_tokens;
use crate::config::{Sim, SimError};

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

/// Tokens that go out together when the pace is faster than the timer, or the client was slower than the pace.
const MAX_BATCH: u32 = 64;

/// Bytes of messages up to which the last one is looked up and echoed.
const MAX_ECHOED_FROM: usize = 1024 * 1024;

/// Characters of the echo.
const ECHO_CHARS: usize = 60;

/// The path of the format's resource, behind the target's name.
const CHAT_COMPLETIONS: &str = "/chat/completions";

/// What answers go on with, over and over, until they are as long as they should be.
const FILLER: &str = "Every word is one token, sent at the pace that the configuration asks for. \
    No model was asked and no money was spent. To hear a real one, give a target another vendor and a key.";

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

/// The life of a request to a simulated vendor.
async fn answer(request: Request<Incoming>, sims: Arc<ArcSwap<Sims>>) -> Result<Answer, Reset> {
    let (head, body) = request.into_parts();
    let name = head
        .uri
        .path()
        .strip_prefix('/')
        .and_then(|path| path.strip_suffix(CHAT_COMPLETIONS));
    let found = name.and_then(|name| Some((name, sims.load().get(name)?.clone())));
    let question = match read(body).await {
        Ok(body) => Question::read(&body),
        Err(refusal) => return Ok(refusal.answer()),
    };
    let Some((name, sim)) = found.filter(|_| head.method == Method::POST) else {
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
    let question = match question {
        Ok(question) => question,
        Err(refusal) => return Ok(refusal.answer()),
    };
    let streaming = question.streaming;
    let speech = Speech::new(name, question, &sim);
    Ok(if streaming {
        speech.stream(cut)
    } else {
        speech.whole(cut).await
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

/// What is read of a request.
#[derive(Debug, PartialEq)]
struct Question {
    model: String,
    streaming: bool,
    include_usage: bool,
    max_tokens: Option<u64>,
    prompt_tokens: u32,
    /// The beginning of what the user said last.
    echo: Option<String>,
}

/// A request as it is written. What is not named here may be anything.
#[derive(Deserialize)]
struct Written<'a> {
    model: String,
    #[serde(borrow)]
    messages: &'a RawValue,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
}

impl Question {
    fn read(body: &[u8]) -> Result<Self, Refusal> {
        let written: Written<'_> = serde_json::from_slice(body).map_err(|error| {
            let what = if error.is_data() {
                "Invalid request"
            } else {
                "We could not parse the JSON body of your request"
            };
            Refusal::bad_request(format!("{what}: {error}"))
        })?;
        let messages = written.messages.get();
        if !messages.starts_with('[') {
            return Err(Refusal {
                param: Some("messages"),
                ..Refusal::bad_request("`messages` must be a list")
            });
        }
        let max_tokens = written.max_completion_tokens.or(written.max_tokens);
        if max_tokens == Some(0) {
            return Err(Refusal {
                param: Some("max_tokens"),
                ..Refusal::bad_request("`max_tokens` must be at least 1")
            });
        }
        Ok(Self {
            streaming: written.stream == Some(true),
            include_usage: written.stream_options.and_then(|options| options.include_usage) == Some(true),
            max_tokens,
            prompt_tokens: estimated_tokens(messages.len()),
            echo: echo(messages),
            model: written.model,
        })
    }
}

/// The beginning of the last thing that the user said.
fn echo(messages: &str) -> Option<String> {
    if messages.len() > MAX_ECHOED_FROM {
        return None;
    }
    let messages: Vec<Message<'_>> = serde_json::from_str(messages).ok()?;
    let content = messages.iter().rfind(|message| message.role == "user")?.content?.get();
    let text = serde_json::from_str::<String>(content).ok().or_else(|| {
        let parts: Vec<Part<'_>> = serde_json::from_str(content).ok()?;
        parts.into_iter().find_map(|part| part.text).map(Cow::into_owned)
    })?;
    let mut chars = text.trim().chars();
    let mut echo: String = chars.by_ref().take(ECHO_CHARS).collect();
    if chars.next().is_some() {
        echo.push('…');
    }
    Some(echo).filter(|echo| !echo.is_empty())
}

/// A request that is not answered but refused, told as OpenAI tells it.
#[derive(Debug, PartialEq)]
struct Refusal {
    status: u16,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<&'static str>,
    message: Cow<'static, str>,
}

impl Refusal {
    /// The simulated vendor fails with this status. Types and codes are those of OpenAI's error reference.
    fn simulated(status: u16) -> Self {
        let (kind, code) = match status {
            401 => ("invalid_request_error", Some("invalid_api_key")),
            402 => ("insufficient_quota", Some("insufficient_quota")),
            404 => ("invalid_request_error", Some("model_not_found")),
            408 | 504 => ("timeout", Some("timeout")),
            429 => ("requests", Some("rate_limit_exceeded")),
            400..500 => ("invalid_request_error", None),
            503 | 529 => ("service_unavailable_error", Some("server_is_overloaded")),
            _ => ("server_error", Some("server_error")),
        };
        let message = format!("This is a simulated vendor, which failed with {status} because its error mix says so.");
        Self {
            status,
            kind,
            code,
            param: None,
            message: message.into(),
        }
    }

    /// The request itself is at fault.
    fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status: 400,
            kind: "invalid_request_error",
            code: None,
            param: None,
            message: message.into(),
        }
    }

    fn unknown_url(method: &Method, path: &str) -> Self {
        let message = format!("Unknown request URL: {method} {path}. No simulated vendor answers there.");
        Self {
            status: 404,
            code: Some("unknown_url"),
            ..Self::bad_request(message)
        }
    }

    fn answer(&self) -> Answer {
        let Self {
            kind,
            code,
            param,
            message,
            ..
        } = self;
        let error = json!({"error": {"message": message, "type": kind, "param": param, "code": code}});
        let mut answer = respond("application/json", whole_body(error.to_string().into()));
        *answer.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if self.status == 429 {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
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

/// What is said to a question, and how fast.
struct Speech {
    id: String,
    /// Seconds since 1970.
    created: u64,
    model: String,
    include_usage: bool,
    prompt_tokens: u32,
    tokens: u32,
    finish_reason: &'static str,
    words: Words,
    pace: Pace,
}

impl Speech {
    /// Begins now: the first token is due in [`Sim::first_token`].
    fn new(name: &str, question: Question, sim: &Sim) -> Self {
        let allowed = question
            .max_tokens
            .map_or(u32::MAX, |max| u32::try_from(max).unwrap_or(u32::MAX));
        let id: String = std::iter::repeat_with(fastrand::alphanumeric).take(29).collect();
        Self {
            id: format!("chatcmpl-{id}"),
            created: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
            words: Words::new(name, question.echo.as_deref()),
            model: question.model,
            include_usage: question.include_usage,
            prompt_tokens: question.prompt_tokens,
            tokens: sim.tokens.min(allowed),
            finish_reason: if allowed < sim.tokens { "length" } else { "stop" },
            pace: Pace {
                first: Instant::now() + sim.first_token,
                per_second: sim.tokens_per_second,
            },
        }
    }

    /// The whole answer, when its last token is due. Cut, it promises its whole length and stops half way.
    async fn whole(mut self, cut: bool) -> Answer {
        sleep_until(self.pace.due(self.tokens - 1)).await;
        let text: String = self.words.by_ref().take(self.tokens as usize).collect();
        let completion = json!({
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": null, "annotations": []},
                "logprobs": null,
                "finish_reason": self.finish_reason,
            }],
            "usage": self.usage(),
        });
        let bytes = Bytes::from(completion.to_string());
        if !cut {
            return respond("application/json", whole_body(bytes));
        }
        let length = HeaderValue::from(bytes.len());
        let mut answer = respond("application/json", cut_body(bytes.slice(..bytes.len() / 2)));
        answer.headers_mut().insert(CONTENT_LENGTH, length);
        answer
    }

    /// The answer as a stream. Cut, it stops half way, behind its first token.
    fn stream(self, cut: bool) -> Answer {
        let until = if cut { (self.tokens / 2).max(1) } else { self.tokens };
        let streaming = Streaming {
            speech: self,
            sent: 0,
            until,
            next: Next::Role,
            cut,
        };
        let frames = stream::unfold(streaming, |mut streaming| async move {
            let frame = streaming.frame().await?;
            Some((frame.map(Frame::data), streaming))
        });
        let mut answer = respond(
            "text/event-stream; charset=utf-8",
            StreamBody::new(frames).boxed_unsync(),
        );
        answer
            .headers_mut()
            .insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        answer
    }

    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "total_tokens": u64::from(self.prompt_tokens) + u64::from(self.tokens),
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        })
    }

    /// One event of the stream. If the client asked for `usage`, it is in all of them, and null in all but the last.
    fn event(&self, choices: Value, usage: Value) -> String {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        if self.include_usage {
            chunk["usage"] = usage;
        }
        format!("data: {chunk}\n\n")
    }

    fn delta(&self, delta: Value, finish_reason: Option<&str>) -> String {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason});
        self.event(json!([choice]), Value::Null)
    }
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

/// A speech on its way.
struct Streaming {
    speech: Speech,
    /// Tokens so far.
    sent: u32,
    /// Tokens before the end, or before the cut.
    until: u32,
    next: Next,
    cut: bool,
}

/// What comes next in a stream.
enum Next {
    Role,
    Tokens,
    Ending,
    Nothing,
}

impl Streaming {
    /// The next events, when they are due; all that are due by then come together.
    async fn frame(&mut self) -> Option<io::Result<Bytes>> {
        let events = match self.next {
            Next::Role => {
                self.next = Next::Tokens;
                self.speech
                    .delta(json!({"role": "assistant", "content": "", "refusal": null}), None)
            }
            Next::Tokens => self.tokens().await,
            Next::Ending if self.cut => {
                self.next = Next::Nothing;
                return Some(Err(broken().await));
            }
            Next::Ending => {
                self.next = Next::Nothing;
                self.ending()
            }
            Next::Nothing => return None,
        };
        Some(Ok(events.into()))
    }

    async fn tokens(&mut self) -> String {
        sleep_until(self.speech.pace.due(self.sent)).await;
        // At least the one that was waited for, however clocks round.
        let due = self.speech.pace.tokens_due(Instant::now()).max(self.sent + 1);
        let up_to = due.min(self.sent + MAX_BATCH).min(self.until);
        let mut events = String::new();
        for _ in self.sent..up_to {
            let word = self.speech.words.next();
            events += &self.speech.delta(json!({"content": word}), None);
        }
        self.sent = up_to;
        if self.sent == self.until {
            self.next = Next::Ending;
        }
        events
    }

    fn ending(&self) -> String {
        let mut events = self.speech.delta(json!({}), Some(self.speech.finish_reason));
        if self.speech.include_usage {
            events += &self.speech.event(json!([]), self.speech.usage());
        }
        events + "data: [DONE]\n\n"
    }
}

/// When each token is due. It is reckoned from the first, so that a late timer delays one token and not all behind it.
struct Pace {
    first: Instant,
    per_second: f64,
}

impl Pace {
    /// When a token is due, counted from 0.
    fn due(&self, token: u32) -> Instant {
        self.first + Duration::from_secs_f64(f64::from(token) / self.per_second)
    }

    /// How many tokens are due by now.
    fn tokens_due(&self, now: Instant) -> u32 {
        match now.checked_duration_since(self.first) {
            // Saturates, as `as` does with floats.
            Some(since) => ((since.as_secs_f64() * self.per_second) as u32).saturating_add(1),
            None => 0,
        }
    }
}

/// The words of an answer, without end. Each is one token, all but the first with the space before it.
struct Words {
    opening: std::vec::IntoIter<String>,
    filler: std::iter::Cycle<std::str::SplitAsciiWhitespace<'static>>,
    begun: bool,
}

impl Words {
    fn new(name: &str, echo: Option<&str>) -> Self {
        let opening = match echo {
            Some(echo) => format!("This is {name}, a simulated vendor, answering “{echo}”."),
            None => format!("This is {name}, a simulated vendor."),
        };
        let opening: Vec<_> = opening.split_whitespace().map(str::to_owned).collect();
        Self {
            opening: opening.into_iter(),
            filler: FILLER.split_ascii_whitespace().cycle(),
            begun: false,
        }
    }
}

impl Iterator for Words {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let word = self.opening.next().or_else(|| self.filler.next().map(str::to_owned))?;
        let space = if self.begun { " " } else { "" };
        self.begun = true;
        Some(format!("{space}{word}"))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use futures_util::FutureExt;
    use hyper::client::conn::http1::{SendRequest, handshake};

    use super::*;

    /// Answers at once.
    fn prompt(tokens: u32) -> Sim {
        Sim {
            latency: Duration::ZERO,
            first_token: Duration::ZERO,
            tokens_per_second: 1e6,
            tokens,
            errors: Vec::new(),
        }
    }

    fn failing(error: SimError) -> Sim {
        Sim {
            errors: vec![(error, 1.0)],
            ..prompt(20)
        }
    }

    fn serving(sim: Sim) -> SimServer {
        let server = SimServer::start().unwrap();
        server.set([("sim-a".to_owned(), sim)]);
        server
    }

    fn question(more: &str) -> String {
        format!(r#"{{"model":"m-1","messages":[{{"role":"user","content":"Hello there"}}]{more}}}"#)
    }

    fn request(method: &str, path: &str, body: &str) -> Request<Full<Bytes>> {
        let request = Request::builder().method(method).uri(path).header("host", "sim");
        request
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
            .unwrap()
    }

    async fn connect(server: &SimServer) -> SendRequest<Full<Bytes>> {
        let stream = TcpStream::connect(server.address()).await.unwrap();
        let (send, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        send
    }

    async fn ask(server: &SimServer, body: &str) -> hyper::Result<Response<Incoming>> {
        let request = request("POST", "/sim-a/chat/completions", body);
        connect(server).await.send_request(request).await
    }

    async fn answered(server: &SimServer, body: &str) -> (StatusCode, Value) {
        let response = ask(server, body).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// All bytes of a body up to its end, and whether that was a proper one.
    async fn drained(mut body: Incoming) -> (String, bool) {
        let mut all = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => all.extend_from_slice(frame.data_ref().unwrap()),
                Err(_) => return (String::from_utf8(all).unwrap(), false),
            }
        }
        (String::from_utf8(all).unwrap(), true)
    }

    fn events(stream: &str) -> Vec<&str> {
        let events = stream.split_terminator("\n\n");
        events.map(|event| event.strip_prefix("data: ").unwrap()).collect()
    }

    async fn chunks(server: &SimServer, body: &str) -> Vec<Value> {
        let (stream, proper) = drained(ask(server, body).await.unwrap().into_body()).await;
        assert!(proper && stream.ends_with("\n\n"));
        let mut events = events(&stream);
        assert_eq!(events.pop(), Some("[DONE]"));
        events
            .into_iter()
            .map(|event| serde_json::from_str(event).unwrap())
            .collect()
    }

    fn text_of(chunks: &[Value]) -> String {
        let deltas = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
        deltas.collect()
    }

    #[tokio::test]
    async fn a_whole_answer_says_who_answers_what_and_counts_its_words() {
        let server = serving(prompt(64));
        let (status, answer) = answered(&server, &question("")).await;
        assert_eq!(status, 200);
        assert_eq!(answer["object"], "chat.completion");
        assert_eq!(answer["model"], "m-1");
        assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
        let choice = &answer["choices"][0];
        assert_eq!(
            (&choice["message"]["role"], &choice["finish_reason"]),
            (&"assistant".into(), &"stop".into())
        );
        let text = choice["message"]["content"].as_str().unwrap();
        assert!(
            text.starts_with("This is sim-a, a simulated vendor, answering “Hello there”. Every word is"),
            "{text}"
        );
        assert_eq!(text.split(' ').count(), 64);
        let count = |name: &str| answer["usage"][name].as_u64().unwrap();
        assert_eq!(count("completion_tokens"), 64);
        assert!(count("prompt_tokens") > 0);
        assert_eq!(count("total_tokens"), count("prompt_tokens") + 64);
    }

    #[tokio::test]
    async fn a_stream_says_the_same_as_a_whole_answer() {
        let server = serving(prompt(500));
        let (_, whole) = answered(&server, &question("")).await;
        let chunks = chunks(&server, &question(r#","stream":true"#)).await;
        assert_eq!(whole["choices"][0]["message"]["content"], text_of(&chunks));
        let (first, last) = (&chunks[0], chunks.last().unwrap());
        assert_eq!(
            first["choices"][0]["delta"],
            json!({"role": "assistant", "content": "", "refusal": null})
        );
        assert_eq!(
            last["choices"][0],
            json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop"})
        );
        assert_eq!(chunks.len(), 1 + 500 + 1);
        for chunk in &chunks {
            assert_eq!(chunk["id"], first["id"]);
            assert_eq!(
                (&chunk["object"], &chunk["model"]),
                (&"chat.completion.chunk".into(), &"m-1".into())
            );
            assert_eq!(chunk.get("usage"), None);
        }
    }

    #[tokio::test]
    async fn a_stream_counts_its_tokens_when_asked() {
        let server = serving(prompt(12));
        let ask = question(r#","stream":true,"stream_options":{"include_usage":true}"#);
        let mut chunks = chunks(&server, &ask).await;
        let last = chunks.pop().unwrap();
        assert_eq!(last["choices"], json!([]));
        assert_eq!(last["usage"]["completion_tokens"], 12);
        assert!(chunks.iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)));
    }

    #[tokio::test]
    async fn no_answer_is_longer_than_the_client_wants() {
        let server = serving(prompt(64));
        for limit in [r#","max_tokens":5"#, r#","max_completion_tokens":5,"max_tokens":9"#] {
            let (_, whole) = answered(&server, &question(limit)).await;
            assert_eq!(whole["choices"][0]["finish_reason"], "length");
            assert_eq!(whole["usage"]["completion_tokens"], 5);
            let chunks = chunks(&server, &question(&format!(r#","stream":true{limit}"#))).await;
            assert_eq!(
                text_of(&chunks),
                whole["choices"][0]["message"]["content"].as_str().unwrap()
            );
            assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "length");
        }
        let (_, whole) = answered(&server, &question(r#","max_tokens":64"#)).await;
        assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    }

    #[tokio::test]
    async fn each_status_has_the_words_of_openai() {
        let server = serving(prompt(1));
        let expected = [
            (400, "invalid_request_error", None),
            (401, "invalid_request_error", Some("invalid_api_key")),
            (402, "insufficient_quota", Some("insufficient_quota")),
            (429, "requests", Some("rate_limit_exceeded")),
            (500, "server_error", Some("server_error")),
            (503, "service_unavailable_error", Some("server_is_overloaded")),
            (504, "timeout", Some("timeout")),
            (599, "server_error", Some("server_error")),
        ];
        for (status, kind, code) in expected {
            server.set([("sim-a".to_owned(), failing(SimError::Status(status)))]);
            let response = ask(&server, &question("")).await.unwrap();
            assert_eq!(response.status(), status);
            let wait = response.headers().get(RETRY_AFTER);
            assert_eq!(wait.map(HeaderValue::as_bytes), (status == 429).then_some(&b"1"[..]));
            let body: Value = serde_json::from_str(&drained(response.into_body()).await.0).unwrap();
            let error = &body["error"];
            assert_eq!(
                (&error["type"], &error["code"], &error["param"]),
                (&kind.into(), &code.into(), &Value::Null)
            );
            assert!(error["message"].as_str().unwrap().contains("simulated vendor"));
        }
    }

    /// A connection with a request on its way.
    fn asked(server: &SimServer) -> std::net::TcpStream {
        let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
        let body = question("");
        let head = "POST /sim-a/chat/completions HTTP/1.1\r\nhost: sim\r\ncontent-length";
        write!(stream, "{head}: {}\r\n\r\n{body}", body.len()).unwrap();
        stream
    }

    #[test]
    fn a_reset_is_one() {
        let server = serving(failing(SimError::Reset));
        let read = asked(&server).read(&mut [0; 16]);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_cut_stream_has_content_and_no_end() {
        let server = serving(failing(SimError::Cut));
        let response = ask(&server, &question(r#","stream":true"#)).await.unwrap();
        assert_eq!(response.status(), 200);
        let (stream, proper) = drained(response.into_body()).await;
        assert!(!proper && !stream.contains("[DONE]"));
        let chunks: Vec<Value> = events(&stream)
            .into_iter()
            .map(|event| serde_json::from_str(event).unwrap())
            .collect();
        assert_eq!(text_of(&chunks).split(' ').count(), 10);
        assert!(
            chunks
                .iter()
                .all(|chunk| chunk["choices"][0]["finish_reason"].is_null())
        );
    }

    #[tokio::test]
    async fn a_cut_whole_answer_is_shorter_than_it_promised() {
        let server = serving(failing(SimError::Cut));
        let response = ask(&server, &question("")).await.unwrap();
        let promised: usize = response.headers()[CONTENT_LENGTH].to_str().unwrap().parse().unwrap();
        let (text, proper) = drained(response.into_body()).await;
        assert!(!proper);
        assert_eq!(text.len(), promised / 2);
        assert!(text.starts_with(r#"{"id":"chatcmpl-"#));
    }

    /// With one connection at a time, the second request is answered only when the first one's work has ended.
    #[tokio::test]
    async fn a_hang_ends_when_the_client_goes() {
        let server = SimServer::start_with(1).unwrap();
        server.set([
            ("sim-a".to_owned(), failing(SimError::Hang)),
            ("sim-b".to_owned(), prompt(1)),
        ]);
        let first = asked(&server);
        let mut second = connect(&server).await;
        let answer = second.send_request(request("POST", "/sim-b/chat/completions", &question("")));
        let mut answer = Box::pin(answer);
        assert!(answer.as_mut().now_or_never().is_none());
        drop(first);
        assert_eq!(answer.await.unwrap().status(), 200);
    }

    #[test]
    fn dropping_the_server_ends_what_hangs() {
        let server = serving(failing(SimError::Hang));
        let mut hanging = asked(&server);
        drop(server);
        // The system resets a connection that was not accepted yet.
        assert!(matches!(hanging.read(&mut [0; 16]), Ok(0) | Err(_)));
    }

    #[test]
    fn errors_have_their_shares() {
        let mix = [
            (SimError::Status(429), 0.1),
            (SimError::Reset, 0.3),
            (SimError::Cut, 0.2),
        ];
        assert_eq!(draw(&mix, 0.0), Some(SimError::Status(429)));
        assert_eq!(draw(&mix, 0.1), Some(SimError::Reset));
        assert_eq!(draw(&mix, 0.999), None);
        assert_eq!(
            draw(&[(SimError::Hang, 1.0)], 1.0_f64.next_down()),
            Some(SimError::Hang)
        );
        assert_eq!(draw(&[(SimError::Hang, 0.0)], 0.0), None);
        let mut dice = fastrand::Rng::with_seed(7);
        let drawn: Vec<_> = (0..10_000).map(|_| draw(&mix, dice.f64())).collect();
        let share = |kind| drawn.iter().filter(|error| **error == kind).count();
        assert!((800..1200).contains(&share(Some(SimError::Status(429)))));
        assert!((2700..3300).contains(&share(Some(SimError::Reset))));
        assert!((3600..4400).contains(&share(None)));
    }

    #[tokio::test]
    async fn what_is_set_holds_for_the_next_request_of_an_open_connection() {
        let server = serving(failing(SimError::Status(503)));
        let mut send = connect(&server).await;
        let mut statuses = Vec::new();
        for next in [vec![("sim-b", prompt(1))], vec![("sim-a", prompt(1))], vec![]] {
            let response = send
                .send_request(request("POST", "/sim-a/chat/completions", &question("")))
                .await
                .unwrap();
            statuses.push(response.status().as_u16());
            drained(response.into_body()).await;
            send.ready().await.unwrap();
            server.set(next.into_iter().map(|(name, sim)| (name.to_owned(), sim)));
        }
        assert_eq!(statuses, [503, 404, 200]);
    }

    #[tokio::test]
    async fn names_may_have_slashes_and_other_paths_are_nobodys() {
        let server = serving(prompt(1));
        server.set([("eu/gpt:1".to_owned(), prompt(1))]);
        let cases = [
            ("POST", "/eu/gpt:1/chat/completions", 200),
            ("GET", "/eu/gpt:1/chat/completions", 404),
            ("POST", "/eu/gpt:1/completions", 404),
            ("POST", "/sim-a/chat/completions", 404),
            ("POST", "/chat/completions", 404),
        ];
        for (method, path, status) in cases {
            let request = request(method, path, &question(""));
            let response = connect(&server).await.send_request(request).await.unwrap();
            assert_eq!(response.status(), status, "{method} {path}");
        }
    }

    #[tokio::test]
    async fn bad_requests_are_told_so() {
        let server = serving(prompt(1));
        let cases = [
            ("{", Value::Null),
            ("", Value::Null),
            ("[]", Value::Null),
            (r#"{"messages":[]}"#, Value::Null),
            (r#"{"model":"m"}"#, Value::Null),
            (r#"{"model":"m","messages":"hi"}"#, "messages".into()),
            (r#"{"model":"m","messages":[],"max_tokens":0}"#, "max_tokens".into()),
        ];
        for (body, param) in cases {
            let (status, answer) = answered(&server, body).await;
            assert_eq!(status, 400, "{body}");
            assert_eq!(answer["error"]["type"], "invalid_request_error");
            assert_eq!(answer["error"]["param"], param);
        }
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused() {
        let body = |bytes| Full::new(Bytes::from(vec![b' '; bytes]));
        assert_eq!(read(body(MAX_REQUEST_BYTES)).await.unwrap().len(), MAX_REQUEST_BYTES);
        assert_eq!(read(body(MAX_REQUEST_BYTES + 1)).await.unwrap_err().status, 413);
    }

    #[test]
    fn the_echo_is_the_beginning_of_the_users_last_words() {
        let long = format!(r#"[{{"role":"user","content":"{}"}}]"#, "ä".repeat(ECHO_CHARS + 1));
        let cases = [
            (
                r#"[{"role":"user","content":"old"},{"role":"user","content":"new"},{"role":"tool","content":"x"}]"#,
                Some("new"),
            ),
            (
                r#"[{"role":"user","content":[{"type":"image_url"},{"type":"text","text":"a \"b\""}]}]"#,
                Some("a \"b\""),
            ),
            (r#"[{"role":"user","content":null}]"#, None),
            (r#"[{"role":"user","content":"  "}]"#, None),
            (r#"[7]"#, None),
            (&long, Some(&format!("{}…", "ä".repeat(ECHO_CHARS)))),
        ];
        for (messages, expected) in cases {
            assert_eq!(echo(messages).as_deref(), expected, "{messages}");
        }
    }

    #[test]
    fn tokens_are_due_when_their_time_has_come() {
        let first = Instant::now() + Duration::from_secs(1);
        let pace = Pace { first, per_second: 4.0 };
        assert_eq!(pace.due(8), first + Duration::from_secs(2));
        let due = |millis| pace.tokens_due(first + Duration::from_millis(millis));
        assert_eq!([0, 249, 250, 2000].map(due), [1, 1, 2, 9]);
        assert_eq!(pace.tokens_due(first - Duration::from_millis(1)), 0);
        let fast = Pace { first, per_second: 1e6 };
        assert_eq!(fast.tokens_due(first + Duration::from_secs(1_000_000)), u32::MAX);
    }
}
