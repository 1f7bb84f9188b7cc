//! TLS on both sides: our own certificate for clients, and whom to trust among vendors. Both are replaced while the gateway runs: new
//! connections get what is newest, open ones keep what they have.

use std::io;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::config::TlsFiles;

/// The certificate that clients are shown.
#[derive(Debug)]
pub struct Certificate {
    current: ArcSwap<CertifiedKey>,
}

impl Certificate {
    /// Reads the operator's certificate and key.
    pub fn open(files: &TlsFiles) -> io::Result<Arc<Self>> {
        let current = ArcSwap::from(certified_key(files)?);
        Ok(Arc::new(Self { current }))
    }

    /// Shows the next clients what the files hold now. What cannot be used changes nothing.
    pub fn renew(&self, files: &TlsFiles) -> io::Result<()> {
        self.current.store(certified_key(files)?);
        Ok(())
    }

    /// Accepts clients with this certificate, HTTP/2 and HTTP/1.1.
    pub fn acceptor(self: &Arc<Self>) -> io::Result<TlsAcceptor> {
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let mut config = builder
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn certified_key(files: &TlsFiles) -> io::Result<Arc<CertifiedKey>> {
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unreadable(&files.key, &error))?;
    let chain = certificates(&files.certificate)?;
    let certified = CertifiedKey::from_der(chain, key, &provider());
    Ok(Arc::new(certified.map_err(|error| unreadable(&files.key, &error))?))
}

/// Whom to trust among vendors: the well-known authorities and those of the operator.
pub struct Trust {
    current: ArcSwap<ClientConfig>,
}

impl Trust {
    /// Trusts the well-known authorities and those in `ca_file`.
    pub fn open(ca_file: Option<&Path>) -> io::Result<Arc<Self>> {
        let current = ArcSwap::from(trusting(ca_file)?);
        Ok(Arc::new(Self { current }))
    }

    /// Trusts whom this says.
    #[cfg(test)]
    pub fn of(config: ClientConfig) -> Arc<Self> {
        let current = ArcSwap::from_pointee(config);
        Arc::new(Self { current })
    }

    /// Trusts what the file holds now. What cannot be used changes nothing.
    pub fn renew(&self, ca_file: Option<&Path>) -> io::Result<()> {
        self.current.store(trusting(ca_file)?);
        Ok(())
    }

    /// Opens TLS to a vendor.
    pub fn connector(&self) -> TlsConnector {
        TlsConnector::from(self.current.load_full())
    }
}

fn trusting(ca_file: Option<&Path>) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if let Some(file) = ca_file {
        for certificate in certificates(file)? {
            roots.add(certificate).map_err(|error| unreadable(file, &error))?;
        }
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    all.map_err(|error| unreadable(file, &error))
}

fn unreadable(file: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{} cannot be used: {error}", file.display()))
}
