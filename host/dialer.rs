//! How connections to vendors come to be: names, addresses and TLS.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout_at};

use crate::connect_error::{Cause, ConnectError};
use crate::descriptors;
use crate::names::{Names, Resolve, System};
use crate::tls::Trust;

/// Where a vendor listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Speak TLS.
    pub tls: bool,
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Endpoint {
    /// A plain address.
    pub fn plain(address: SocketAddr) -> Self {
        Self {
            tls: false,
            host: address.ip().to_string(),
            port: address.port(),
        }
    }

    /// Where a URL points.
    pub fn of(url: &http::Uri) -> Self {
        let tls = url.scheme_str() == Some("https");
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        Self {
            tls,
            host,
            port: url.port_u16().unwrap_or(if tls { 443 } else { 80 }),
        }
    }

    /// As the `host` header says it.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// An open connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens connections. The gateway's own is [`Network`]; a program that holds the gateway may bring another.
pub trait Dial: Send + Sync {
    /// Opens a connection until then. A deadline is the dialer's to keep, since it knows what took so long; the caller has one too.
    fn dial<'a>(&'a self, endpoint: &'a Endpoint, by: Instant) -> Dialling<'a>;
}

/// A connection that is being opened.
pub type Dialling<'a> = Pin<Box<dyn Future<Output = Result<Box<dyn Stream>, ConnectError>> + Send + 'a>>;

/// Opens connections over TCP, with TLS where the endpoint wants it.
pub struct Network {
    trust: Arc<Trust>,
    names: Names,
}

impl Network {
    /// Trusts whom `trust` trusts when a connection is opened, and asks the system for addresses.
    pub fn new(trust: Arc<Trust>) -> Self {
        Self::with_names(trust, System::default())
    }

    /// The same with another way to look names up.
    pub fn with_names(trust: Arc<Trust>, resolve: impl Resolve + 'static) -> Self {
        Self {
            trust,
            names: Names::new(resolve),
        }
    }

    async fn open(&self, endpoint: &Endpoint, by: Instant) -> Result<Box<dyn Stream>, ConnectError> {
        let host = endpoint.host.as_str();
        let found = timeout_at(by, self.names.lookup(host)).await;
        let found = found.map_err(|_| late(Cause::DnsTimeout, &format!("looking {host} up")))??;
        let addresses = found.iter().map(|address| SocketAddr::new(*address, endpoint.port));
        let tcp = timeout_at(by, connect(addresses.collect())).await;
        let tcp = tcp.map_err(|_| {
            late(
                Cause::ConnectTimeout,
                &format!("connecting to {}", endpoint.authority()),
            )
        })??;
        tcp.set_nodelay(true)
            .map_err(|error| ConnectError::from_system(&error))?;
        if !endpoint.tls {
            return Ok(Box::new(tcp));
        }
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|_| ConnectError::new(Cause::Tls, format!("no certificate can be for `{host}`")))?;
        let stream = timeout_at(by, self.trust.connector().connect(name, tcp)).await;
        let stream = stream.map_err(|_| late(Cause::TlsTimeout, "the TLS handshake"))?;
        Ok(Box::new(stream.map_err(|error| ConnectError::tls(&error))?))
    }
}

impl Dial for Network {
    fn dial<'a>(&'a self, endpoint: &'a Endpoint, by: Instant) -> Dialling<'a> {
        Box::pin(self.open(endpoint, by))
    }
}

fn late(cause: Cause, what: &str) -> ConnectError {
    ConnectError::new(cause, format!("{what} took too long"))
}

/// The pause before the next address is tried beside those that have not answered (RFC 8305, 5 and 8).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// Connects to whichever address answers first. The next one is tried when the one before has failed, or has not answered for a
/// moment ("happy eyeballs", RFC 8305): a dead address costs a quarter of a second, not the whole deadline.
async fn connect(addresses: Vec<SocketAddr>) -> Result<TcpStream, ConnectError> {
    let count = addresses.len();
    let mut waiting = addresses.into_iter();
    let mut running = FuturesUnordered::new();
    let mut failure = None;
    loop {
        running.extend(waiting.next().map(connect_to));
        tokio::select! {
            ended = running.next() => match ended {
                Some(Ok(stream)) => return Ok(stream),
                // The other addresses would need the same.
                Some(Err(error)) if error.cause == Cause::LocalLimit => return Err(error),
                Some(Err(error)) => { failure.get_or_insert(error); }
                None => return Err(no_address_answered(failure, count)),
            },
            () = sleep(NEXT_ADDRESS), if waiting.len() > 0 => {}
        }
    }
}

async fn connect_to(address: SocketAddr) -> Result<TcpStream, ConnectError> {
    let at = |error| ConnectError::at(address, &error);
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = socket.map_err(at)?;
    if descriptors::is_reserved(&socket) {
        let words = "too few file descriptors are left (see LimitNOFILE or `ulimit -n`)";
        return Err(ConnectError::new(Cause::LocalLimit, words));
    }
    socket.connect(address).await.map_err(at)
}

/// What the first address said, and that there were others.
fn no_address_answered(failure: Option<ConnectError>, count: usize) -> ConnectError {
    let mut failure = failure.unwrap_or_else(|| ConnectError::new(Cause::Dns, "the name has no address"));
    match count {
        0 | 1 => {}
        2 => failure.words += ", and its other address failed too",
        count => failure.words += &format!(", and its {} other addresses failed too", count - 1),
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use std::net::{IpAddr, Ipv4Addr, TcpListener};

    /// Answers at once with addresses of this machine, in this order.
    struct Fixed(Vec<IpAddr>);

    impl Resolve for Fixed {
        fn resolve(&self, _host: &str) -> BoxFuture<'static, Result<Vec<IpAddr>, ConnectError>> {
            std::future::ready(Ok(self.0.clone())).boxed()
        }
    }

    fn here(last: u8) -> IpAddr {
        Ipv4Addr::new(127, 0, 0, last).into()
    }

    fn network(addresses: Vec<IpAddr>) -> Network {
        let tls = Trust::open(None).expect("the well-known authorities");
        Network::with_names(tls, Fixed(addresses))
    }

    async fn dial(addresses: Vec<IpAddr>, port: u16, tls: bool) -> Result<Box<dyn Stream>, ConnectError> {
        let endpoint = Endpoint {
            tls,
            host: "vendor.example".to_owned(),
            port,
        };
        let by = Instant::now() + Duration::from_secs(10);
        network(addresses).dial(&endpoint, by).await
    }

    /// An address whose connections are never accepted nor refused: its queue is full.
    fn dead(port: u16, last: u8) -> (socket2::Socket, Vec<socket2::Socket>) {
        let open = || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let listener = open();
        let address: SocketAddr = (here(last), port).into();
        listener.bind(&address.into()).unwrap();
        listener.listen(0).unwrap();
        let queued = (0..4).map(|_| {
            let socket = open();
            // It is under way, or already has no place.
            let _ = socket.connect(&address.into());
            socket
        });
        let queued = queued.collect();
        (listener, queued)
    }

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_refuses() {
        let listener = TcpListener::bind((here(3), 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(dial(vec![here(2), here(3)], port, false).await.is_ok());
    }

    #[tokio::test]
    async fn the_next_address_is_tried_beside_one_that_does_not_answer() {
        let listener = TcpListener::bind((here(5), 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let _dead = dead(port, 4);
        let began = Instant::now();
        assert!(dial(vec![here(4), here(5)], port, false).await.is_ok());
        assert!(began.elapsed() < Duration::from_secs(5), "half of the deadline at most");
    }

    #[tokio::test]
    async fn refusals_name_the_address() {
        let port = {
            let listener = TcpListener::bind((here(6), 0)).unwrap();
            listener.local_addr().unwrap().port()
        };
        let Err(error) = dial(vec![here(6), here(7)], port, false).await else {
            panic!("nobody listens");
        };
        assert_eq!(error.cause, Cause::Refused);
        let words = format!("connection refused by 127.0.0.6:{port}, and its other address failed too");
        assert_eq!(error.words, words);
    }

    #[tokio::test]
    async fn a_server_without_tls_is_said_to_be_one() {
        let listener = TcpListener::bind((here(8), 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]);
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
            // Until the other side has gone.
            let _ = stream.read(&mut [0; 1024]);
        });
        let Err(error) = dial(vec![here(8)], port, true).await else {
            panic!("it does not speak TLS");
        };
        server.join().unwrap();
        assert_eq!((error.cause, error.cause.code()), (Cause::Tls, "tls"));
        assert!(error.words.contains("does not speak TLS"), "{error}");
    }

    #[tokio::test]
    async fn a_deadline_says_what_took_so_long() {
        struct Never;
        impl Resolve for Never {
            fn resolve(&self, _host: &str) -> BoxFuture<'static, Result<Vec<IpAddr>, ConnectError>> {
                std::future::pending().boxed()
            }
        }
        let tls = Trust::open(None).unwrap();
        let endpoint = Endpoint::plain("127.0.0.1:1".parse().unwrap());
        let named = Endpoint {
            host: "vendor.example".to_owned(),
            ..endpoint
        };
        let by = Instant::now() + Duration::from_millis(20);
        let Err(error) = Network::with_names(tls, Never).dial(&named, by).await else {
            panic!("nobody knows the name");
        };
        assert_eq!(error.cause, Cause::DnsTimeout);
        assert_eq!(error.words, "looking vendor.example up took too long");
    }
}
