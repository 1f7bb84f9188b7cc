//! Takes the addresses of clients and operators, and says what to do where that fails.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};

use anyhow::anyhow;
use pointsman::admin;
use pointsman::config::Config;
use pointsman::server::Listener;

/// Takes both, before anything is loaded: a second gateway should be told at once.
pub fn bind(config: &Config) -> anyhow::Result<(Listener, TcpListener)> {
    let clients = Listener::bind(config).map_err(|error| failed("listen", config.listen, config, &error))?;
    let operators = admin::bind(config).map_err(|error| failed("admin", config.admin, config, &error))?;
    Ok((clients, operators))
}

fn failed(setting: &str, address: SocketAddr, config: &Config, error: &io::Error) -> anyhow::Error {
    let place = match &config.file {
        Some(file) => format!("write another address as `{setting}` in {}", file.display()),
        None => "start it elsewhere".to_owned(),
    };
    let elsewhere = format!("{place}, such as --{setting} {}", example(address));
    let advice = match error.kind() {
        ErrorKind::AddrInUse => {
            format!("another program listens there, maybe another gateway: stop it, or {elsewhere}")
        }
        ErrorKind::AddrNotAvailable => format!("this machine has no such address: {elsewhere}"),
        ErrorKind::PermissionDenied => format!("this user may not use the port: {elsewhere}, or allow it to"),
        _ => elsewhere,
    };
    anyhow!("cannot listen on {address}, the `{setting}` address: {error}; {advice}")
}

/// An address that is probably free.
fn example(address: SocketAddr) -> SocketAddr {
    let port = match address.port() {
        port @ 1024..=65_435 => port + 100,
        _ => 8090,
    };
    let host = match address.ip() {
        ip if ip.is_loopback() || ip.is_unspecified() => ip,
        _ => std::net::Ipv4Addr::LOCALHOST.into(),
    };
    SocketAddr::new(host, port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_another_address_of_the_same_kind() {
        for (taken, free) in [
            ("127.0.0.1:8080", "127.0.0.1:8180"),
            ("0.0.0.0:80", "0.0.0.0:8090"),
            ("[::1]:8080", "[::1]:8180"),
            ("10.0.0.7:65500", "127.0.0.1:8090"),
        ] {
            assert_eq!(example(taken.parse().unwrap()), free.parse().unwrap());
        }
    }
}
