//! Credentials of the clouds: keys and tokens that must be fetched, kept fresh and signed with. A vendor's plain key is not here: it
//! is a [`Secret`] of the configuration.
//!
//! The vendors' own crate does the signing where there is one; nobody's HTTP stack comes along. Nothing here knows of targets or
//! attempts, and no secret is ever in an error, a log line or a `Debug` output.

pub mod aws;
pub mod azure;
pub mod courier;
pub mod google;
pub mod source;

use std::path::{Path, PathBuf};

use http::HeaderValue;
use serde_json::{Map, Value};

use crate::config::Secret;
use crate::local_limit;
pub use courier::Courier;
pub use source::{Fetch, Fresh, Source};

/// Looks up an environment variable. The process's own: [`process_environment`].
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Why there is no credential, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// None of the places where it could be has one.
    #[error("no {what} found: {instead}")]
    Missing {
        /// Such as `AWS credentials`.
        what: &'static str,
        /// What to do.
        instead: String,
    },
    /// A variable or a file holds something that cannot be used.
    #[error("{place} {fault}: {instead}")]
    Unusable {
        /// The variable's name, or the file's path.
        place: String,
        /// What is wrong.
        fault: String,
        /// What to do.
        instead: String,
    },
    /// Nobody who gives credentials out could be asked.
    #[error("{who} at {host} gave no answer ({fault}): {instead}")]
    Unreachable {
        /// Such as `the metadata server`.
        who: &'static str,
        /// Host and port.
        host: String,
        /// What went wrong.
        fault: String,
        /// What to do.
        instead: &'static str,
    },
    /// Whoever gives credentials out said no.
    #[error("{who} at {host} answered {status} {said}: {instead}")]
    Refused {
        /// Such as `the metadata server`.
        who: &'static str,
        /// Host and port.
        host: String,
        /// Status of the answer.
        status: u16,
        /// Its error code and message, without secrets.
        said: String,
        /// What to do.
        instead: &'static str,
    },
    /// The answer is not what was asked for.
    #[error(
        "{who} at {host} gave an answer that {fault}: check that the address is right and no proxy answers instead"
    )]
    Malformed {
        /// Such as `the metadata server`.
        who: &'static str,
        /// Host and port.
        host: String,
        /// What is wrong with it.
        fault: String,
    },
    /// This machine or process is at a limit: that says nothing about the credential.
    #[error("{0}")]
    LocalLimit(String),
    /// A request cannot be signed.
    #[error("the request cannot be signed: {0}")]
    Signing(String),
}

/// A bearer token.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    secret: Secret,
    header: HeaderValue,
}

impl Token {
    /// Wraps a token. `None`: it is empty, or a header could not carry it.
    pub fn new(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let mut header = HeaderValue::try_from(format!("Bearer {text}")).ok().filter(|_| fits)?;
        header.set_sensitive(true);
        Some(Self {
            secret: Secret::new(text),
            header,
        })
    }

    /// The value of `authorization`, marked as sensitive.
    pub fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    /// A text of somebody else's without this token in it.
    pub fn redact(&self, text: &str) -> String {
        self.secret.redact(text)
    }
}

/// The environment of this process. A variable that is empty counts as not set.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The files that the environment names and that credentials of clouds come from. One that is exchanged for a token each time, as those
/// that platforms mount, is not among them.
pub fn files(environment: Environment<'_>) -> Vec<PathBuf> {
    let google = google::credential_file(environment);
    aws::credential_files(environment).into_iter().chain(google).collect()
}

/// Bytes of a file with a credential: more is none.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// What went wrong, in words.
enum Fault {
    /// With what was asked for.
    There(String),
    /// With this machine or process, which is at a limit.
    Here(String),
}

impl Fault {
    /// The error, which is `there` unless this machine is to blame.
    fn error(self, there: impl FnOnce(String) -> Error) -> Error {
        match self {
            Fault::There(words) => there(words),
            Fault::Here(words) => Error::LocalLimit(words),
        }
    }
}

impl From<String> for Fault {
    fn from(words: String) -> Self {
        Fault::There(words)
    }
}

/// A small file as text, or what is wrong with it.
async fn read_file(path: &Path) -> Result<String, Fault> {
    let cannot = |error: std::io::Error| {
        if local_limit::is_local(&error) {
            return Fault::Here(format!("{} cannot be read: {error}", path.display()));
        }
        Fault::There(format!("cannot be read ({error})"))
    };
    let size = tokio::fs::metadata(path).await.map_err(cannot)?.len();
    if size > MAX_FILE_BYTES {
        return Err(format!("has {size} bytes").into());
    }
    let bytes = tokio::fs::read(path).await.map_err(cannot)?;
    String::from_utf8(bytes).map_err(|_| Fault::There("is not text".to_owned()))
}

/// A JSON object.
type Object = Map<String, Value>;

/// A member of an object that is a text and not empty.
fn text<'a>(object: &'a Object, name: &str) -> Option<&'a str> {
    object.get(name)?.as_str().filter(|text| !text.is_empty())
}

/// A member that counts seconds, as a number or, as some write it, a text.
fn seconds(object: &Object, name: &str) -> Option<u64> {
    let value = object.get(name)?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod desk;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_never_printed() {
        let token = Token::new("ya29.private").unwrap();
        assert!(!format!("{token:?}").contains("private"));
        assert!(token.header().is_sensitive());
        assert_eq!(token.header().to_str().unwrap(), "Bearer ya29.private");
        assert_eq!(token.redact("bad token ya29.private!"), "bad token [key]!");
    }

    #[test]
    fn what_no_header_can_carry_is_no_token() {
        assert!(Token::new("").is_none());
        assert!(Token::new("two\r\nlines").is_none());
    }
}
