//! Files on disk that a configuration is or refers to. All are small: what is larger is the wrong file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustls::crypto::ring;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Bytes of any file read here: far above a long configuration or the bundle of all well-known authorities (about 200
/// KiB).
const MAX_BYTES: u64 = 4 << 20;

/// All bytes of a regular file. A pipe or a device could keep a reload waiting for ever.
pub(super) fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    whole(file)
}

/// All bytes of a file, which may be a pipe that somebody writes to.
pub(super) fn bytes_or_pipe(path: &Path) -> io::Result<Vec<u8>> {
    whole(File::open(path)?)
}

fn whole(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("longer than {} MiB", MAX_BYTES >> 20)));
    }
    Ok(bytes)
}

/// Why the bytes of a file are no certificates in PEM; `None` when they are.
pub(super) fn fault_of_certificates(bytes: &[u8]) -> Option<String> {
    let has_some = certificates(bytes).is_some_and(|certificates| !certificates.is_empty());
    (!has_some).then(|| "holds no certificate in PEM format".to_owned())
}

/// Why the bytes of a file are no private key in PEM; `None` when they are.
pub(super) fn fault_of_private_key(bytes: &[u8]) -> Option<String> {
    let key = PrivateKeyDer::from_pem_slice(bytes);
    key.err().map(|_| "holds no private key in PEM format".to_owned())
}

/// Why a certificate cannot be served with a private key; `None` when it can. Both have been found to be what they should.
pub(super) fn fault_of_pair(certificate: &[u8], key: &[u8]) -> Option<String> {
    let (chain, key) = (certificates(certificate)?, PrivateKeyDer::from_pem_slice(key).ok()?);
    match CertifiedKey::from_der(chain, key, &ring::default_provider()) {
        Ok(_) => None,
        Err(rustls::Error::InconsistentKeys(_)) => Some("is not the key of the certificate".to_owned()),
        Err(error) => Some(format!("cannot be used: {error}")),
    }
}

fn certificates(bytes: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(bytes).collect::<Result<_, _>>().ok()
}
