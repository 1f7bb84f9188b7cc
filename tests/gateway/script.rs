//! What a scripted vendor does with one request: bytes that it sends, and how the connection ends.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::vendor::Received;

/// The head of a stream, and the frames that most streams are made of.
pub const ROLE: &str = concat!(
    r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m","#,
    r#""choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"finish_reason":null}]}"#,
    "\n\n"
);
pub const STOP: &str = concat!(
    r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m","#,
    r#""choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
    "\n\n"
);
pub const DONE: &str = "data: [DONE]\n\n";

/// A frame with content.
pub fn text(text: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"m\",\
         \"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":null}}]}}\n\n"
    )
}

/// A whole answer's body.
pub fn whole(text: &str) -> String {
    format!(
        "{{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"m\",\"choices\":\
         [{{\"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":\"{text}\"}},\"finish_reason\":\"stop\"}}],\
         \"usage\":{{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}}}"
    )
}

/// An error's body, in the shape of OpenAI.
pub fn error_body(code: &str) -> String {
    format!(r#"{{"error":{{"message":"the vendor says {code}","type":"vendor_error","param":null,"code":"{code}"}}}}"#)
}

/// What a vendor does with one request.
#[derive(Clone)]
pub enum Script {
    /// What it should: a whole answer or a stream, as it is asked, that says this.
    Well(String),
    /// Exactly this.
    Steps(Vec<Step>),
    /// What the request asks for.
    Of(Arc<dyn Fn(&Received) -> Script + Send + Sync>),
}

/// A part of a script. After the last, the vendor waits for the next request on the connection.
#[derive(Clone)]
pub enum Step {
    Send(Vec<u8>),
    SendByteByByte(Vec<u8>),
    /// Goes on when the test says so.
    Until(Gate),
    /// A vendor that takes its time.
    Pause(Duration),
    /// Never goes on; notes when the gateway closes the connection.
    Hold,
    Close,
    Reset,
}

/// Something that a test opens once.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    pub fn wait(&self) {
        let open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(open, |open| !*open).unwrap());
    }
}

impl Script {
    /// A script for each request.
    pub fn of(script: impl Fn(&Received) -> Script + Send + Sync + 'static) -> Self {
        Self::Of(Arc::new(script))
    }

    /// What to do for this request.
    pub fn for_request(self, request: &Received) -> Self {
        match self {
            Self::Of(script) => script(request).for_request(request),
            script => script,
        }
    }

    /// A whole answer with exactly this body.
    pub fn answer(body: &str) -> Self {
        Self::status(200, &[], body)
    }

    /// An answer with a JSON body.
    pub fn status(status: u16, headers: &[(&str, &str)], body: &str) -> Self {
        Self::other(status, "application/json", headers, body)
    }

    /// An answer of any type.
    pub fn other(status: u16, content_type: &str, headers: &[(&str, &str)], body: &str) -> Self {
        let mut head = format!("HTTP/1.1 {status} Scripted\r\ncontent-type: {content_type}\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("content-length: {}\r\n\r\n", body.len());
        Self::Steps(vec![Step::Send((head + body).into_bytes())])
    }

    /// A rate limit, told in these headers.
    pub fn rate_limited(headers: &[(&str, &str)]) -> Self {
        Self::status(429, headers, &error_body("rate_limit_exceeded"))
    }

    /// A whole stream of these frames.
    pub fn stream<F: AsRef<[u8]>>(frames: impl IntoIterator<Item = F>) -> Self {
        Self::begin(frames).send("0\r\n\r\n")
    }

    /// The head of a stream and these frames, each in a write of its own. The stream is not ended.
    pub fn begin<F: AsRef<[u8]>>(frames: impl IntoIterator<Item = F>) -> Self {
        Self::begin_as("text/event-stream; charset=utf-8", frames)
    }

    /// The same, for a stream of another type.
    pub fn begin_as<F: AsRef<[u8]>>(content_type: &str, frames: impl IntoIterator<Item = F>) -> Self {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n\
             transfer-encoding: chunked\r\nx-request-id: req-of-the-vendor\r\n\r\n"
        );
        Self::Steps(vec![]).send(&head).frames(frames)
    }

    /// The whole stream, each byte in a write of its own.
    pub fn byte_by_byte<F: AsRef<[u8]>>(frames: impl IntoIterator<Item = F>) -> Self {
        let bytewise = |step| match step {
            Step::Send(bytes) => Step::SendByteByByte(bytes),
            step => step,
        };
        Self::Steps(Self::stream(frames).steps(false).into_iter().map(bytewise).collect())
    }

    /// Nothing at all.
    pub fn silence() -> Self {
        Self::Steps(vec![Step::Hold])
    }

    /// More frames of a stream that began.
    pub fn frames<F: AsRef<[u8]>>(self, frames: impl IntoIterator<Item = F>) -> Self {
        let chunk = |frame: F| {
            let frame = frame.as_ref();
            [format!("{:x}\r\n", frame.len()).as_bytes(), frame, b"\r\n"].concat()
        };
        frames
            .into_iter()
            .map(chunk)
            .fold(self, |script, chunk| script.bytes(chunk))
    }

    /// The end of a stream that began.
    pub fn end(self) -> Self {
        self.send("0\r\n\r\n")
    }

    pub fn send(self, text: &str) -> Self {
        self.step(Step::Send(text.as_bytes().to_vec()))
    }

    pub fn bytes(self, bytes: Vec<u8>) -> Self {
        self.step(Step::Send(bytes))
    }

    /// The rest of a head, and the beginning of a chunk of this length.
    pub fn chunk(self, length: usize, bytes: Vec<u8>) -> Self {
        let head = format!("transfer-encoding: chunked\r\n\r\n{length:x}\r\n");
        self.bytes([head.into_bytes(), bytes].concat())
    }

    pub fn until(self, gate: &Gate) -> Self {
        self.step(Step::Until(gate.clone()))
    }

    /// Takes its time.
    pub fn pause(self, milliseconds: u64) -> Self {
        self.step(Step::Pause(Duration::from_millis(milliseconds)))
    }

    /// Waits before all that was said so far.
    pub fn after(self, pause: Duration) -> Self {
        let mut steps = self.steps(false);
        steps.insert(0, Step::Pause(pause));
        Self::Steps(steps)
    }

    /// And then what another script says.
    pub fn then(self, next: Self) -> Self {
        next.steps(false).into_iter().fold(self, Self::step)
    }

    pub fn hold(self) -> Self {
        self.step(Step::Hold)
    }

    pub fn close(self) -> Self {
        self.step(Step::Close)
    }

    pub fn reset(self) -> Self {
        self.step(Step::Reset)
    }

    fn step(self, step: Step) -> Self {
        let mut steps = self.steps(false);
        steps.push(step);
        Self::Steps(steps)
    }

    /// What to do for a request that wants a stream or does not.
    pub fn steps(self, streaming: bool) -> Vec<Step> {
        match self {
            Script::Steps(steps) => steps,
            Script::Well(says) if streaming => Script::stream([ROLE, &text(&says), STOP, DONE]).steps(true),
            Script::Well(says) => Script::answer(&whole(&says)).steps(false),
            Script::Of(_) => panic!("what is done depends on the request"),
        }
    }
}
