//! Where messages of HTTP/1 begin and end in what a client sends, as far as it takes to find what the library for HTTP lets pass and RFC
//! 9112 lets a server refuse: a line that ends without a carriage return (section 2.2), and a stated length beside a chunked body
//! (section 6.3). Proxies disagree about both, and what they disagree about can be used to smuggle requests past them.

/// Reads what a client sends, in any pieces.
#[derive(Debug, Default)]
pub struct Framing {
    state: State,
    /// The beginning of the line that is being read.
    line: Vec<u8>,
    after_carriage_return: bool,
    length: Option<u64>,
    is_chunked: bool,
    /// Requests whose last byte has come.
    complete: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a request.
    #[default]
    Start,
    /// In the lines of a head.
    Head,
    /// So many bytes of a body are to come.
    Body(u64),
    /// In the line with a chunk's size.
    ChunkSize,
    /// So many bytes of a chunk are to come, with the end of its line.
    Chunk(u64),
    /// In the lines behind the last chunk.
    Trailer,
    /// Nothing more is looked at: it is HTTP/2, or something that the library refuses by itself.
    Off,
}

/// Bytes of a line that are looked at: no name that matters is longer, and no honest length.
const LINE: usize = 64;

impl Framing {
    /// Reads on; the place of a byte that ends a line as it must not, if there is one.
    pub fn read(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            match self.state {
                State::Off => return None,
                State::Body(left) => at += self.skip(left, bytes.len() - at, State::Body),
                State::Chunk(left) => at += self.skip(left, bytes.len() - at, State::Chunk),
                State::Start => at += usize::from(self.skip_empty_line(bytes[at])),
                State::Head | State::ChunkSize | State::Trailer => {
                    let rest = &bytes[at..];
                    let end = memchr::memchr(b'\n', rest);
                    self.keep(&rest[..end.unwrap_or(rest.len())]);
                    let end = end?;
                    if !self.end_line() {
                        self.state = State::Off;
                        return Some(at + end);
                    }
                    at += end + 1;
                }
            }
        }
        None
    }

    /// Whether all of a request has come, and nothing of another one.
    pub fn is_between_requests(&self) -> bool {
        self.state == State::Start && self.complete > 0
    }

    /// Empty lines before a request mean nothing (section 2.2); what is no part of one begins the request.
    fn skip_empty_line(&mut self, byte: u8) -> bool {
        let ends_line = std::mem::take(&mut self.after_carriage_return) && byte == b'\n';
        self.after_carriage_return = byte == b'\r';
        let is_empty = ends_line || self.after_carriage_return;
        if !is_empty {
            self.state = State::Head;
        }
        is_empty
    }

    /// Goes over what is not looked at; how much that is.
    fn skip(&mut self, left: u64, there: usize, state: fn(u64) -> State) -> usize {
        let skipped = left.min(there as u64);
        match (left - skipped, self.is_chunked) {
            (0, true) => self.state = State::ChunkSize,
            (0, false) => self.end_request(),
            (left, _) => self.state = state(left),
        }
        skipped as usize
    }

    fn keep(&mut self, part: &[u8]) {
        if let Some(last) = part.last() {
            self.after_carriage_return = *last == b'\r';
        }
        let room = LINE.saturating_sub(self.line.len());
        self.line.extend_from_slice(&part[..part.len().min(room)]);
    }

    /// Looks at a line that is there; `false` where it is refused.
    fn end_line(&mut self) -> bool {
        let ends_well = std::mem::take(&mut self.after_carriage_return);
        let line = std::mem::take(&mut self.line);
        let text = line.strip_suffix(b"\r").unwrap_or(&line);
        let fine = ends_well
            && match self.state {
                State::Head if text.is_empty() => {
                    self.end_head();
                    true
                }
                State::Head => self.header(text),
                State::ChunkSize => {
                    self.chunk_size(text);
                    true
                }
                State::Trailer if text.is_empty() => {
                    self.end_request();
                    true
                }
                _ => true,
            };
        self.line = line;
        self.line.clear();
        fine
    }

    /// Looks at the line of a request or of a header; `false` where a length and chunks are stated both.
    fn header(&mut self, line: &[u8]) -> bool {
        if line.starts_with(b"PRI * HTTP/2") {
            self.state = State::Off;
        } else if let Some(value) = value_of(b"content-length:", line) {
            match value.parse() {
                Ok(length) => self.length = Some(length),
                Err(_) => self.state = State::Off,
            }
        } else if value_of(b"transfer-encoding:", line).is_some() {
            self.is_chunked = true;
        }
        !(self.is_chunked && self.length.is_some())
    }

    fn end_head(&mut self) {
        match (self.is_chunked, self.length) {
            (true, _) => self.state = State::ChunkSize,
            (false, None | Some(0)) => self.end_request(),
            (false, Some(length)) => self.state = State::Body(length),
        }
    }

    fn chunk_size(&mut self, line: &[u8]) {
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let digits = std::str::from_utf8(digits).unwrap_or_default().trim();
        self.state = match u64::from_str_radix(digits, 16) {
            Ok(0) => State::Trailer,
            // The end of the line behind it belongs to it.
            Ok(size) => size.checked_add(2).map_or(State::Off, State::Chunk),
            Err(_) => State::Off,
        };
    }

    fn end_request(&mut self) {
        self.state = State::Start;
        self.complete += 1;
        self.length = None;
        self.is_chunked = false;
    }
}

/// The value of a header of this name, which ends in a colon.
fn value_of<'a>(name: &[u8], line: &'a [u8]) -> Option<&'a str> {
    let (start, value) = line.split_at_checked(name.len())?;
    start
        .eq_ignore_ascii_case(name)
        .then(|| std::str::from_utf8(value).unwrap_or_default().trim())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is found in a text that comes in pieces of this size.
    fn read(text: &str, piece: usize) -> (Framing, Option<usize>) {
        let mut framing = Framing::default();
        for (number, bytes) in text.as_bytes().chunks(piece).enumerate() {
            if let Some(at) = framing.read(bytes) {
                return (framing, Some(number * piece + at));
            }
        }
        (framing, None)
    }

    const FINE: [&str; 6] = [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 7\r\n\r\na\nb: c\n",
        "POST / HTTP/1.1\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\n\n\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=1\r\na\n\n\r\nA\r\n0123\n56789\r\n0\r\nx-sum: 1\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ];

    #[test]
    fn what_is_well_formed_passes_in_any_pieces() {
        for text in FINE.into_iter().chain([FINE.concat().as_str()]) {
            for piece in [1, 2, 3, 7, 1000] {
                let (framing, found) = read(text, piece);
                assert_eq!(
                    (found, framing.is_between_requests()),
                    (None, true),
                    "{text:?} in {piece}"
                );
            }
        }
    }

    #[test]
    fn bare_line_feeds_and_two_lengths_are_found() {
        for (text, end) in [
            ("GET / HTTP/1.1\nhost: a\r\n\r\n", "HTTP/1.1"),
            ("GET / HTTP/1.1\r\nhost: a\n\r\n", "host: a"),
            ("GET / HTTP/1.1\r\nhost: a\r\n\n", "host: a\r\n"),
            (
                "POST / HTTP/1.1\r\ncontent-length: 1\r\nTransfer-Encoding: chunked\r\nx: y\r\n\r\n",
                "chunked\r",
            ),
            (
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\nCONTENT-LENGTH: 1\r\n\r\n",
                "H: 1\r",
            ),
        ] {
            for before in ["", FINE[3], FINE[4]] {
                for piece in [1, 5, 1000] {
                    let whole = format!("{before}{text}");
                    let expected = before.len() + text.find(end).unwrap() + end.len();
                    assert_eq!(read(&whole, piece).1, Some(expected), "{text:?} in {piece}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_http1_is_left_alone() {
        for text in [
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\n\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n\n\n",
        ] {
            assert_eq!(read(text, 3).1, None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "(GET / HTTP/1.1|content-length: 3|transfer-encoding: chunked|3|0|\r\n|\n|\r|a){0,12}", piece in 1usize..20) {
            let whole = read(&text, 10_000);
            let pieces = read(&text, piece);
            prop_assert_eq!((whole.1, whole.0.state), (pieces.1, pieces.0.state));
        }
    }
}
