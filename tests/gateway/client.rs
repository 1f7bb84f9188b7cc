//! A client of the gateway: one connection a request, and bytes as they come.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::message::{Head, Incoming};

/// Longer than anything a test waits for: what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to the gateway.
pub struct Connection<S = TcpStream>(Incoming<S>);

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: Head,
    pub body: Vec<u8>,
}

/// An answer that is still coming.
pub struct Stream<S = TcpStream> {
    pub status: u16,
    pub head: Head,
    incoming: Incoming<S>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the gateway accepts connections");
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self::over(stream)
    }

    /// Ends what this side sends, and reads on.
    pub fn stop_sending(&self) {
        self.0.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }
}

impl<S: Read + Write> Connection<S> {
    pub fn over(stream: S) -> Self {
        Self(Incoming::new(stream))
    }

    /// Sends bytes as they are. The gateway may have seen enough and closed the connection.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.stream.write_all(bytes)
    }

    /// Sends a request whose length is told.
    pub fn request(&mut self, line: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut head = format!("{line} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            head += "host: localhost\r\n";
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            head += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        }
        self.send(&[head.as_bytes(), b"\r\n", body].concat())
            .expect("the gateway reads the request");
    }

    /// Reads the next answer to its end.
    pub fn answer(&mut self) -> Answer {
        let (status, head) = self.head();
        let body = self.0.body(&head).expect("a whole answer");
        Answer { status, head, body }
    }

    /// Reads an answer that has no body, whatever length its head states.
    pub fn answer_to_head(&mut self) -> (u16, Head) {
        self.head()
    }

    /// Reads the head of an answer.
    pub fn stream(mut self) -> Stream<S> {
        let (status, head) = self.head();
        Stream {
            status,
            head,
            incoming: self.0,
        }
    }

    /// What comes behind the head of an answer until the gateway closes the connection.
    pub fn rest_after_head(&mut self) -> Vec<u8> {
        self.head();
        self.0.rest().expect("an orderly end")
    }

    /// Waits until the gateway closes the connection.
    pub fn wait_until_closed(&mut self) {
        assert!(self.0.closed(), "the gateway should close the connection");
    }

    fn head(&mut self) -> (u16, Head) {
        let head = self
            .0
            .head()
            .expect("the head of an answer")
            .expect("an answer before the connection is closed");
        let status = head.line.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.expect("a status"), head)
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.head.header(name).unwrap_or_default()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    /// What the model said.
    pub fn says(&self) -> String {
        let json = self.json();
        let says = json["choices"][0]["message"]["content"].as_str();
        says.unwrap_or_else(|| panic!("no answer of a model: {} {}", self.status, self.text()))
            .to_owned()
    }

    /// That it is an error in OpenAI's shape, with this status and code.
    #[track_caller]
    pub fn assert_error(&self, status: u16, code: &str) {
        let json = self.json();
        let error = &json["error"];
        assert_eq!(
            (self.status, error["code"].as_str()),
            (status, Some(code)),
            "{}",
            self.text()
        );
        assert!(
            error["message"].as_str().is_some_and(|message| !message.is_empty()),
            "{json}"
        );
        assert!(error["type"].as_str().is_some_and(|kind| !kind.is_empty()), "{json}");
        assert!(error.get("param").is_some(), "{json}");
        assert_eq!(self.header("content-type"), "application/json");
        self.assert_has_ids();
    }

    /// That both of the names under which SDKs look for a request's id are there.
    #[track_caller]
    pub fn assert_has_ids(&self) {
        assert!(!self.header("x-request-id").is_empty());
        assert_eq!(self.header("x-request-id"), self.header("request-id"));
    }
}

impl<S: Read> Stream<S> {
    pub fn header(&self, name: &str) -> &str {
        self.head.header(name).unwrap_or_default()
    }

    /// Reads on until this has come.
    pub fn read_until(&mut self, text: &str) -> String {
        String::from_utf8(self.bytes_until(text)).unwrap()
    }

    /// The same, where not all is text.
    pub fn bytes_until(&mut self, text: &str) -> Vec<u8> {
        let mut read = Vec::new();
        while !read.windows(text.len()).any(|window| window == text.as_bytes()) {
            let chunk = self.incoming.chunk().expect("more of the stream");
            let chunk = chunk.unwrap_or_else(|| panic!("the stream ended without {text:?}, after {read:?}"));
            read.extend(chunk);
        }
        read
    }

    /// Reads on to the orderly end.
    pub fn rest(&mut self) -> String {
        String::from_utf8(self.rest_bytes()).unwrap()
    }

    /// The same, where not all is text.
    pub fn rest_bytes(&mut self) -> Vec<u8> {
        let mut read = Vec::new();
        while let Some(chunk) = self.incoming.chunk().expect("an orderly end of the stream") {
            read.extend(chunk);
        }
        read
    }

    /// The head that follows an interim response.
    pub fn next_head(self) -> Self
    where
        S: Write,
    {
        Connection(self.incoming).stream()
    }

    /// The body of an answer that is no stream.
    pub fn answer(mut self) -> Answer {
        let body = self.incoming.body(&self.head).expect("a whole answer");
        Answer {
            status: self.status,
            head: self.head,
            body,
        }
    }
}
