//! HTTP/2 as it is on the wire, for clients that no library would play.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Types of frames.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Flags of frames.
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

const INITIAL_WINDOW_SIZE: u8 = 4;

/// A connection, frame by frame.
pub struct Http2(TcpStream);

/// A frame that came.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Http2 {
    /// Connects, and lets the gateway send so many bytes on each stream.
    pub fn open(address: SocketAddr, window: u32) -> Self {
        let stream = TcpStream::connect(address).expect("the gateway accepts connections");
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut connection = Self(stream);
        connection.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        let setting = [&[0, INITIAL_WINDOW_SIZE][..], &window.to_be_bytes()].concat();
        connection.frame(SETTINGS, 0, 0, &setting).unwrap();
        connection
    }

    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> std::io::Result<()> {
        self.0.write_all(&frame(kind, flags, stream, payload))
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(bytes)
    }

    /// Asks for a path.
    pub fn request(&mut self, stream: u32, path: &str, body: &str) {
        self.frame(HEADERS, END_HEADERS, stream, &head(path)).unwrap();
        self.frame(DATA, END_STREAM, stream, body.as_bytes()).unwrap();
    }

    /// The next frame; `None` when the connection was closed.
    pub fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.0.read_exact(&mut payload).ok()?;
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload,
        })
    }

    /// Reads on to a frame of this type.
    pub fn until(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().expect("the frame before the connection is closed");
            if frame.kind == kind {
                return frame;
            }
        }
    }
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// The head of a POST, in the plainest of HPACK.
pub fn head(path: &str) -> Vec<u8> {
    let mut head = vec![0x83, 0x86];
    for (name, value) in [(4, path), (1, "localhost")] {
        head.extend([name, value.len() as u8]);
        head.extend(value.as_bytes());
    }
    head
}
