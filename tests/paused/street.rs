//! The vendors: what each does with a request is what its story says. They note every call with the moment at which it came.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use pointsman::dialer::{Dial, Dialling, Endpoint, Stream};
use pointsman::health::Reading;
use pointsman::live::Live;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep};

pub const NAMES: [&str; 3] = ["a", "b", "c"];

/// What a vendor says, and what it counts for it.
pub const SAYS: &str = "all of it";
pub const TOKENS: (u64, u64) = (3, 2);

/// What a vendor does with one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Deed {
    /// All of its answer, and how long it takes before the first word and between the others.
    Well { first: u64, between: u64 },
    /// An error, after some time, which may say when to come again.
    Status {
        status: u16,
        after: u64,
        retry_after: Option<u64>,
    },
    /// The model refuses before it says anything.
    Refuses,
    /// The connection is closed, after some time, without a word.
    HangsUp { after: u64 },
    /// Nothing, for ever.
    Silence,
    /// A part of the answer, and then what breaks it.
    Half { first: u64, then: Break },
    /// A web page.
    NoStream,
}

/// What may happen in the middle of an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Break {
    Closes,
    Stalls,
    Garbage,
    Error,
}

/// Whether a vendor takes connections.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Line {
    Open,
    Refused,
    Dead,
}

/// One call of a vendor.
#[derive(Debug, Clone)]
pub struct Call {
    /// Which request of the story.
    pub visit: usize,
    /// Which vendor, by its place in [`NAMES`].
    pub vendor: usize,
    /// When it came.
    pub at: Instant,
    /// It was to be left alone, and not only since this very moment.
    pub was_resting: bool,
    /// Attempts that the gateway had in progress there, this one included.
    pub in_flight: u32,
    /// The connection had been used before and was closed without a word: the gateway sends the request once more.
    pub is_repeated: bool,
    /// All tokens were counted, whether or not anybody still listened.
    pub counted: bool,
}

/// All vendors.
#[derive(Default)]
pub struct Street {
    deeds: Mutex<HashMap<usize, [Deed; 3]>>,
    lines: Mutex<[Option<Line>; 3]>,
    calls: Mutex<Vec<Call>>,
    unheard: Mutex<Vec<(usize, Instant)>>,
    rests: Mutex<[Rest; 3]>,
    most_waiting: AtomicUsize,
    live: OnceLock<Weak<Live>>,
}

/// Until when a vendor is to be left alone, as far as that was seen. No rest is ever shortened, so what was seen once holds.
#[derive(Clone, Copy, Default)]
struct Rest {
    /// What was seen before the present moment.
    before: Option<Instant>,
    /// What was seen at it.
    now: Option<(Instant, Instant)>,
}

impl Rest {
    /// Sees that it rests until then.
    fn see(&mut self, now: Instant, until: Instant) {
        if let Some((_, earlier)) = self.now.take_if(|(seen, _)| *seen < now) {
            self.before = self.before.max(Some(earlier));
        }
        let until = self.now.map_or(until, |(_, earlier)| earlier.max(until));
        self.now = Some((now, until));
    }
}

impl Street {
    /// The gateway that calls.
    pub fn know(&self, live: &Arc<Live>) {
        assert!(self.live.set(Arc::downgrade(live)).is_ok(), "there is one gateway");
    }

    /// Begins a story: what the vendors do with each visit, of which the first has this number.
    pub fn begin(&self, first: usize, deeds: impl IntoIterator<Item = [Deed; 3]>, lines: [Line; 3]) {
        self.deeds.lock().unwrap().extend((first..).zip(deeds));
        *self.lines.lock().unwrap() = lines.map(Some);
    }

    /// Looks at what the gateway does now.
    pub fn look(&self) {
        let live = self.live.get().and_then(Weak::upgrade).expect("a gateway");
        self.most_waiting.fetch_max(live.waiting.taken(), Ordering::Relaxed);
        let now = Instant::now();
        for (vendor, rest) in self.rests.lock().unwrap().iter_mut().enumerate() {
            rest.see(now, now + self.reading(vendor).cooldown);
        }
    }

    /// The most requests that waited at once, as far as that was seen.
    pub fn most_waiting(&self) -> usize {
        self.most_waiting.load(Ordering::Relaxed)
    }

    /// The calls of the visits from this number on.
    pub fn calls_since(&self, visit: usize) -> Vec<Call> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|call| call.visit >= visit).cloned().collect()
    }

    /// Vendors that were called without a word getting through, and when, in all stories.
    pub fn unheard(&self) -> Vec<(usize, Instant)> {
        self.unheard.lock().unwrap().clone()
    }

    fn note_unheard(&self, vendor: usize) {
        self.unheard.lock().unwrap().push((vendor, Instant::now()));
    }

    fn reading(&self, vendor: usize) -> Reading {
        let live = self.live.get().and_then(Weak::upgrade).expect("a gateway");
        let snapshot = live.snapshot();
        let mut targets = snapshot.routes[0].targets.iter();
        let target = targets.find(|target| target.rules.name == NAMES[vendor]);
        target.expect("a target").health.read(Instant::now())
    }

    /// Whether a target is to be left alone, and was before this moment. A probe that is under way keeps others away for a millisecond
    /// at a time.
    fn is_resting(&self, vendor: usize) -> bool {
        self.look();
        let slack = Duration::from_millis(2);
        let before = self.rests.lock().unwrap()[vendor].before;
        before.is_some_and(|until| until > Instant::now() + slack)
    }

    async fn serve(self: Arc<Self>, vendor: usize, mut line: DuplexStream) {
        let mut buffer = Vec::new();
        let mut served = 0;
        while let Some(body) = read_request(&mut line, &mut buffer).await {
            let visit = visit_of(&body);
            let deed = self.deeds.lock().unwrap()[&visit][vendor];
            let (was_resting, in_flight) = (self.is_resting(vendor), self.reading(vendor).in_flight);
            let index = {
                let mut calls = self.calls.lock().unwrap();
                calls.push(Call {
                    visit,
                    vendor,
                    at: Instant::now(),
                    was_resting,
                    in_flight,
                    is_repeated: served > 0 && matches!(deed, Deed::HangsUp { .. }),
                    counted: false,
                });
                calls.len() - 1
            };
            let streaming = body.contains("\"stream\":true");
            served += 1;
            let Some(counted) = act(deed, streaming, &mut line).await else {
                return;
            };
            self.calls.lock().unwrap()[index].counted = counted;
            self.look();
        }
        if served == 0 {
            self.note_unheard(vendor);
        }
    }
}

/// The way to the vendors.
pub struct Way(pub Arc<Street>);

impl Dial for Way {
    fn dial<'a>(&'a self, endpoint: &'a Endpoint, _by: Instant) -> Dialling<'a> {
        let place = NAMES.iter().position(|name| endpoint.host == format!("{name}.test"));
        let vendor = place.unwrap_or_else(|| panic!("{endpoint:?} is nowhere"));
        Box::pin(async move {
            let line = self.0.lines.lock().unwrap()[vendor].expect("a story");
            match line {
                Line::Open => {
                    let (ours, theirs) = tokio::io::duplex(64 * 1024);
                    tokio::spawn(self.0.clone().serve(vendor, theirs));
                    Ok(Box::new(ours) as Box<dyn Stream>)
                }
                Line::Refused => {
                    self.0.note_unheard(vendor);
                    Err(io::Error::from(io::ErrorKind::ConnectionRefused).into())
                }
                Line::Dead => {
                    self.0.note_unheard(vendor);
                    std::future::pending().await
                }
            }
        })
    }
}

/// The number of the visit, as the user's words tell it.
fn visit_of(body: &str) -> usize {
    let number = body.split("visit ").nth(1).and_then(|rest| rest.split('.').next());
    number.and_then(|number| number.parse().ok()).expect("a visit's number")
}

/// The body of the next request; `None` at the end of the connection.
async fn read_request(line: &mut DuplexStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        let text = String::from_utf8_lossy(buffer);
        if let Some(end) = text.find("\r\n\r\n") {
            let head = text[..end].to_ascii_lowercase();
            let length = head
                .split("content-length: ")
                .nth(1)?
                .lines()
                .next()?
                .parse::<usize>()
                .ok()?;
            let body = end + 4..end + 4 + length;
            if buffer.len() >= body.end {
                let request = String::from_utf8(buffer[body.clone()].to_vec()).ok()?;
                buffer.drain(..body.end);
                return Some(request);
            }
        }
        if line.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// Does it. `None`: the connection is over. Whether all tokens were counted.
async fn act(deed: Deed, streaming: bool, line: &mut DuplexStream) -> Option<bool> {
    let ms = Duration::from_millis;
    match deed {
        Deed::Well { first, between } => {
            sleep(ms(first)).await;
            if !streaming {
                answer(line, 200, "application/json", "", &whole()).await?;
                return Some(true);
            }
            begin_stream(line).await?;
            for (place, frame) in [role(), text("all "), text("of it"), finish("stop"), usage()]
                .iter()
                .enumerate()
            {
                if place > 1 {
                    sleep(ms(between)).await;
                }
                chunk(line, frame).await?;
            }
            chunk(line, "data: [DONE]\n\n").await?;
            send(line, "0\r\n\r\n").await?;
            Some(true)
        }
        Deed::Status {
            status,
            after,
            retry_after,
        } => {
            sleep(ms(after)).await;
            let header = retry_after.map(|after| format!("retry-after-ms: {after}\r\n"));
            let body =
                format!(r#"{{"error":{{"message":"no: {status}","type":"vendor","param":null,"code":"c{status}"}}}}"#);
            answer(line, status, "application/json", &header.unwrap_or_default(), &body).await?;
            Some(false)
        }
        Deed::Refuses if streaming => {
            begin_stream(line).await?;
            let said = [role(), finish("content_filter"), "data: [DONE]\n\n".to_owned()].concat();
            chunk(line, &said).await?;
            send(line, "0\r\n\r\n").await?;
            Some(false)
        }
        Deed::Refuses => {
            let body = whole()
                .replace("\"stop\"", "\"content_filter\"")
                .replace(&format!("\"{SAYS}\""), "null");
            answer(line, 200, "application/json", "", &body).await?;
            Some(true)
        }
        Deed::HangsUp { after } => {
            sleep(ms(after)).await;
            None
        }
        Deed::Silence => std::future::pending().await,
        Deed::Half { first, then } => half(first, then, streaming, line).await,
        Deed::NoStream => {
            answer(line, 200, "text/html", "", "<html>busy</html>").await?;
            Some(false)
        }
    }
}

async fn half(first: u64, then: Break, streaming: bool, line: &mut DuplexStream) -> Option<bool> {
    sleep(Duration::from_millis(first)).await;
    if !streaming {
        let body = whole();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        send(line, &(head + &body[..body.len() / 2])).await?;
    } else {
        begin_stream(line).await?;
        chunk(line, &(role() + &text("all "))).await?;
    }
    sleep(Duration::from_millis(3)).await;
    match then {
        Break::Closes => None,
        Break::Stalls => std::future::pending().await,
        Break::Garbage => {
            chunk(line, "data: {\"choices\":[{]}\n\n").await?;
            None
        }
        Break::Error => {
            chunk(
                line,
                "data: {\"error\":{\"message\":\"no more\",\"type\":\"server_error\",\"code\":null}}\n\n",
            )
            .await?;
            None
        }
    }
}

async fn send(line: &mut DuplexStream, text: &str) -> Option<()> {
    line.write_all(text.as_bytes()).await.ok()
}

async fn answer(line: &mut DuplexStream, status: u16, kind: &str, header: &str, body: &str) -> Option<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} Said\r\ncontent-type: {kind}\r\n{header}content-length: {length}\r\n\r\n");
    send(line, &(head + body)).await
}

async fn begin_stream(line: &mut DuplexStream) -> Option<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    send(line, head).await
}

async fn chunk(line: &mut DuplexStream, text: &str) -> Option<()> {
    send(line, &format!("{:x}\r\n{text}\r\n", text.len())).await
}

fn whole() -> String {
    let (input, output) = TOKENS;
    format!(
        "{{\"id\":\"c-1\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"m\",\"choices\":[{{\"index\":0,\"message\":\
         {{\"role\":\"assistant\",\"content\":\"{SAYS}\"}},\"finish_reason\":\"stop\"}}],\
         \"usage\":{{\"prompt_tokens\":{input},\"completion_tokens\":{output},\"total_tokens\":{}}}}}",
        input + output
    )
}

fn event(rest: &str) -> String {
    format!("data: {{\"id\":\"c-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",{rest}}}\n\n")
}

fn choice(delta: &str, finish: &str) -> String {
    event(&format!(
        "\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]"
    ))
}

fn role() -> String {
    choice("{\"role\":\"assistant\",\"content\":\"\"}", "null")
}

fn text(text: &str) -> String {
    choice(&format!("{{\"content\":\"{text}\"}}"), "null")
}

fn finish(reason: &str) -> String {
    choice("{}", &format!("\"{reason}\""))
}

fn usage() -> String {
    let (input, output) = TOKENS;
    let total = input + output;
    event(&format!(
        "\"choices\":[],\"usage\":{{\"prompt_tokens\":{input},\"completion_tokens\":{output},\"total_tokens\":{total}}}"
    ))
}
