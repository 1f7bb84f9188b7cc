//! How the requests of one target prove who pays: with one of the target's own keys, which take turns.

use std::time::Instant;

use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderMap, HeaderValue};

use crate::config::{self, Secret};
use crate::failure::Failure;
use crate::keys::KeyPool;
use crate::vendor::Credential;

/// See the module.
pub struct Signer {
    pool: Option<KeyPool>,
    /// The header of each key of the pool.
    headers: Vec<(HeaderName, HeaderValue)>,
    rules: config::Breaker,
}

/// The key that an attempt goes out with; `None` where none is needed.
pub type Key = Option<usize>;

impl Signer {
    /// The signer of a target; what is known of its keys already goes on.
    pub fn new(rules: &config::Target, breaker: &config::Breaker, before: Option<&Signer>) -> Self {
        let secrets: Vec<&str> = rules.api_keys.iter().map(Secret::reveal).collect();
        let before = before.and_then(|before| before.pool.as_ref());
        Self {
            pool: KeyPool::new(&secrets, before, Instant::now()),
            headers: secrets
                .iter()
                .filter_map(|key| header(rules.vendor.credential, key))
                .collect(),
            rules: *breaker,
        }
    }

    /// The key whose turn it is. When all rest, the first takes its turn: its target rests too, and this is its probe.
    pub fn turn(&self) -> Key {
        let pool = self.pool.as_ref()?;
        Some(pool.pick(Instant::now()).unwrap_or_default())
    }

    /// Puts the key into a request.
    pub fn sign(&self, key: Key, headers: &mut HeaderMap) {
        if let Some((name, value)) = key.and_then(|place| self.headers.get(place)) {
            headers.insert(name, value.clone());
        }
    }

    /// An attempt with the key was answered.
    pub fn succeed(&self, key: Key) {
        if let (Some(pool), Some(place)) = (&self.pool, key) {
            pool.succeed(place);
        }
    }

    /// An attempt with the key failed. Whether it was the key's fault and another one is awake: then the target itself is well.
    pub fn fail(&self, key: Key, failure: &Failure) -> bool {
        let (Some(pool), Some(place)) = (&self.pool, key) else {
            return false;
        };
        let now = Instant::now();
        pool.fail(place, failure, &self.rules, now);
        failure.blames_key() && pool.all_rest_until(now).is_none()
    }
}

fn header(credential: Credential, key: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = match credential {
        Credential::Bearer | Credential::Google | Credential::Aws(_) => (AUTHORIZATION, format!("Bearer {key}")),
        Credential::Header(name) | Credential::Azure(name) => (HeaderName::from_static(name), key.to_owned()),
    };
    // A key with bytes that no header can carry is refused when it is read.
    let mut value = HeaderValue::from_str(&value).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}
