//! The role of a container: ECS, EKS Pod Identity, and whatever else speaks like them.
//!
//! <https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html>

use std::net::IpAddr;
use std::path::PathBuf;

use http::Uri;

use super::{Keys, until};
use crate::config::Secret;
use crate::credential::courier::{self, Courier, Letter};
use crate::credential::{Environment, Error, Fresh, read_file, text};

/// Who gives the role's keys out, and how a container proves that it is one.
pub(super) struct Container {
    url: Uri,
    token: Option<Proof>,
}

enum Proof {
    Text(Secret),
    /// Read anew each time: it is replaced while we run.
    File(PathBuf),
}

/// Where `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI` is relative to.
const ECS: &str = "http://169.254.170.2";

const RELATIVE: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
const FULL: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
const TOKEN_FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";

impl Container {
    pub(super) fn from_environment(environment: Environment<'_>) -> Result<Option<Self>, Error> {
        let url = match (environment(RELATIVE), environment(FULL)) {
            (Some(path), _) => courier::url(RELATIVE, &format!("{ECS}{path}"))?,
            (None, Some(url)) => checked(courier::url(FULL, &url)?)?,
            (None, None) => return Ok(None),
        };
        let file = environment(TOKEN_FILE).map(|path| Proof::File(path.into()));
        let text = || environment("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(|token| Proof::Text(Secret::new(token)));
        Ok(Some(Self {
            url,
            token: file.or_else(text),
        }))
    }

    pub(super) async fn keys(&self, courier: &Courier) -> Result<Fresh<Keys>, Error> {
        const INSTEAD: &str =
            "check that the container has a role, and AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or …_FULL_URI";
        let mut letter = Letter::get("the container's credential server", self.url.clone(), INSTEAD);
        if let Some(token) = &self.token {
            letter = letter.header("authorization", token.read().await?.reveal());
        }
        let reply = courier.ask(letter).await?;
        let object = reply.object()?;
        let keys = Keys::read(&reply, &object, ["AccessKeyId", "SecretAccessKey", "Token"])?;
        let lifetime = text(&object, "Expiration").and_then(until);
        if lifetime.is_none() {
            return Err(reply.malformed("has no Expiration"));
        }
        Ok(Fresh { value: keys, lifetime })
    }
}

impl Proof {
    async fn read(&self) -> Result<Secret, Error> {
        match self {
            Self::Text(token) => Ok(token.clone()),
            Self::File(path) => {
                let unusable = |fault| Error::Unusable {
                    place: path.display().to_string(),
                    fault,
                    instead: format!("point {TOKEN_FILE} at the file that the platform mounts"),
                };
                let token = read_file(path).await.map_err(|fault| fault.error(unusable))?;
                Ok(Secret::new(token.trim()))
            }
        }
    }
}

/// Keys are fetched over TLS, from this machine, or from the addresses at which the platforms give them out.
fn checked(url: Uri) -> Result<Uri, Error> {
    const PLATFORMS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let address = host.parse::<IpAddr>().ok();
    let is_platform = PLATFORMS
        .iter()
        .any(|platform| platform.parse().ok() == address && address.is_some());
    if is_platform || courier::is_safe(&url) {
        return Ok(url);
    }
    Err(Error::Unusable {
        place: FULL.to_owned(),
        fault: "is at an address where anybody could listen".to_owned(),
        instead: "write an https:// address, or leave it as the platform sets it".to_owned(),
    })
}
