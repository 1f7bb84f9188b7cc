//! The role of an instance, from its metadata server, version 2.
//!
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html>

use std::time::Duration;

use http::{Method, Uri};

use super::{Keys, until};
use crate::credential::courier::{self, Courier, Letter};
use crate::credential::{Environment, Error, Fresh, text};

/// The metadata server.
pub(super) struct Instance {
    /// Without a slash at the end.
    base: String,
}

/// <https://docs.aws.amazon.com/sdkref/latest/guide/feature-imds-credentials.html>
const DEFAULT: &str = "http://169.254.169.254";
const DEFAULT_IPV6: &str = "http://[fd00:ec2::254]";
const ENDPOINT: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";

/// Elsewhere than on an instance nobody answers, and not even a refusal may come.
const PATIENCE: Duration = Duration::from_secs(1);

const SESSION: &str = "x-aws-ec2-metadata-token";
const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
const WHO: &str = "the instance's metadata server";
const INSTEAD: &str = "give the instance a role, allow two hops for its metadata if this is a container on it, or set \
                       AWS_EC2_METADATA_DISABLED=true if this is no instance";

impl Instance {
    pub(super) fn from_environment(environment: Environment<'_>) -> Result<Option<Self>, Error> {
        let is = |variable: &str, value: &str| environment(variable).is_some_and(|set| set.eq_ignore_ascii_case(value));
        if is("AWS_EC2_METADATA_DISABLED", "true") {
            return Ok(None);
        }
        let default = match is("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv6") {
            true => DEFAULT_IPV6,
            false => DEFAULT,
        };
        let base = environment(ENDPOINT).unwrap_or_else(|| default.to_owned());
        let base = base.trim_end_matches('/').to_owned();
        courier::url(ENDPOINT, &base)?;
        Ok(Some(Self { base }))
    }

    pub(super) async fn keys(&self, courier: &Courier) -> Result<Fresh<Keys>, Error> {
        let session = self.session(courier).await?;
        let role = self.ask(courier, &session, ROLES).await?.line()?;
        let reply = self.ask(courier, &session, &format!("{ROLES}{role}")).await?;
        let object = reply.object()?;
        if let Some(code) = text(&object, "Code").filter(|code| *code != "Success") {
            return Err(reply.malformed(&format!("says {}", code.chars().take(100).collect::<String>())));
        }
        let value = Keys::read(&reply, &object, ["AccessKeyId", "SecretAccessKey", "Token"])?;
        let left = text(&object, "Expiration").and_then(until);
        let left = left.ok_or_else(|| reply.malformed("has no Expiration"))?;
        Ok(Fresh {
            value,
            lifetime: Some(stretched(left)),
        })
    }

    /// A session with the server, which proves that no proxy asks.
    async fn session(&self, courier: &Courier) -> Result<String, Error> {
        let letter = Letter {
            method: Method::PUT,
            within: Some(PATIENCE),
            ..Letter::get(WHO, self.url("/latest/api/token")?, INSTEAD)
        };
        let letter = letter.header("x-aws-ec2-metadata-token-ttl-seconds", "300");
        courier.ask(letter).await?.line()
    }

    async fn ask(&self, courier: &Courier, session: &str, path: &str) -> Result<courier::Reply, Error> {
        let letter = Letter::get(WHO, self.url(path)?, INSTEAD).header(SESSION, session);
        courier.ask(letter).await
    }

    fn url(&self, path: &str) -> Result<Uri, Error> {
        courier::url(ENDPOINT, &format!("{}{path}", self.base))
    }
}

/// When the server cannot renew keys it gives the old ones out, and AWS goes on accepting them for a while.
///
/// <https://docs.aws.amazon.com/sdkref/latest/guide/feature-static-stability.html>
fn stretched(left: Duration) -> Duration {
    const LEAST: Duration = Duration::from_secs(10 * 60);
    if left.is_zero() { LEAST } else { left }
}
