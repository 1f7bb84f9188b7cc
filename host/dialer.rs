//! How connections to vendors come to be: names, addresses and TLS.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

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
    /// Opens a connection. How long that may take is for the caller to say.
    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> Dialling<'a>;
}

/// A connection that is being opened.
pub type Dialling<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send + 'a>>;

/// Opens connections over TCP, with TLS where the endpoint wants it.
pub struct Network {
    tls: TlsConnector,
}

impl Network {
    /// Trusts whom `tls` trusts.
    pub fn new(tls: Arc<rustls::ClientConfig>) -> Self {
        let tls = TlsConnector::from(tls);
        Self { tls }
    }

    async fn open(&self, endpoint: &Endpoint) -> io::Result<Box<dyn Stream>> {
        let tcp = connect(endpoint).await?;
        tcp.set_nodelay(true)?;
        if !endpoint.tls {
            return Ok(Box::new(tcp));
        }
        let name = ServerName::try_from(endpoint.host.clone()).map_err(io::Error::other)?;
        Ok(Box::new(self.tls.connect(name, tcp).await?))
    }
}

impl Dial for Network {
    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> Dialling<'a> {
        Box::pin(self.open(endpoint))
    }
}

/// Tries every address of the host; a dead one may not eat the time of those behind it.
async fn connect(endpoint: &Endpoint) -> io::Result<TcpStream> {
    const EACH: Duration = Duration::from_secs(2);
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port))
        .await?
        .collect();
    let (last, others) = addresses
        .split_last()
        .ok_or_else(|| io::Error::other("the name has no address"))?;
    for address in others {
        if let Ok(Ok(stream)) = tokio::time::timeout(EACH, TcpStream::connect(address)).await {
            return Ok(stream);
        }
    }
    TcpStream::connect(last).await
}
