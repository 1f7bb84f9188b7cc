//! One HTTP/1.1 message as it arrives: a head, and a body framed by its length or in chunks. The vendor reads requests
//! with it and the client answers; both ends of a connection send one message at a time.

use std::io;

use httparse::{EMPTY_HEADER, Header, Status};
use tokio::io::{AsyncRead, AsyncReadExt};

const MAX_HEADERS: usize = 64;

/// Which kind of first line the message has.
#[derive(Clone, Copy)]
pub enum Kind {
    Request,
    Answer,
}

/// What of a head matters here.
#[derive(Debug, PartialEq)]
pub struct Head {
    /// 0 for a request.
    pub status: u16,
    /// The sender will close the connection after this message.
    pub closes: bool,
    /// `x-pointsman-policy`.
    pub policy: Option<String>,
    framing: Framing,
}

#[derive(Debug, PartialEq)]
enum Framing {
    Length(usize),
    Chunks,
}

/// The bytes break the protocol.
#[derive(Debug)]
pub struct Malformed(#[allow(dead_code, reason = "read through Debug")] pub &'static str);

/// A message that may not be complete yet. Its buffers are kept from one message to the next.
pub struct Message {
    kind: Kind,
    /// What has arrived, undecoded.
    raw: Vec<u8>,
    /// How much of `raw` has been decoded.
    decoded: usize,
    head: Option<Head>,
    body: Vec<u8>,
}

impl Message {
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            raw: Vec::with_capacity(32 * 1024),
            decoded: 0,
            head: None,
            body: Vec::new(),
        }
    }

    /// Forget this message and expect the next.
    pub fn clear(&mut self) {
        self.raw.clear();
        self.decoded = 0;
        self.head = None;
        self.body.clear();
    }

    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// The part of the body that has been decoded, without its framing.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Whether any byte of the body, or of its framing, has arrived.
    pub fn body_began(&self) -> bool {
        self.head.is_some() && (self.raw.len() > self.decoded || !self.body.is_empty())
    }

    /// Read once from `stream` and return the number of bytes; 0 when the other side has closed.
    pub async fn read_from(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        stream.read_buf(&mut self.raw).await
    }

    /// Decode what has arrived: first the head alone, so that a caller can note when it came, then the body. Call until
    /// it returns `More` or `Complete`.
    pub fn advance(&mut self) -> Result<Progress, Malformed> {
        let Some(head) = &self.head else {
            return Ok(if self.take_head()? {
                Progress::Head
            } else {
                Progress::More
            });
        };
        let complete = match head.framing {
            Framing::Length(length) => self.take_length(length),
            Framing::Chunks => self.take_chunks()?,
        };
        match complete {
            true if self.decoded < self.raw.len() => Err(Malformed("bytes after the end of the message")),
            true => Ok(Progress::Complete),
            false => Ok(Progress::More),
        }
    }

    fn take_head(&mut self) -> Result<bool, Malformed> {
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let (parsed, status) = match self.kind {
            Kind::Request => {
                let mut request = httparse::Request::new(&mut headers);
                (request.parse(&self.raw), 0)
            }
            Kind::Answer => {
                let mut answer = httparse::Response::new(&mut headers);
                let parsed = answer.parse(&self.raw);
                (parsed, answer.code.unwrap_or(0))
            }
        };
        let Status::Complete(length) = parsed.map_err(|_| Malformed("head"))? else {
            return Ok(false);
        };
        self.head = Some(Head::from_headers(status, &headers)?);
        self.decoded = length;
        Ok(true)
    }

    fn take_length(&mut self, length: usize) -> bool {
        let missing = length - self.body.len();
        let arrived = &self.raw[self.decoded..];
        let taken = missing.min(arrived.len());
        self.body.extend_from_slice(&arrived[..taken]);
        self.decoded += taken;
        taken == missing
    }

    /// Take the chunks that have wholly arrived; true after the last.
    fn take_chunks(&mut self) -> Result<bool, Malformed> {
        loop {
            let arrived = &self.raw[self.decoded..];
            let parsed = httparse::parse_chunk_size(arrived).map_err(|_| Malformed("chunk size"))?;
            let Status::Complete((start, size)) = parsed else {
                return Ok(false);
            };
            let end = start + usize::try_from(size).map_err(|_| Malformed("chunk size"))?;
            let Some(mark) = arrived.get(end..end + 2) else {
                return Ok(false);
            };
            if mark != b"\r\n" {
                return Err(Malformed("end of a chunk"));
            }
            self.body.extend_from_slice(&arrived[start..end]);
            self.decoded += end + 2;
            if size == 0 {
                return Ok(true);
            }
        }
    }
}

/// How far a message has been decoded.
#[derive(Debug, PartialEq)]
pub enum Progress {
    /// The head has just been decoded; go on.
    Head,
    /// Wait for more bytes.
    More,
    Complete,
}

impl Head {
    fn from_headers(status: u16, headers: &[Header]) -> Result<Self, Malformed> {
        let mut head = Self {
            status,
            closes: false,
            policy: None,
            framing: Framing::Length(0),
        };
        for header in headers.iter().take_while(|header| !header.name.is_empty()) {
            if header.name.eq_ignore_ascii_case("content-length") {
                let length = str::from_utf8(header.value).ok().and_then(|value| value.parse().ok());
                head.framing = Framing::Length(length.ok_or(Malformed("content-length"))?);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                head.framing = Framing::Chunks;
            } else if header.name.eq_ignore_ascii_case("connection") {
                head.closes = header.value.eq_ignore_ascii_case(b"close");
            } else if header.name.eq_ignore_ascii_case("x-pointsman-policy") {
                head.policy = Some(String::from_utf8_lossy(header.value).into_owned());
            }
        }
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feed `bytes` in pieces of `size` and return the message once it is complete.
    fn fed(kind: Kind, bytes: &[u8], size: usize) -> Option<Message> {
        let mut message = Message::new(kind);
        for piece in bytes.chunks(size) {
            message.raw.extend_from_slice(piece);
            loop {
                match message.advance().expect("well formed") {
                    Progress::Head => continue,
                    Progress::More => break,
                    Progress::Complete => return Some(message),
                }
            }
        }
        None
    }

    #[test]
    fn a_message_is_the_same_however_it_is_cut() {
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nx-pointsman-policy: p@1\r\n\r\n\
            5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\n";
        let counted = b"POST / HTTP/1.1\r\nContent-Length: 11\r\nconnection: close\r\n\r\nhello world";
        for size in 1..=chunked.len() {
            let answer = fed(Kind::Answer, chunked, size).expect("complete");
            assert_eq!(answer.body(), b"hello world");
            let head = answer.head().expect("decoded");
            assert_eq!(
                (head.status, head.closes, head.policy.as_deref()),
                (200, false, Some("p@1"))
            );
            let request = fed(Kind::Request, counted, size).expect("complete");
            assert_eq!(request.body(), b"hello world");
            assert!(request.head().expect("decoded").closes);
        }
    }

    #[test]
    fn a_cut_off_message_is_never_complete() {
        let bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        for end in 1..bytes.len() {
            assert!(
                fed(Kind::Answer, &bytes[..end], 7).is_none(),
                "complete after {end} bytes"
            );
        }
    }
}
