//! Files on disk that a configuration is or refers to. All are small: what is larger is the wrong file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Bytes of any file read here: far above a long configuration or the bundle of all well-known authorities (about 200
/// KiB).
const MAX_BYTES: u64 = 4 << 20;

/// All bytes of a file.
pub(super) fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("longer than {} MiB", MAX_BYTES >> 20)));
    }
    Ok(bytes)
}

/// Why a file is not a PEM file of certificates; `None` when it is.
pub(super) fn fault_of_certificates(path: &Path) -> Option<String> {
    let bytes = match bytes(path) {
        Ok(bytes) => bytes,
        Err(error) => return Some(format!("cannot be read: {error}")),
    };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let has_some = certificates.is_ok_and(|certificates| !certificates.is_empty());
    (!has_some).then(|| "holds no certificate in PEM format".to_owned())
}

/// Why a file is not a PEM file of a private key; `None` when it is.
pub(super) fn fault_of_private_key(path: &Path) -> Option<String> {
    match bytes(path) {
        Ok(bytes) => PrivateKeyDer::from_pem_slice(&bytes)
            .err()
            .map(|_| "holds no private key in PEM format".to_owned()),
        Err(error) => Some(format!("cannot be read: {error}")),
    }
}
