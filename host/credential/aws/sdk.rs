//! AWS's own chain, for what profiles can do beyond a key: single sign-on, roles of roles, processes. Built with
//! `--features aws-config`; the crate brings an HTTP client of its own, which is why it is not there otherwise.

use std::time::SystemTime;

use aws_config::BehaviorVersion;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use tokio::sync::OnceCell;

use super::Keys;
use crate::credential::{Error, Fresh};

/// The chain. It reads the process's own environment.
#[derive(Default)]
pub(super) struct Sdk {
    chain: OnceCell<DefaultCredentialsChain>,
}

impl Sdk {
    /// `None`: it knows of no place either.
    pub(super) async fn keys(&self) -> Result<Option<Fresh<Keys>>, Error> {
        let chain = self.chain.get_or_init(chain).await;
        let credentials = match chain.provide_credentials().await {
            Ok(credentials) => credentials,
            Err(CredentialsError::CredentialsNotLoaded(_)) => return Ok(None),
            Err(error) => return Err(failed(&error)),
        };
        let left = |expiry: SystemTime| expiry.duration_since(SystemTime::now()).unwrap_or_default();
        Ok(Some(Fresh {
            lifetime: credentials.expiry().map(left),
            value: Keys(credentials),
        }))
    }
}

async fn chain() -> DefaultCredentialsChain {
    let configuration = aws_config::defaults(BehaviorVersion::latest()).load().await;
    let region = configuration.region().cloned();
    DefaultCredentialsChain::builder().region(region).build().await
}

/// Causes are not told: some repeat what a process or a server wrote.
fn failed(error: &CredentialsError) -> Error {
    Error::Unusable {
        place: "the AWS profile".to_owned(),
        fault: format!("gives no keys ({error})"),
        instead: "run `aws sso login` or `aws sts get-caller-identity` with the same AWS_PROFILE to see why".to_owned(),
    }
}
