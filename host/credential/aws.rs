//! Keys of AWS: what they are, and who gives them out. [`signature`] signs with them and checks signatures of clients.

pub mod signature;

mod container;
mod instance;
mod profile;
mod web_identity;

#[cfg(feature = "aws-config")]
mod sdk;

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use futures_util::future::BoxFuture;
use http::Uri;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::courier::{self, Courier, Reply};
use super::{Environment, Error, Fetch, Fresh, Object, Token, text};
use crate::config::Secret;
use container::Container;
use instance::Instance;
use profile::Profile;
pub use signature::{Scope, Unsigned, Why, access_key_id, sign, verify};
use web_identity::WebIdentity;

/// An access key with its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys(Credentials);

impl Keys {
    /// A long-lived key, or with a session token a short-lived one.
    pub fn new(access_key_id: &str, secret: &Secret, session_token: Option<&Secret>) -> Self {
        let token = session_token.map(|token| token.reveal().to_owned());
        Self(Credentials::new(
            access_key_id,
            secret.reveal(),
            token,
            None,
            "pointsman",
        ))
    }

    /// Who signs. Not a secret.
    pub fn access_key_id(&self) -> &str {
        self.0.access_key_id()
    }

    /// A text of somebody else's without the secrets in it.
    pub fn redact(&self, text: &str) -> String {
        let text = text.replace(self.0.secret_access_key(), "[key]");
        match self.0.session_token() {
            Some(token) => text.replace(token, "[key]"),
            None => text,
        }
    }

    /// Reads an answer whose members are called as the container's and the instance's are.
    fn read(reply: &Reply, object: &Object, names: [&str; 3]) -> Result<Self, Error> {
        let [id, secret, token] = names.map(|name| text(object, name).ok_or_else(|| format!("has no {name}")));
        let malformed = |fault: String| reply.malformed(&fault);
        let secret = Secret::new(secret.map_err(malformed)?);
        let token = Secret::new(token.map_err(malformed)?);
        Ok(Self::new(id.map_err(malformed)?, &secret, Some(&token)))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.access_key_id();
        f.debug_struct("Keys")
            .field("access_key_id", &id)
            .finish_non_exhaustive()
    }
}

/// Where keys are looked for, in AWS's order: variables, a web identity, a profile, the container's role, the instance's role. The
/// first place that is configured is the one that counts.
///
/// <https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html>
pub struct Chain {
    courier: Courier,
    places: Vec<Place>,
}

/// One place; the order of the variants is the order of the chain.
enum Place {
    /// Given outright, or by variables.
    Fixed(Keys),
    WebIdentity(WebIdentity),
    Profile(Profile),
    Container(Container),
    Instance(Instance),
}

/// The variable with a key for Bedrock that is sent as it is, without signing.
pub const BEARER_VARIABLE: &str = "AWS_BEARER_TOKEN_BEDROCK";

/// The Bedrock key in [`BEARER_VARIABLE`], if it is set. As in AWS's own SDKs it goes before all keys that requests are signed with, and
/// it is sent as it is, so only over TLS or to this machine.
///
/// <https://docs.aws.amazon.com/bedrock/latest/userguide/api-keys-use.html>
pub fn bearer_token(environment: Environment<'_>, to: &Uri) -> Result<Option<Token>, Error> {
    let Some(key) = environment(BEARER_VARIABLE) else {
        return Ok(None);
    };
    if !courier::is_safe(to) {
        return Err(Error::Unusable {
            place: BEARER_VARIABLE.to_owned(),
            fault: "would be sent unencrypted".to_owned(),
            instead: "write an https:// address as the target's base_url, or unset it".to_owned(),
        });
    }
    let token = Token::new(key.trim()).ok_or_else(|| Error::Unusable {
        place: BEARER_VARIABLE.to_owned(),
        fault: "holds a character that a header cannot carry".to_owned(),
        instead: "set it to the Bedrock API key alone".to_owned(),
    })?;
    Ok(Some(token))
}

/// The files with keys that the environment names.
pub fn credential_files(environment: Environment<'_>) -> Vec<PathBuf> {
    Profile::from_environment(environment).into_files()
}

impl Chain {
    /// All places that the environment leaves open. Nothing is asked and no file is read yet.
    pub fn from_environment(environment: Environment<'_>, courier: Courier) -> Result<Self, Error> {
        let fixed = keys_in_variables(environment)?.map(Place::Fixed);
        let web_identity = WebIdentity::from_environment(environment)?.map(Place::WebIdentity);
        let profile = Some(Place::Profile(Profile::from_environment(environment)));
        let container = Container::from_environment(environment)?.map(Place::Container);
        let instance = Instance::from_environment(environment)?.map(Place::Instance);
        let places = [fixed, web_identity, profile, container, instance];
        Ok(Self {
            courier,
            places: places.into_iter().flatten().collect(),
        })
    }

    /// The keys of the configuration and nothing else.
    pub fn fixed(keys: Keys, courier: Courier) -> Self {
        Self {
            courier,
            places: vec![Place::Fixed(keys)],
        }
    }

    /// One profile of the shared files and nothing else.
    pub fn profile(name: &str, environment: Environment<'_>, courier: Courier) -> Self {
        Self {
            courier,
            places: vec![Place::Profile(Profile::named(name, environment))],
        }
    }

    async fn first(&self) -> Result<Fresh<Keys>, Error> {
        let mut silent = String::new();
        for place in &self.places {
            match place.keys(&self.courier).await {
                Ok(Some(keys)) => return Ok(keys),
                Ok(None) => {}
                // Most machines are no instances: nobody answers there.
                Err(error @ Error::Unreachable { .. }) if matches!(place, Place::Instance(_)) => {
                    silent = format!(" ({error})");
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::Missing {
            what: "AWS credentials",
            instead: format!(
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or {BEARER_VARIABLE}, or AWS_PROFILE to a profile of \
                 ~/.aws/credentials, or give this machine or container a role{silent}"
            ),
        })
    }
}

impl Fetch<Keys> for Chain {
    fn fetch(&self) -> BoxFuture<'_, Result<Fresh<Keys>, Error>> {
        Box::pin(self.first())
    }
}

impl Place {
    /// `None`: it is not configured.
    async fn keys(&self, courier: &Courier) -> Result<Option<Fresh<Keys>>, Error> {
        match self {
            Self::Fixed(keys) => Ok(Some(lasting(keys.clone()))),
            Self::WebIdentity(role) => role.keys(courier).await.map(Some),
            Self::Profile(profile) => profile.keys().await,
            Self::Container(container) => container.keys(courier).await.map(Some),
            Self::Instance(instance) => instance.keys(courier).await.map(Some),
        }
    }
}

/// `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, with `AWS_SESSION_TOKEN` if they are short-lived.
fn keys_in_variables(environment: Environment<'_>) -> Result<Option<Keys>, Error> {
    const ID: &str = "AWS_ACCESS_KEY_ID";
    const SECRET: &str = "AWS_SECRET_ACCESS_KEY";
    let alone = |set: &str, unset: &str| Error::Unusable {
        place: set.to_owned(),
        fault: format!("is set and {unset} is not"),
        instead: "set both or neither".to_owned(),
    };
    match (environment(ID), environment(SECRET)) {
        (Some(id), Some(secret)) => {
            let token = environment("AWS_SESSION_TOKEN").map(Secret::new);
            Ok(Some(Keys::new(&id, &Secret::new(secret), token.as_ref())))
        }
        (None, None) => Ok(None),
        (Some(_), None) => Err(alone(ID, SECRET)),
        (None, Some(_)) => Err(alone(SECRET, ID)),
    }
}

fn lasting(keys: Keys) -> Fresh<Keys> {
    Fresh {
        value: keys,
        lifetime: None,
    }
}

/// How long it is until a moment such as `2026-11-23T12:00:00Z`; nothing if that has passed.
fn until(moment: &str) -> Option<Duration> {
    let moment = OffsetDateTime::parse(moment, &Rfc3339).ok()?;
    let left = moment - OffsetDateTime::from(SystemTime::now());
    Some(Duration::try_from(left).unwrap_or_default())
}

#[cfg(test)]
mod tests;
