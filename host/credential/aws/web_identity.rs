//! A role for a web identity: on EKS, a pod's service account stands for a role (IRSA).
//!
//! <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html>

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use super::Keys;
use crate::credential::courier::{self, Courier, Letter, Reply};
use crate::credential::{Environment, Error, Fresh, Object, read_file, seconds, text};

/// The role and what proves the identity.
pub(super) struct WebIdentity {
    url: Uri,
    role: String,
    session: String,
    token_file: PathBuf,
}

const TOKEN_FILE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";
const ROLE: &str = "AWS_ROLE_ARN";
const ENDPOINT: &str = "AWS_ENDPOINT_URL_STS";

impl WebIdentity {
    pub(super) fn from_environment(environment: Environment<'_>) -> Result<Option<Self>, Error> {
        let Some(token_file) = environment(TOKEN_FILE) else {
            return Ok(None);
        };
        let role = environment(ROLE).ok_or_else(|| Error::Unusable {
            place: TOKEN_FILE.to_owned(),
            fault: format!("is set and {ROLE} is not"),
            instead: "set both or neither".to_owned(),
        })?;
        let region = environment("AWS_REGION").or_else(|| environment("AWS_DEFAULT_REGION"));
        let default = match region {
            Some(region) if region.starts_with("cn-") => format!("https://sts.{region}.amazonaws.com.cn"),
            Some(region) => format!("https://sts.{region}.amazonaws.com"),
            None => "https://sts.amazonaws.com".to_owned(),
        };
        let url = environment(ENDPOINT).unwrap_or(default);
        Ok(Some(Self {
            url: courier::safe_url(ENDPOINT, &url)?,
            role,
            session: environment("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| "pointsman".to_owned()),
            token_file: token_file.into(),
        }))
    }

    pub(super) async fn keys(&self, courier: &Courier) -> Result<Fresh<Keys>, Error> {
        const INSTEAD: &str = "check that AWS_ROLE_ARN trusts this identity, and AWS_WEB_IDENTITY_TOKEN_FILE";
        let unusable = |fault| Error::Unusable {
            place: self.token_file.display().to_string(),
            fault,
            instead: format!("point {TOKEN_FILE} at the file that the platform mounts"),
        };
        let token = read_file(&self.token_file)
            .await
            .map_err(|fault| fault.error(unusable))?;
        let letter = Letter::post("AWS's token service", self.url.clone(), INSTEAD)
            .field("Action", "AssumeRoleWithWebIdentity")
            .field("Version", "2011-06-15")
            .field("RoleArn", &self.role)
            .field("RoleSessionName", &self.session)
            .field("WebIdentityToken", token.trim());
        let reply = courier.ask(letter).await?;
        read(&reply, &reply.object()?)
    }
}

/// In JSON, the moment of expiry is a number of seconds.
fn read(reply: &Reply, object: &Object) -> Result<Fresh<Keys>, Error> {
    let member = |object: &Object, name: &str| object.get(name).and_then(|value| value.as_object()).cloned();
    let found = member(object, "AssumeRoleWithWebIdentityResponse")
        .and_then(|response| member(&response, "AssumeRoleWithWebIdentityResult"))
        .and_then(|result| member(&result, "Credentials"));
    let credentials = found.ok_or_else(|| reply.malformed("has no Credentials"))?;
    let value = Keys::read(reply, &credentials, ["AccessKeyId", "SecretAccessKey", "SessionToken"])?;
    Ok(Fresh {
        value,
        lifetime: Some(lifetime(&credentials).ok_or_else(|| reply.malformed("has no Expiration"))?),
    })
}

fn lifetime(credentials: &Object) -> Option<Duration> {
    if let Some(moment) = text(credentials, "Expiration").and_then(super::until) {
        return Some(moment);
    }
    let float = credentials.get("Expiration").and_then(|value| value.as_f64());
    let at = seconds(credentials, "Expiration").or(float.map(|at| at as u64))?;
    let at = std::time::UNIX_EPOCH.checked_add(Duration::from_secs(at))?;
    Some(at.duration_since(std::time::SystemTime::now()).unwrap_or_default())
}
