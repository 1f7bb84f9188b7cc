//! What a request takes at the door and keeps: configuration and policy versions, resolved. Replaced whole, never changed.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::{HeaderMap, HeaderValue, Uri, header};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::budget::{self, RetryBudget};
use crate::concurrency::ConcurrencyLimit;
use crate::config::{self, Config};
use crate::credential::Courier;
use crate::dialer::Endpoint;
use crate::header_text;
use crate::health::Health;
use crate::identity::Identity;
use crate::metrics::{Metrics, TargetMetrics};
use crate::policy::{Version, Versions};
use crate::share::ClientShare;
use crate::signer::Signer;
use crate::vendor::Api;

/// See the module.
pub struct Snapshot {
    /// The configuration it was made from.
    pub config: Arc<Config>,
    /// In the order of the configuration.
    pub routes: Vec<Arc<Route>>,
    /// (header name, `header.NAME`) of the headers that policies may see.
    pub headers: Vec<(String, String)>,
    clients: HashMap<[u8; 32], Arc<Client>>,
    targets: HashMap<String, Arc<Target>>,
}

/// Who calls: the name of the gateway key, and what policies are told of it.
#[derive(Debug, Default)]
pub struct Client {
    /// Empty when the gateway runs without keys.
    pub name: String,
    /// (`client.NAME`, value).
    pub attributes: Vec<(String, String)>,
    /// What its requests are signed with as AWS wants it, where the operator said so: (access key id, secret).
    pub signed_with: Option<(String, config::Secret)>,
    /// What it holds of the gateway, which outlives reloads; `None` without keys, where addresses count.
    pub share: Option<Arc<ClientShare>>,
}

/// A route with everything it names.
pub struct Route {
    /// The rules.
    pub rules: config::Route,
    /// In the order of the configuration.
    pub targets: Vec<Arc<Target>>,
    /// What decides, in order. A policy that has no version that serves is here without one.
    pub policies: Vec<Policy>,
    /// Counts what the ceiling on hedges is measured against.
    pub hedges: Arc<HedgeShare>,
}

impl Route {
    /// Whether it names policies and none of them has a version that serves, so that the built-in chain decides.
    pub fn lacks_policy(&self) -> bool {
        !self.policies.is_empty() && self.policies.iter().all(|policy| policy.version.is_none())
    }
}

/// A policy of a route.
pub struct Policy {
    /// Its name.
    pub name: String,
    /// What serves; `None` when nothing can.
    pub version: Option<Arc<Version>>,
}

/// A target with everything that does not change from request to request.
pub struct Target {
    /// The rules.
    pub rules: Arc<config::Target>,
    /// What its health belongs to.
    pub identity: Identity,
    /// What is known of it; outlives this snapshot.
    pub health: Arc<Health>,
    /// Where to connect.
    pub endpoint: Arc<Endpoint>,
    /// The host, as the `host` header says it.
    pub host: String,
    /// The path before that of an API.
    base: String,
    /// Where the vendor's APIs are for the target's own model, by their templates.
    addresses: Vec<(&'static str, Uri)>,
    /// Headers of every request, but for the credential.
    pub headers: HeaderMap,
    /// The credential.
    pub signer: Signer,
    /// How much of its load may be retries; outlives this snapshot.
    pub budget: Arc<RetryBudget>,
    /// How many requests it may have in progress; outlives this snapshot.
    pub limit: Arc<ConcurrencyLimit>,
    /// Its name, for what remembers targets.
    pub label: Arc<str>,
    /// Its name, as a header's value.
    pub shown: HeaderValue,
    /// Where its attempts are counted.
    pub metrics: TargetMetrics,
}

/// How many of a route's recent requests were hedged. Outlives snapshots.
#[derive(Debug, Default)]
pub struct HedgeShare {
    requests: AtomicU32,
    hedged: AtomicU32,
}

/// What outlives every snapshot and is woven into each.
pub struct Lasting<'a> {
    /// Where things are counted.
    pub metrics: &'a Metrics,
    /// Where simulated vendors listen.
    pub sim: Option<std::net::SocketAddr>,
    /// Fetches the credentials of clouds.
    pub courier: &'a Courier,
    /// The snapshot before, whose counters go on.
    pub before: Option<&'a Snapshot>,
}

impl Snapshot {
    /// Resolves every name of a configuration.
    pub fn new(config: Arc<Config>, versions: &Versions, lasting: &Lasting<'_>) -> Self {
        let predecessors = Predecessors::new(&config, lasting.before);
        let target = |rules: &Arc<config::Target>| {
            let target = Target::new(rules.clone(), &config, lasting, predecessors.of(rules));
            (rules.name.clone(), Arc::new(target))
        };
        let targets: HashMap<String, Arc<Target>> = config.targets.iter().map(target).collect();
        let route = |rules: &config::Route| {
            let named = |target: &Arc<config::Target>| targets[target.name.as_str()].clone();
            let policy = |name: &String| Policy {
                name: name.clone(),
                version: versions.get(name).cloned(),
            };
            let before = lasting
                .before
                .and_then(|before| before.routes.iter().find(|r| r.rules.model == rules.model));
            Arc::new(Route {
                targets: rules.targets.iter().map(named).collect(),
                policies: rules.policies.iter().map(policy).collect(),
                hedges: before.map(|route| route.hedges.clone()).unwrap_or_default(),
                rules: rules.clone(),
            })
        };
        let routes = config.routes.iter().map(route).collect();
        let clients = config
            .keys
            .iter()
            .flat_map(|key| {
                let client = Arc::new(Client::new(key, lasting.before));
                let shown = key.secret.as_ref().map(config::Secret::reveal);
                let all = shown.into_iter().chain(key.access_key_id.as_deref());
                all.map(|shown| (digest(shown), client.clone())).collect::<Vec<_>>()
            })
            .collect();
        let headers = config
            .policies
            .headers
            .iter()
            .map(|name| (name.clone(), format!("header.{name}")))
            .collect();
        Self {
            routes,
            headers,
            clients,
            targets,
            config,
        }
    }

    /// Fetches the clouds' own credentials again, beside those that are used until then.
    pub fn renew_credentials(&self) {
        self.targets.values().for_each(|target| target.signer.renew());
    }

    /// The route that serves a model name.
    pub fn route(&self, model: &str) -> Option<&Arc<Route>> {
        let rules = self.config.route_for(model)?;
        self.routes.iter().find(|route| route.rules.model == rules.model)
    }

    /// A target, by its name.
    pub fn target(&self, name: &str) -> Option<&Arc<Target>> {
        self.targets.get(name)
    }

    /// The client behind a gateway key; `None` when the key is not known. Without any keys, everybody is the same client.
    pub fn client<'k>(&self, key: impl FnOnce() -> Option<Cow<'k, str>>) -> Option<Arc<Client>> {
        if self.clients.is_empty() {
            return Some(Arc::default());
        }
        // Looked up by its digest: how long that takes says nothing about the key.
        self.clients.get(&digest(&key()?)).cloned()
    }
}

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

impl Client {
    fn new(key: &config::GatewayKey, before: Option<&Snapshot>) -> Self {
        let same = |client: &&Arc<Client>| client.name == key.name;
        let known = before.and_then(|before| before.clients.values().find(same));
        let named = |(name, value): &(String, String)| (format!("client.{name}"), value.clone());
        Self {
            name: key.name.clone(),
            attributes: key.attributes.iter().map(named).collect(),
            signed_with: key.access_key_id.clone().zip(key.secret_access_key.clone()),
            share: Some(known.and_then(|client| client.share.clone()).unwrap_or_default()),
        }
    }
}

impl Target {
    /// What this target's vendor said, without the key: vendors repeat keys in their errors, which are logged and may reach the
    /// client.
    pub fn redacted(&self, said: String) -> String {
        let said = self.signer.redact(said);
        self.rules.api_keys.iter().fold(said, |said, key| key.redact(&said))
    }

    /// Where one of its vendor's APIs is on its host; `template` is one of [`Api`]'s.
    pub fn uri(&self, template: &str, model: &str) -> Uri {
        let known = self.addresses.iter().find(|(known, _)| *known == template);
        match known.filter(|_| model == self.rules.model) {
            Some((_, uri)) => uri.clone(),
            None => uri(&self.rules, &self.base, template, model),
        }
    }

    fn new(
        rules: Arc<config::Target>,
        config: &Config,
        lasting: &Lasting<'_>,
        predecessor: Option<&Arc<Target>>,
    ) -> Self {
        let (endpoint, base) = match lasting.sim.filter(|_| rules.sim.is_some()) {
            Some(address) => (Endpoint::plain(address), format!("/{}", rules.name)),
            None => (
                Endpoint::of(&rules.base_url),
                rules.base_url.path().trim_end_matches('/').to_owned(),
            ),
        };
        let templates = rules.vendor.apis.iter().flat_map(Api::templates);
        let addresses = templates
            .map(|template| (template, uri(&rules, &base, template, &rules.model)))
            .collect();
        let identity = Identity::of(&rules);
        // How much it can bear is a matter of what is at its address.
        let before = predecessor.filter(|before| before.identity.has_address_of(&identity));
        let now = Instant::now();
        let retries = budget::Rules {
            share: config.attempts.retry_share,
            floor: config.attempts.retry_floor,
        };
        let budget = before.map_or_else(
            || Arc::new(RetryBudget::new(retries, now)),
            |before| before.budget.clone(),
        );
        budget.set_rules(retries);
        let new_limit = || Arc::new(ConcurrencyLimit::new(rules.concurrency, now));
        let limit = before.map_or_else(new_limit, |before| before.limit.clone());
        limit.set_rules(rules.concurrency);
        Self {
            health: health(&rules, &identity, predecessor, &config.breaker),
            host: endpoint.authority(),
            headers: headers(&endpoint),
            signer: Signer::new(
                &rules,
                &config.breaker,
                lasting.courier,
                predecessor.map(|before| &before.signer),
                before.is_some_and(|before| before.identity.has_model_of(&identity)),
            ),
            budget,
            limit,
            label: rules.name.as_str().into(),
            shown: header_text::text(&rules.name),
            base,
            addresses,
            metrics: lasting.metrics.target(&rules),
            endpoint: Arc::new(endpoint),
            identity,
            rules,
        }
    }

    /// Forgets its failures, waits and rests, and those of its keys: an operator has repaired what was wrong.
    pub fn reset(&self) {
        self.health.reset();
        self.signer.reset();
    }
}

/// The health of a target: what was known where it is still the same, or else a fresh start.
fn health(
    rules: &config::Target,
    identity: &Identity,
    predecessor: Option<&Arc<Target>>,
    breaker: &config::Breaker,
) -> Arc<Health> {
    let Some(before) = predecessor else {
        return Arc::new(Health::new(breaker));
    };
    let changed = identity.changes_since(&before.identity);
    if changed.is_empty() {
        before.health.set_rules(breaker);
        return before.health.clone();
    }
    tracing::info!(target = rules.name, changed, "the health of a target starts fresh");
    if before.identity.has_address_of(identity) {
        Arc::new(before.health.renewed(breaker))
    } else {
        Arc::new(Health::new(breaker))
    }
}

/// Which target of the snapshot before each target is, so that what is known of it goes on.
struct Predecessors<'a> {
    before: Option<&'a Snapshot>,
    /// Targets of before that are gone by their name.
    renamed: Vec<&'a Arc<Target>>,
}

impl<'a> Predecessors<'a> {
    fn new(config: &Config, before: Option<&'a Snapshot>) -> Self {
        let is_gone = |target: &&Arc<Target>| config.targets.iter().all(|rules| rules.name != target.rules.name);
        let targets = before.into_iter().flat_map(|before| before.targets.values());
        Self {
            before,
            renamed: targets.filter(is_gone).collect(),
        }
    }

    /// The one of the same name or, for a new name, one of the same identity that was renamed.
    fn of(&self, rules: &config::Target) -> Option<&'a Arc<Target>> {
        let named = self.before.and_then(|before| before.targets.get(&rules.name));
        let renamed = || {
            let identity = Identity::of(rules);
            self.renamed.iter().find(|target| target.identity == identity).copied()
        };
        named.or_else(renamed)
    }
}

/// The path of an API of a target's, whole.
fn uri(rules: &config::Target, base: &str, template: &str, model: &str) -> Uri {
    let version = rules.api_version.as_deref().unwrap_or(API_VERSION);
    Uri::try_from(Api::path(base, template, model, version))
        .expect("a target's name, a checked address and an encoded model make a path")
}

/// The newest `api-version` of Azure's classic paths that is not a preview.
const API_VERSION: &str = "2024-10-21";

/// What every request to a target carries. Nothing that the client sent goes along unless it is named here or in the gateway.
fn headers(endpoint: &Endpoint) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let host = endpoint
        .authority()
        .parse()
        .expect("an address was checked when it was read");
    headers.insert(header::HOST, host);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("pointsman/", env!("CARGO_PKG_VERSION"))),
    );
    // Frames are read on their way: they must come as they are.
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers
}

impl HedgeShare {
    /// After so many requests the counts are halved: what was long ago counts less and less.
    const REMEMBERED: u32 = 1000;

    /// Counts a request.
    pub fn count_request(&self) {
        if self.requests.fetch_add(1, Ordering::Relaxed) + 1 == Self::REMEMBERED {
            for count in [&self.requests, &self.hedged] {
                let halve = |count: u32| Some(count - count / 2);
                let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, halve);
            }
        }
    }

    /// Takes a hedge out of the route's share; `false` when the share is used up.
    pub fn take(&self, ceiling: f32) -> bool {
        let requests = self.requests.load(Ordering::Relaxed) as f32;
        let more = |hedged: u32| {
            ((hedged + 1) as f32 <= (requests * ceiling).max(f32::from(ceiling > 0.0))).then_some(hedged + 1)
        };
        self.hedged
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    /// A hedge that was taken did not come to be.
    pub fn give_back(&self) {
        let less = |hedged: u32| hedged.checked_sub(1);
        let _ = self.hedged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hedges_stay_below_their_share() {
        let share = HedgeShare::default();
        let hedged = (0..10_000)
            .filter(|_| {
                share.count_request();
                share.take(0.05)
            })
            .count();
        assert!((400..=500).contains(&hedged), "{hedged} of 10000");
    }

    #[test]
    fn a_hedge_that_did_not_come_to_be_leaves_its_place() {
        let share = HedgeShare::default();
        share.count_request();
        for _ in 0..5 {
            assert!(share.take(0.05));
            share.give_back();
        }
        assert!(share.take(0.05) && !share.take(0.05));
    }

    #[test]
    fn no_share_means_no_hedge() {
        let share = HedgeShare::default();
        share.count_request();
        assert!(!share.take(0.0));
    }
}
