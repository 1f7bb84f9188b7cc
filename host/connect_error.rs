//! Why a connection to a vendor could not be opened: a code for policies and metrics, and words for operators.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};

use crate::local_limit;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectError {
    /// What kind of failure it is.
    pub cause: Cause,
    /// What happened, such as `connection refused by 127.0.0.1:443`.
    pub words: String,
}

/// What kept a connection from being opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The host's name has no address, or the name servers did not say.
    Dns,
    /// The host refused the connection.
    Refused,
    /// No way leads to the host.
    Unreachable,
    /// The TLS handshake failed, or the certificate is not trusted.
    Tls,
    /// The name servers did not answer in time.
    DnsTimeout,
    /// The host did not answer in time.
    ConnectTimeout,
    /// The TLS handshake was not over in time.
    TlsTimeout,
    /// This machine or process is at a limit.
    LocalLimit,
    /// Anything else.
    Other,
}

impl Cause {
    /// The code in logs, traces and policies.
    pub const fn code(self) -> &'static str {
        match self {
            Cause::Dns => "dns",
            Cause::Refused => "refused",
            Cause::Unreachable => "unreachable",
            Cause::Tls => "tls",
            Cause::DnsTimeout => "dns_timeout",
            Cause::ConnectTimeout => "connect_timeout",
            Cause::TlsTimeout => "tls_timeout",
            Cause::LocalLimit => "local_limit",
            Cause::Other => "connect",
        }
    }

    /// Whether a deadline passed.
    pub const fn is_timeout(self) -> bool {
        matches!(self, Cause::DnsTimeout | Cause::ConnectTimeout | Cause::TlsTimeout)
    }
}

impl ConnectError {
    /// An error with these words.
    pub fn new(cause: Cause, words: impl Into<String>) -> Self {
        Self {
            cause,
            words: words.into(),
        }
    }

    /// What the system says about a connection to an address.
    pub fn at(address: SocketAddr, error: &io::Error) -> Self {
        // A missing source address looks like a shortage of ports, but is as lasting as a missing route.
        let has_no_source = || error.kind() == io::ErrorKind::AddrNotAvailable && !has_source(address);
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::new(Cause::Refused, format!("connection refused by {address}")),
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Self::new(Cause::Unreachable, format!("no route to {address}"))
            }
            io::ErrorKind::TimedOut => Self::new(Cause::ConnectTimeout, format!("no answer from {address}")),
            _ if has_no_source() => Self::new(
                Cause::Unreachable,
                format!("this machine has no address from which it could reach {address}"),
            ),
            _ => Self::from_system(error),
        }
    }

    /// What the system says where no address is to blame.
    pub fn from_system(error: &io::Error) -> Self {
        let cause = if local_limit::is_local(error) {
            Cause::LocalLimit
        } else {
            Cause::Other
        };
        Self::new(cause, without_code(error))
    }

    /// Why a TLS handshake failed.
    pub fn tls(error: &io::Error) -> Self {
        if local_limit::is_local(error) {
            return Self::from_system(error);
        }
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let words = match inner {
            Some(rustls::Error::InvalidCertificate(why)) => {
                format!("certificate not trusted: {}", why_not_trusted(why))
            }
            Some(rustls::Error::InvalidMessage(_)) => {
                "the TLS handshake failed: the server does not speak TLS".to_owned()
            }
            Some(other) => format!("the TLS handshake failed: {other}"),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                "the TLS handshake failed: the server closed the connection".to_owned()
            }
            None => format!("the TLS handshake failed: {}", without_code(error)),
        };
        Self::new(Cause::Tls, words)
    }
}

/// The usual reasons in words; rustls has the others.
fn why_not_trusted(why: &rustls::CertificateError) -> String {
    use rustls::CertificateError as Why;
    match why {
        Why::Expired | Why::ExpiredContext { .. } => "it has expired".to_owned(),
        Why::NotValidYet | Why::NotValidYetContext { .. } => "it is not valid yet".to_owned(),
        Why::UnknownIssuer => "no authority that the gateway trusts has issued it (see ca_file)".to_owned(),
        Why::NotValidForName | Why::NotValidForNameContext { .. } => "it is for another name".to_owned(),
        Why::Revoked => "it has been revoked".to_owned(),
        other => other.to_string(),
    }
}

/// The system's words without the number behind them.
fn without_code(error: &io::Error) -> String {
    let words = error.to_string();
    let words = words.split(" (os error").next().unwrap_or_default();
    words.to_owned()
}

/// Whether this machine has an address from which it could reach another: a UDP socket finds that out without sending anything.
fn has_source(address: SocketAddr) -> bool {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    UdpSocket::bind(any).and_then(|socket| socket.connect(address)).is_ok()
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for ConnectError {}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::new(Cause::Refused, "connection refused"),
            _ => Self::from_system(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_has_a_code_and_words() {
        let address: SocketAddr = "127.0.0.1:9".parse().unwrap();
        for (code, cause, words) in [
            (111, Cause::Refused, "connection refused by 127.0.0.1:9"),
            (113, Cause::Unreachable, "no route to 127.0.0.1:9"),
            (110, Cause::ConnectTimeout, "no answer from 127.0.0.1:9"),
            (24, Cause::LocalLimit, "Too many open files"),
            (99, Cause::LocalLimit, "Cannot assign requested address"),
            (13, Cause::Other, "Permission denied"),
        ] {
            let error = ConnectError::at(address, &io::Error::from_raw_os_error(code));
            assert_eq!((error.cause, error.words.as_str()), (cause, words));
        }
    }

    #[test]
    fn certificates_are_said_to_be_what_is_wrong() {
        let expired = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        let error = ConnectError::tls(&io::Error::new(io::ErrorKind::InvalidData, expired));
        assert_eq!(error.cause, Cause::Tls);
        assert_eq!(error.words, "certificate not trusted: it has expired");
    }
}
