//! One keep-alive connection that sends the same chat completion again and again and checks each answer.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    chat,
    message::{Kind, Malformed, Message, Progress},
};

/// No answer may take longer.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(30);

/// A gateway that is down must not be asked in a tight loop.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);

pub struct Client {
    address: SocketAddr,
    streaming: bool,
    messages: bool,
    policy: Option<String>,
    request: Vec<u8>,
    connection: Option<TcpStream>,
    answer: Message,
}

/// A request and its complete answer.
pub struct Exchange {
    /// Just before the first byte of the request was written.
    pub sent: Instant,
    /// The answer's head was read: by then the request had been decided.
    pub head: Instant,
    /// The first byte of the answer's body was read.
    pub first_byte: Instant,
    pub done: Instant,
    /// `x-pointsman-policy` of the answer.
    pub policy: Option<String>,
}

/// Why an exchange does not count.
#[derive(Debug)]
#[allow(dead_code, reason = "read through Debug")]
pub enum Failure {
    Io(io::Error),
    /// The connection was closed before the answer was complete.
    Closed,
    Timeout,
    Malformed(Malformed),
    Status(u16),
    /// The framing was whole but the chat completion in it was not.
    Incomplete {
        bytes: usize,
    },
    /// The answer was not decided by the expected policy.
    Policy(Option<String>),
}

/// The path of Anthropic messages.
const MESSAGES: &str = "/v1/messages";

impl Client {
    /// With `policy`, an answer whose `x-pointsman-policy` names another policy, or none, is a failure.
    pub fn new(address: SocketAddr, streaming: bool, policy: Option<String>) -> Self {
        Self::of("/v1/chat/completions", address, streaming, policy)
    }

    /// A client of Anthropic messages, whose requests and answers the gateway has to translate. The body is the same: what it has
    /// that is not of that format is ignored or told in a header.
    pub fn of_messages(address: SocketAddr, streaming: bool, policy: Option<String>) -> Self {
        Self::of(MESSAGES, address, streaming, policy)
    }

    fn of(path: &str, address: SocketAddr, streaming: bool, policy: Option<String>) -> Self {
        let body = chat::request(streaming);
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\naccept: application/json\r\n\
            authorization: Bearer sk-bench\r\nuser-agent: pointsman-bench\r\ncontent-type: application/json\r\n\
            content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = Message::new(Kind::Answer);
        Self {
            address,
            streaming,
            messages: path == MESSAGES,
            policy,
            request: request.into_bytes(),
            connection: None,
            answer,
        }
    }

    /// Send the request and read its answer to the end. After a failure, wait a moment and start over with a new
    /// connection.
    pub async fn exchange(&mut self) -> Result<Exchange, Failure> {
        let result = timeout(EXCHANGE_LIMIT, self.exchange_once())
            .await
            .unwrap_or(Err(Failure::Timeout));
        if result.is_err() {
            self.connection = None;
            sleep(PAUSE_AFTER_FAILURE).await;
        }
        result
    }

    async fn exchange_once(&mut self) -> Result<Exchange, Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        self.answer.clear();
        let sent = Instant::now();
        connection.write_all(&self.request).await?;
        let (mut head, mut first_byte) = (None, None);
        'answer: loop {
            if self.answer.read_from(&mut connection).await? == 0 {
                return Err(Failure::Closed);
            }
            loop {
                let progress = self.answer.advance()?;
                if head.is_none() && self.answer.head().is_some() {
                    head = Some(Instant::now());
                }
                if first_byte.is_none() && self.answer.body_began() {
                    first_byte = Some(Instant::now());
                }
                match progress {
                    Progress::Head => {}
                    Progress::More => break,
                    Progress::Complete => break 'answer,
                }
            }
        }
        let done = Instant::now();
        let policy = self.check()?;
        if !self.answer.head().is_some_and(|head| head.closes) {
            self.connection = Some(connection);
        }
        Ok(Exchange {
            sent,
            head: head.unwrap_or(done),
            first_byte: first_byte.unwrap_or(done),
            done,
            policy,
        })
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let connection = TcpStream::connect(self.address).await?;
        connection.set_nodelay(true)?;
        Ok(connection)
    }

    /// Check the complete answer and return the policy it names.
    fn check(&self) -> Result<Option<String>, Failure> {
        let head = self.answer.head().ok_or(Failure::Closed)?;
        let body = self.answer.body();
        if head.status != 200 {
            return Err(Failure::Status(head.status));
        }
        let is_complete = match (self.messages, self.streaming) {
            (false, true) => chat::is_stream(body),
            (false, false) => chat::is_whole(body),
            (true, true) => chat::is_messages_stream(body),
            (true, false) => chat::is_message(body),
        };
        if !is_complete {
            return Err(Failure::Incomplete { bytes: body.len() });
        }
        if let Some(expected) = &self.policy
            && head
                .policy
                .as_deref()
                .and_then(|policy| policy.split_once('@'))
                .is_none_or(|(name, _)| name != expected)
        {
            return Err(Failure::Policy(head.policy.clone()));
        }
        Ok(head.policy.clone())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}
