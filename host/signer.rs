//! How the requests of one target prove who pays: with one of the target's own keys, which take turns, or with what its cloud gives
//! whoever runs there.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{AUTHORIZATION, HeaderName};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Uri};
use tokio::time::Instant;

use crate::config::{self, Secret};
use crate::credential::{self, Courier, Source, Token, aws, azure, google};
use crate::failure::{Blame, Failure, Kind};
use crate::keys::KeyPool;
use crate::vendor::Credential;

/// See the module.
pub struct Signer {
    pool: Option<KeyPool>,
    /// The header of each key of the pool.
    headers: Vec<(HeaderName, HeaderValue)>,
    cloud: Option<Cloud>,
    rules: config::Breaker,
}

/// What a cloud gives whoever runs there.
#[derive(Clone)]
enum Cloud {
    /// A token for the `authorization` header.
    Token(Source<Token>),
    /// Keys to sign with.
    Keys(Source<aws::Keys>, Arc<Place>),
    /// A token that the environment gives outright.
    Given(Token),
    /// The environment is not as it must be: every attempt says so.
    Unusable(Arc<credential::Error>),
}

/// What a signature of AWS is good for.
struct Place {
    region: String,
    service: &'static str,
}

/// Headers of one request.
pub type Headers<'a> = Cow<'a, [(HeaderName, HeaderValue)]>;

/// Whose fault it is that an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// As the failure says.
    Targets,
    /// Its key's, and another one is awake: the target itself is well.
    Keys,
    /// Its key's, and all the others rest too: the first wakes up after so long.
    AllKeys(Duration),
}

/// The key that an attempt goes out with; `None` where the target has none of its own.
pub type Key = Option<usize>;

impl Signer {
    /// The signer of a target. The cloud that `before` asked is not asked again; what is known of its keys goes on where
    /// `keeps_rests`, that is while they are for the same model at the same address.
    pub fn new(
        rules: &config::Target,
        breaker: &config::Breaker,
        courier: &Courier,
        before: Option<&Signer>,
        keeps_rests: bool,
    ) -> Self {
        let secrets: Vec<&str> = rules.api_keys.iter().map(Secret::reveal).collect();
        let pool = before.filter(|_| keeps_rests).and_then(|before| before.pool.as_ref());
        let wants_cloud = rules.cloud_credentials && rules.api_keys.is_empty();
        let known = before
            .and_then(|before| before.cloud.clone())
            .filter(|cloud| cloud.fits(rules));
        Self {
            pool: KeyPool::new(&secrets, pool, Instant::now()),
            headers: secrets
                .iter()
                .filter_map(|key| header(rules.vendor.credential, key))
                .collect(),
            cloud: wants_cloud
                .then(|| known.or_else(|| Cloud::of(rules, courier)))
                .flatten(),
            rules: *breaker,
        }
    }

    /// The key whose turn it is. When all rest, one of them all the same: their target rests too, and this is its probe.
    pub fn turn(&self) -> Key {
        let pool = self.pool.as_ref()?;
        let picked = pool.pick(Instant::now());
        Some(picked.unwrap_or_else(|_| pool.pick_resting()))
    }

    /// How many keys of its own there are.
    pub fn count(&self) -> usize {
        self.pool.as_ref().map_or(0, KeyPool::count)
    }

    /// Wakes all keys up.
    pub fn reset(&self) {
        if let Some(pool) = &self.pool {
            pool.reset();
        }
    }

    /// The headers that sign a request to `host`.
    pub async fn sign(&self, key: Key, host: &str, uri: &Uri, body: &[u8]) -> Result<Headers<'_>, Failure> {
        let own = key.and_then(|place| self.headers.get(place));
        let signed = match &self.cloud {
            None => return Ok(Cow::Borrowed(own.map_or(&[], std::slice::from_ref))),
            Some(Cloud::Given(token)) => Ok(vec![(AUTHORIZATION, token.header())]),
            Some(Cloud::Token(source)) => source.get().await.map(|token| vec![(AUTHORIZATION, token.header())]),
            Some(Cloud::Keys(source, place)) => match source.get().await {
                Ok(keys) => place.sign(&keys, host, uri, body).map_err(Arc::new),
                Err(error) => Err(error),
            },
            Some(Cloud::Unusable(error)) => Err(error.clone()),
        };
        signed.map(Cow::Owned).map_err(|error| match &*error {
            credential::Error::LocalLimit(words) => {
                Failure::on_the_wire(Kind::LocalLimit, "local_limit", words.as_str())
            }
            error => Failure::on_the_wire(Kind::Unauthorized, "no_credentials", error.to_string()),
        })
    }

    /// An attempt with the key, which began then, was answered.
    pub fn succeed(&self, key: Key, began: Instant) {
        if let (Some(pool), Some(place)) = (&self.pool, key) {
            pool.succeed(place, began);
        }
    }

    /// An attempt with the key failed.
    pub fn fail(&self, key: Key, failure: &Failure) -> Fault {
        // AWS answers 403 to keys that it does not know or that have expired.
        if let Some(cloud) = self
            .cloud
            .as_ref()
            .filter(|_| matches!(failure.status, Some(401 | 403)))
        {
            cloud.reject();
        }
        let (Some(pool), Some(place)) = (&self.pool, key) else {
            return Fault::Targets;
        };
        let now = Instant::now();
        // Another key is tried only after this one was put to rest, so that such attempts end.
        if !pool.fail(place, failure, &self.rules, now) || pool.count() == 1 {
            return Fault::Targets;
        }
        match pool.all_rest_until(now) {
            None => Fault::Keys,
            // As long as that, the target is better probed now and then.
            Some(until) if until > now + self.rules.max_open && failure.blame() == Blame::Rest => Fault::Targets,
            Some(until) => Fault::AllKeys(until - now),
        }
    }

    /// How many of its own keys rest.
    pub fn resting(&self, now: Instant) -> usize {
        self.pool.as_ref().map_or(0, |pool| pool.resting(now))
    }

    /// Fetches the cloud's own credential again, beside the one that is used until then.
    pub fn renew(&self) {
        match &self.cloud {
            Some(Cloud::Token(source)) => source.renew(),
            Some(Cloud::Keys(source, _)) => source.renew(),
            Some(Cloud::Given(_) | Cloud::Unusable(_)) | None => {}
        }
    }

    /// A text of somebody else's without the cloud's secrets in it.
    pub fn redact(&self, text: String) -> String {
        match &self.cloud {
            Some(Cloud::Token(source)) => source.current().map_or(text.clone(), |token| token.redact(&text)),
            Some(Cloud::Keys(source, _)) => source.current().map_or(text.clone(), |keys| keys.redact(&text)),
            Some(Cloud::Given(token)) => token.redact(&text),
            Some(Cloud::Unusable(_)) | None => text,
        }
    }
}

impl Cloud {
    fn of(rules: &config::Target, courier: &Courier) -> Option<Self> {
        let environment: credential::Environment<'_> = &credential::process_environment;
        let name = rules.name.clone();
        let courier = courier.clone();
        let made = match rules.vendor.credential {
            Credential::Google => Ok(Cloud::Token(Source::new(
                name,
                google::Google::from_environment(environment, courier),
            ))),
            Credential::Azure(_) => azure::Azure::from_environment(environment, azure::SCOPE, courier)
                .map(|azure| Cloud::Token(Source::new(name, azure))),
            Credential::Aws(service) => match aws::bearer_token(environment, &rules.base_url) {
                Err(error) => Err(error),
                Ok(Some(token)) => Ok(Cloud::Given(token)),
                Ok(None) => aws::Chain::from_environment(environment, courier).map(|chain| {
                    let variable = || credential::process_environment("AWS_REGION");
                    let region = rules.region.clone().or_else(variable);
                    // Where neither says it, the address is the operator's own, and most stand-ins take any region.
                    let region = region.unwrap_or_else(|| "us-east-1".to_owned());
                    Cloud::Keys(Source::new(name, chain), Arc::new(Place { region, service }))
                }),
            },
            Credential::Bearer | Credential::Header(_) => return None,
        };
        Some(made.unwrap_or_else(|error| Cloud::Unusable(Arc::new(error))))
    }

    /// Whether it is still what the rules ask for.
    fn fits(&self, rules: &config::Target) -> bool {
        match (self, rules.vendor.credential) {
            (Cloud::Token(_), Credential::Google | Credential::Azure(_)) => true,
            (Cloud::Keys(_, place), Credential::Aws(service)) => {
                place.service == service && rules.region.as_ref().is_none_or(|region| *region == place.region)
            }
            _ => false,
        }
    }

    /// The vendor does not accept what it was given: another is fetched beside it.
    fn reject(&self) {
        match self {
            Cloud::Token(source) => source.current().iter().for_each(|token| source.reject(token)),
            Cloud::Keys(source, _) => source.current().iter().for_each(|keys| source.reject(keys)),
            Cloud::Given(_) | Cloud::Unusable(_) => {}
        }
    }
}

impl Place {
    fn sign(
        &self,
        keys: &aws::Keys,
        host: &str,
        uri: &Uri,
        body: &[u8],
    ) -> Result<Vec<(HeaderName, HeaderValue)>, credential::Error> {
        let scope = aws::Scope {
            region: &self.region,
            service: self.service,
        };
        let request = aws::Unsigned {
            method: &Method::POST,
            host,
            path: uri.path_and_query().map_or("/", PathAndQuery::as_str),
            content_type: Some("application/json"),
            body,
        };
        aws::sign(keys, scope, &request, SystemTime::now())
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
