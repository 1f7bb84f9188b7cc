//! What is live: the snapshot that the next request takes, and everything that outlives snapshots. A reload builds a new snapshot
//! beside the old one; the swap is its last step.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;

use crate::ballast::Hold;
use crate::config::Config;
use crate::config_state::{ConfigState, Refused};
use crate::credential::Courier;
use crate::dialer::{Dial, Network};
use crate::last_good;
use crate::log_level::LogLevel;
use crate::metrics::Metrics;
use crate::offload::Offload;
use crate::policy::{Library, OpenError, ReadyMade};
use crate::share::Resource;
use crate::sim::SimServer;
use crate::snapshot::{Lasting, Snapshot};
use crate::state_folder::{StateError, StateFolder};
use crate::switches::Switches;
use crate::telemetry::Telemetry;
use crate::tls::{Certificate, Trust};
use crate::trace::Traces;
use crate::waiting::WaitingRoom;
use crate::warmth::WarmTargets;

/// See the module.
pub struct Live {
    snapshot: ArcSwap<Snapshot>,
    /// Where requests are told and counted.
    pub telemetry: Arc<Telemetry>,
    /// Operator switches.
    pub switches: Switches,
    /// All policies.
    pub library: Library,
    /// Where large bodies are decoded and encoded.
    pub offload: Arc<Offload>,
    /// Room for the bodies of requests.
    pub hold: Arc<Hold>,
    /// Room for whole answers.
    pub answers: Arc<Hold>,
    /// Requests that wait before an attempt.
    pub waiting: Arc<WaitingRoom>,
    /// Which targets have which sessions in their prompt caches.
    pub warm: WarmTargets,
    /// How vendors are reached.
    pub dialer: Arc<dyn Dial>,
    /// The level of the log, where there is one that can be changed.
    pub log: OnceLock<Arc<LogLevel>>,
    /// Where the configuration on disk stands towards the live one.
    pub configuration: ConfigState,
    certificate: Option<Arc<Certificate>>,
    /// `None`: vendors are reached in another way.
    trust: Option<Arc<Trust>>,
    courier: Courier,
    sim: SimServer,
    draining: AtomicBool,
    /// Whoever makes a snapshot stands in line: it must be made of what is newest.
    swapping: Mutex<()>,
    /// Keeps other gateways out until everything above is closed.
    state: StateFolder,
}

/// Why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state folder is not safe, or another gateway uses it.
    #[error(transparent)]
    State(#[from] StateError),
    /// The policies cannot be opened.
    #[error(transparent)]
    Policies(#[from] OpenError),
    /// The certificates of `ca_file` cannot be used.
    #[error("ca_file: {0}")]
    Certificates(std::io::Error),
    /// The certificate for clients cannot be used.
    #[error("tls of [server]: {0}")]
    Tls(std::io::Error),
    /// The simulated vendors cannot listen.
    #[error("the simulated vendors cannot listen: {0}")]
    Sim(std::io::Error),
}

impl Live {
    /// Loads everything. `program` is this binary, which compiles policies in a child process.
    pub fn open(config: Config, ready_made: &'static [ReadyMade], program: PathBuf) -> Result<Arc<Self>, StartError> {
        let trust = Trust::open(config.ca_file.as_deref()).map_err(StartError::Certificates)?;
        let dialer = Arc::new(Network::new(trust.clone()));
        Self::with(config, (ready_made, program), dialer, Some(trust))
    }

    /// The same with vendors that are reached in another way.
    pub fn with_dialer(
        config: Config,
        ready_made: &'static [ReadyMade],
        program: PathBuf,
        dialer: Arc<dyn Dial>,
    ) -> Result<Arc<Self>, StartError> {
        Self::with(config, (ready_made, program), dialer, None)
    }

    fn with(
        config: Config,
        (ready_made, program): (&'static [ReadyMade], PathBuf),
        dialer: Arc<dyn Dial>,
        trust: Option<Arc<Trust>>,
    ) -> Result<Arc<Self>, StartError> {
        let certificate = config.server.tls.as_ref().map(Certificate::open).transpose();
        let certificate = certificate.map_err(StartError::Tls)?;
        let state = StateFolder::open(&config.state)?;
        let library = Library::open(&config, ready_made, program)?;
        let switches = Switches::open(state.folder().clone());
        let sim = SimServer::start().map_err(StartError::Sim)?;
        let metrics = Metrics::default();
        sim.set(sims(&config));
        let courier = Courier::new(dialer.clone());
        let lasting = Lasting {
            courier: &courier,
            metrics: &metrics,
            sim: Some(sim.address()),
            before: None,
        };
        let waiting = Arc::new(WaitingRoom::new(config.attempts.max_waiting));
        let server = &config.server;
        let most_for_one = server.share_of(server.max_bodies_bytes, server.max_body_bytes);
        let hold = Arc::new(Hold::new(Resource::Bodies, server.max_bodies_bytes, most_for_one));
        let offload = Arc::new(Offload::new(config.server.workers));
        let most_for_one = server.share_of(server.max_answers_bytes, config.attempts.max_answer_bytes);
        let answers = Arc::new(Hold::new(Resource::Answers, server.max_answers_bytes, most_for_one));
        let log_requests = AtomicBool::new(config.log.requests);
        let traces = Traces::new(metrics.trace_dropped.clone());
        traces.follow(config.trace.as_ref(), &dialer);
        let snapshot = Snapshot::new(Arc::new(config), &library.versions(), &lasting);
        Ok(Arc::new(Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            telemetry: Arc::new(Telemetry {
                metrics,
                log_requests,
                traces,
            }),
            switches,
            dialer,
            log: OnceLock::new(),
            configuration: ConfigState::default(),
            certificate,
            trust,
            courier,
            offload,
            hold,
            answers,
            waiting,
            warm: WarmTargets::default(),
            library,
            sim,
            draining: AtomicBool::new(false),
            swapping: Mutex::default(),
            state,
        }))
    }

    /// What is live now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Makes the newest versions of all policies live.
    pub fn swap_policies(&self) {
        self.swap(|current| current.config.clone());
    }

    /// Makes a configuration live. What can only be read at the start is said to be so.
    pub fn swap_config(&self, config: Config) {
        self.library.reconfigure(&config);
        self.sim.set(sims(&config));
        self.waiting.set_seats(config.attempts.max_waiting);
        self.telemetry
            .log_requests
            .store(config.log.requests, Ordering::Relaxed);
        self.telemetry.traces.follow(config.trace.as_ref(), &self.dialer);
        if let Some(log) = self.log.get() {
            log.configure(&config.log.level);
        }
        self.renew_certificates(&config);
        self.swap(|_| Arc::new(config));
    }

    /// Why the newest configuration is not live, where it was refused.
    pub fn refused_config(&self) -> Option<Refused> {
        self.configuration.get().refused
    }

    /// Keeps the text of the live configuration for a start at which the file is broken.
    pub fn remember_config(&self, text: &str) {
        if let Err(error) = last_good::remember(self.state.folder(), text) {
            tracing::warn!(%error, "the live configuration cannot be kept for a start with --last-good");
        }
    }

    /// The certificate for clients, where they speak TLS.
    pub fn certificate(&self) -> Option<&Arc<Certificate>> {
        self.certificate.as_ref()
    }

    /// Serves new connections with what the files of a configuration hold now. What cannot be used leaves what was there.
    fn renew_certificates(&self, config: &Config) {
        if let (Some(certificate), Some(files)) = (&self.certificate, &config.server.tls)
            && let Err(error) = certificate.renew(files)
        {
            tracing::error!(%error, "the new certificate cannot be used; clients are shown the one before");
        }
        if let Some(trust) = &self.trust
            && let Err(error) = trust.renew(config.ca_file.as_deref())
        {
            tracing::error!(%error, "the new ca_file cannot be used; vendors are trusted as before");
        }
    }

    /// Fetches the clouds' own credentials again, beside those that are used until then.
    pub fn renew_credentials(&self) {
        self.snapshot.load().renew_credentials();
    }

    fn swap(&self, config: impl FnOnce(&Snapshot) -> Arc<Config>) {
        let _line = self.swapping.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.snapshot.load();
        let lasting = Lasting {
            courier: &self.courier,
            metrics: &self.telemetry.metrics,
            sim: Some(self.sim.address()),
            before: Some(&before),
        };
        let snapshot = Snapshot::new(config(&before), &self.library.versions(), &lasting);
        self.snapshot.store(Arc::new(snapshot));
    }

    /// From now on the gateway is not ready for more.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether new requests are welcome.
    pub fn is_ready(&self) -> bool {
        !self.draining.load(Ordering::Relaxed)
    }
}

fn sims(config: &Config) -> impl Iterator<Item = (String, crate::config::Sim)> {
    config
        .targets
        .iter()
        .filter_map(|target| Some((target.name.clone(), target.sim.clone()?)))
}
