//! What profiles can do beyond a key, done by AWS's own code: single sign-on, roles of roles, processes. Built with
//! `--features aws-config`; the crate brings an HTTP client of its own, which is why it is not there otherwise.

use std::time::SystemTime;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

use super::Keys;
use crate::credential::{Error, Fresh};

/// The keys of a profile. Reads the files that the process's own environment names.
pub(super) async fn keys(profile: &str) -> Result<Fresh<Keys>, Error> {
    let http = Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https();
    let surroundings = ProviderConfig::with_default_region().await.with_http_client(http);
    let provider = ProfileFileCredentialsProvider::builder()
        .configure(&surroundings)
        .profile_name(profile)
        .build();
    let credentials = provider.provide_credentials().await.map_err(|error| Error::Unusable {
        place: format!("AWS profile `{profile}`"),
        // Its causes are not told: some repeat what a process or a server wrote.
        fault: format!("gives no keys ({error})"),
        instead: format!("run `aws sts get-caller-identity --profile {profile}` to see why, or `aws sso login`"),
    })?;
    let left = |expiry: SystemTime| expiry.duration_since(SystemTime::now()).unwrap_or_default();
    Ok(Fresh {
        lifetime: credentials.expiry().map(left),
        value: Keys(credentials),
    })
}
