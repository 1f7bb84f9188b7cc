//! A mock vendor of OpenAI chat completions: HTTP/1.1, keep-alive, always ready, always the same answer.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use clap::Args;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::yield_now,
    time::{sleep, timeout},
};

use crate::{
    chat,
    message::{Kind, Message, Progress},
};

#[derive(Args)]
pub struct Options {
    /// Where to listen; port 0 takes a free one. The address is printed once it can be connected to.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Pause before each frame of a stream, in microseconds, rounded up to whole milliseconds; 0 for none.
    #[arg(long, default_value_t = 0)]
    frame_gap_us: u64,
    /// Exit after so many seconds even if nobody ends this process.
    #[arg(long, default_value_t = 7200)]
    lifetime_s: u64,
}

/// The answers, encoded once.
struct Answers {
    whole: Vec<u8>,
    stream_head: Vec<u8>,
    frames: Vec<Vec<u8>>,
}

/// Serve until the lifetime is over.
pub async fn run(options: Options) -> io::Result<()> {
    let listener = TcpListener::bind(options.listen).await?;
    println!("{}", listener.local_addr()?);
    let serving = serve(listener, Duration::from_micros(options.frame_gap_us));
    timeout(Duration::from_secs(options.lifetime_s), serving)
        .await
        .unwrap_or(Ok(()))
}

/// Answer every connection; streams pause for `frame_gap` before each frame.
pub async fn serve(listener: TcpListener, frame_gap: Duration) -> io::Result<()> {
    let answers = Arc::new(Answers::encode());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A client that goes away ends its connection and nothing else.
        tokio::spawn(serve_connection(stream, Arc::clone(&answers), frame_gap));
    }
}

async fn serve_connection(mut stream: TcpStream, answers: Arc<Answers>, frame_gap: Duration) -> io::Result<()> {
    let mut request = Message::new(Kind::Request);
    while read_request(&mut stream, &mut request).await? {
        if chat::asks_for_stream(request.body()) {
            write_stream(&mut stream, &answers, frame_gap).await?;
        } else {
            stream.write_all(&answers.whole).await?;
        }
    }
    Ok(())
}

/// Read one request; false when the client has closed.
async fn read_request(stream: &mut TcpStream, request: &mut Message) -> io::Result<bool> {
    request.clear();
    loop {
        if request.read_from(stream).await? == 0 {
            return Ok(false);
        }
        loop {
            match request
                .advance()
                .map_err(|malformed| io::Error::other(format!("{malformed:?}")))?
            {
                Progress::Head => {}
                Progress::More => break,
                Progress::Complete => return Ok(true),
            }
        }
    }
}

/// Each frame is a write of its own. Without a gap the other connections have their turn between two frames, so that
/// under load the frames of one stream arrive apart, as a real vendor's do.
async fn write_stream(stream: &mut TcpStream, answers: &Answers, frame_gap: Duration) -> io::Result<()> {
    stream.write_all(&answers.stream_head).await?;
    for frame in &answers.frames {
        if frame_gap.is_zero() {
            yield_now().await;
        } else {
            sleep(frame_gap).await;
        }
        stream.write_all(frame).await?;
    }
    Ok(())
}

impl Answers {
    fn encode() -> Self {
        // The headers a gateway has to read or drop on every answer.
        let common = "HTTP/1.1 200 OK\r\ndate: Mon, 10 Mar 2025 01:25:52 GMT\r\nopenai-processing-ms: 12\r\n\
            openai-version: 2020-10-01\r\nx-ratelimit-limit-requests: 10000\r\n\
            x-ratelimit-remaining-requests: 9999\r\nx-ratelimit-reset-requests: 6ms\r\n\
            x-request-id: req_4f1b2c3d5e6f708192a3b4c5d6e7f809\r\n";
        let whole = chat::whole();
        let length = whole.len();
        let mut frames: Vec<_> = chat::frames()
            .iter()
            .map(|frame| format!("{:x}\r\n{frame}\r\n", frame.len()).into_bytes())
            .collect();
        frames
            .last_mut()
            .expect("a stream ends with [DONE]")
            .extend_from_slice(b"0\r\n\r\n");
        Self {
            whole: format!("{common}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{whole}")
                .into_bytes(),
            stream_head: format!(
                "{common}content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            .into_bytes(),
            frames,
        }
    }
}
