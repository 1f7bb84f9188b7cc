//! A profile of the files that AWS's tools share: `~/.aws/credentials` and `~/.aws/config`.
//!
//! <https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html>

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{Keys, lasting};
use crate::config::Secret;
use crate::credential::{Environment, Error, Fresh, read_file};

/// A profile, wherever it is.
pub(super) struct Profile {
    name: String,
    /// Somebody asked for this one: it must be there.
    is_asked_for: bool,
    credentials: Option<PathBuf>,
    config: Option<PathBuf>,
}

/// Other ways to a key than writing it into the file. The vendor's own code knows them.
const BEYOND_KEYS: [&str; 5] = [
    "sso_session",
    "sso_start_url",
    "role_arn",
    "credential_process",
    "login_session",
];

type Settings = HashMap<String, String>;

impl Profile {
    /// `AWS_PROFILE`, or `default`.
    pub(super) fn from_environment(environment: Environment<'_>) -> Self {
        let name = environment("AWS_PROFILE");
        Self {
            is_asked_for: name.is_some(),
            ..Self::named(name.as_deref().unwrap_or("default"), environment)
        }
    }

    pub(super) fn named(name: &str, environment: Environment<'_>) -> Self {
        let home = environment("HOME").or_else(|| environment("USERPROFILE"));
        let path = |variable: &str, file: &str| {
            let own = home.as_ref().map(|home| Path::new(home).join(".aws").join(file));
            environment(variable).map(PathBuf::from).or(own)
        };
        Self {
            name: name.to_owned(),
            is_asked_for: true,
            credentials: path("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
            config: path("AWS_CONFIG_FILE", "config"),
        }
    }

    /// Where it is read from.
    pub(super) fn into_files(self) -> Vec<PathBuf> {
        self.credentials.into_iter().chain(self.config).collect()
    }

    /// `None`: there is no such profile, or no way to a key in it, and nobody asked for it.
    pub(super) async fn keys(&self) -> Result<Option<Fresh<Keys>>, Error> {
        let Some(settings) = self.settings().await? else {
            return if self.is_asked_for {
                Err(self.unusable("is in neither file"))
            } else {
                Ok(None)
            };
        };
        let setting = |name: &str| settings.get(name).filter(|value| !value.is_empty());
        let id = setting("aws_access_key_id");
        let secret = setting("aws_secret_access_key");
        if let (Some(id), Some(secret)) = (id, secret) {
            let token = setting("aws_session_token").map(Secret::new);
            let keys = Keys::new(id, &Secret::new(secret), token.as_ref());
            return Ok(Some(lasting(keys)));
        }
        if id.is_some() || secret.is_some() {
            return Err(self.unusable("has only half a key"));
        }
        match BEYOND_KEYS.iter().find(|name| settings.contains_key(**name)) {
            Some(name) => self.keys_beyond(name).await.map(Some),
            None if self.is_asked_for => Err(self.unusable("has no key")),
            None => Ok(None),
        }
    }

    #[cfg(feature = "aws-config")]
    async fn keys_beyond(&self, _: &str) -> Result<Fresh<Keys>, Error> {
        super::sdk::keys(&self.name).await
    }

    #[cfg(not(feature = "aws-config"))]
    async fn keys_beyond(&self, setting: &str) -> Result<Fresh<Keys>, Error> {
        Err(self.unusable(&format!("needs {setting}, which this build does not have")))
    }

    /// What both files say of the profile; the one for credentials goes first.
    async fn settings(&self) -> Result<Option<Settings>, Error> {
        let config = read(self.config.as_deref()).await?;
        let credentials = read(self.credentials.as_deref()).await?;
        let sections = [
            section(&config, |title| is_profile(title, &self.name)),
            section(&credentials, |title| title == self.name),
        ];
        let found: Vec<_> = sections.into_iter().flatten().collect();
        Ok((!found.is_empty()).then(|| found.into_iter().flatten().collect()))
    }

    fn unusable(&self, fault: &str) -> Error {
        let file = |path: &Option<PathBuf>| path.as_deref().unwrap_or(Path::new("~/.aws")).display().to_string();
        Error::Unusable {
            place: format!("AWS profile `{}`", self.name),
            fault: fault.to_owned(),
            instead: format!(
                "write aws_access_key_id and aws_secret_access_key under [{}] in {}, or build with --features aws-config for all \
                 that profiles can do (read as well: {})",
                self.name,
                file(&self.credentials),
                file(&self.config)
            ),
        }
    }
}

/// Without a file, nothing.
async fn read(path: Option<&Path>) -> Result<String, Error> {
    let Some(path) = path.filter(|path| path.exists()) else {
        return Ok(String::new());
    };
    let unusable = |fault| Error::Unusable {
        place: path.display().to_string(),
        fault,
        instead: "make it readable for this user, or point AWS_SHARED_CREDENTIALS_FILE and AWS_CONFIG_FILE elsewhere"
            .to_owned(),
    };
    read_file(path).await.map_err(|fault| fault.error(unusable))
}

/// In `config`, a title is `default` or `profile NAME`.
fn is_profile(title: &str, name: &str) -> bool {
    let named = title
        .strip_prefix("profile")
        .filter(|rest| rest.starts_with([' ', '\t']));
    named.map(str::trim) == Some(name) || (title == name && name == "default")
}

/// The settings of a section. Lines that are set in belong to a setting above that has parts of its own, and none of those matters.
fn section(text: &str, is_wanted: impl Fn(&str) -> bool) -> Option<Settings> {
    let mut found: Option<Settings> = None;
    let mut inside = false;
    for line in text.lines() {
        let is_set_in = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(title) = line.strip_prefix('[') {
            inside = is_wanted(title.split(']').next().unwrap_or_default().trim());
            if inside {
                found.get_or_insert_default();
            }
        } else if let Some((name, value)) = line.split_once('=').filter(|_| inside && !is_set_in) {
            let settings = found.get_or_insert_default();
            settings.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    found
}
