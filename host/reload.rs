//! Reloads: a policy that the library publishes, a configuration file that changed, or a file that it names, such as a key or a
//! certificate, becomes live for the next request. What is broken is said and leaves everything as it is.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Weak, mpsc};
use std::time::{Duration, Instant};

use crate::config::{self, Config, ConfigErrors, NamedFiles, Reading, Source};
use crate::credential;
use crate::live::Live;
use crate::metrics::ReloadLabels;
use crate::watch::{Watch, folders_of};

/// Makes every published version of a policy live, until the library is gone.
pub async fn follow_policies(live: Arc<Live>) {
    let mut changes = live.library.changes();
    while changes.changed().await.is_ok() {
        changes.mark_unchanged();
        live.swap_policies();
    }
}

/// Editors write in several steps: files are read when they have been quiet for so long.
const QUIET: Duration = Duration::from_millis(50);
/// How often files are looked at where events do not arrive.
const POLL: Duration = Duration::from_secs(2);
/// A file that is gone may be about to be replaced: for so long nothing is concluded from it.
const GONE: Duration = Duration::from_secs(1);

/// Asks for a reload.
#[derive(Clone)]
pub struct Reloader {
    live: Weak<Live>,
    /// `None`: there is no configuration file.
    follower: Option<mpsc::Sender<Wake>>,
}

/// Why the follower looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    /// Something happened in a folder that is watched.
    Event,
    /// An operator wants it.
    Asked,
}

impl Reloader {
    /// Reads the configuration, the files that it names, and the plugin folder again. Does not wait for that.
    pub fn reload(&self) {
        if let Some(follower) = &self.follower {
            let _ = follower.send(Wake::Asked);
        }
        if let Some(live) = self.live.upgrade() {
            live.library.look();
        }
    }
}

/// Follows the configuration file and the files that it names, on a thread of its own, for as long as the gateway lives.
pub fn follow(live: &Arc<Live>, source: Source) -> std::io::Result<Reloader> {
    let mut reloader = Reloader {
        live: Arc::downgrade(live),
        follower: None,
    };
    if let Some(file) = source.file.clone() {
        let (sender, inbox) = mpsc::channel();
        reloader.follower = Some(sender.clone());
        let live = Arc::downgrade(live);
        std::thread::Builder::new()
            .name("config-reload".into())
            .spawn(move || Follower::new(live, (source, file), sender, inbox).run())?;
    }
    Ok(reloader)
}

/// The thread's state.
struct Follower {
    live: Weak<Live>,
    source: Source,
    /// The configuration file.
    file: PathBuf,
    inbox: mpsc::Receiver<Wake>,
    watch: Watch,
    /// The configuration file and those that it names, as they were when they were read last.
    seen: NamedFiles,
    /// Files from which clouds' own credentials come, named by the environment.
    credentials: NamedFiles,
    /// Since when a file is missing.
    gone: Option<Instant>,
}

impl Follower {
    fn new(
        live: Weak<Live>,
        (source, file): (Source, PathBuf),
        sender: mpsc::Sender<Wake>,
        inbox: mpsc::Receiver<Wake>,
    ) -> Self {
        let what = "the configuration and the files that it names";
        let credentials: NamedFiles = credential::files(&credential::process_environment)
            .into_iter()
            .collect();
        Self {
            live,
            source,
            inbox,
            watch: Watch::new(what, move || _ = sender.send(Wake::Event)),
            // It may have changed since the gateway read it, so nothing is known of it.
            seen: [file.clone()].into_iter().collect(),
            credentials: credentials.look_again(),
            gone: None,
            file,
        }
    }

    fn run(mut self) {
        let mut is_asked = false;
        while let Some(live) = self.live.upgrade() {
            self.aim();
            self.look(&live, is_asked);
            self.look_at_credentials(&live);
            drop(live);
            is_asked = self.wait();
        }
    }

    /// Watches all folders that matter now.
    fn aim(&mut self) {
        let files = self.seen.paths().chain(self.credentials.paths());
        let folders: BTreeSet<PathBuf> = files.flat_map(folders_of).collect();
        self.watch.aim(&folders);
    }

    /// Until something may have changed and has been quiet since. Whether an operator asked.
    fn wait(&self) -> bool {
        let poll = if self.gone.is_some() { GONE / 2 } else { POLL };
        let Ok(first) = self.inbox.recv_timeout(poll) else {
            return false;
        };
        let mut is_asked = first == Wake::Asked;
        let latest = Instant::now() + POLL;
        while let Ok(wake) = self.inbox.recv_timeout(QUIET) {
            is_asked |= wake == Wake::Asked;
            if Instant::now() >= latest {
                break;
            }
        }
        is_asked
    }

    /// Reads the configuration again if it or a file that it names has changed, or if an operator asks.
    fn look(&mut self, live: &Live, is_asked: bool) {
        let now = self.seen.look_again();
        if !is_asked && (now == self.seen || self.may_come_back(&now)) {
            return;
        }
        self.gone = None;
        let reading = self.source.read(&|name| std::env::var(name).ok());
        let changed: Vec<_> = now.changed_since(&self.seen);
        let changed: Vec<_> = changed.iter().map(|path| path.display().to_string()).collect();
        // What changes from here on is seen by the next look: what was there before the reading counts.
        let mut seen = reading.files().clone();
        seen.insert(&self.file, None);
        seen.take_over(&now);
        self.seen = seen;
        apply(live, reading, &Cause { changed, is_asked });
    }

    /// Whether a file that is missing may be about to be replaced.
    fn may_come_back(&mut self, now: &NamedFiles) -> bool {
        if now.gone_since(&self.seen).is_empty() {
            self.gone = None;
            return false;
        }
        self.gone.get_or_insert_with(Instant::now).elapsed() < GONE
    }

    /// Fetches the clouds' own credentials again where their files changed.
    fn look_at_credentials(&mut self, live: &Live) {
        let now = self.credentials.look_again();
        // A file that is missing or half written fails, and then what is there serves on.
        if now != self.credentials {
            tracing::info!(
                files = ?now.changed_since(&self.credentials),
                "files with a cloud's credentials changed; they are read again"
            );
            live.renew_credentials();
        }
        self.credentials = now;
    }
}

/// Why the configuration was read.
struct Cause {
    /// The files that differ from what they were.
    changed: Vec<String>,
    /// An operator asked for it.
    is_asked: bool,
}

fn apply(live: &Live, mut reading: Reading, cause: &Cause) {
    let text = reading.text.take();
    let remember = || text.iter().for_each(|text| live.remember_config(text));
    match reading.finish() {
        Ok(config) if config == *live.snapshot().config => {
            remember();
            if live.configuration.agree() {
                tracing::info!("the configuration on disk is the live one again");
            } else if cause.is_asked {
                tracing::info!("the configuration and the files that it names are as they were");
            }
        }
        Ok(config) => {
            go_live(live, config, cause);
            remember();
        }
        Err(errors) => refuse(live, &errors, cause),
    }
}

fn go_live(live: &Live, config: Config, cause: &Cause) {
    let metrics = &live.telemetry.metrics;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    warn_of_restarts(&live.snapshot().config, &config);
    live.swap_config(config);
    live.configuration.go_live(false);
    metrics.reloads.get_or_create(&ReloadLabels { result: "live" }).inc();
    tracing::info!(changed = cause.changed.join(", "), "the changed configuration is live");
}

fn refuse(live: &Live, ConfigErrors(errors): &ConfigErrors, cause: &Cause) {
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let text = errors.join("\n");
    let metrics = &live.telemetry.metrics;
    // Said once for each content, and whenever an operator asks.
    if live.configuration.refuse(errors) || cause.is_asked {
        metrics.reloads.get_or_create(&ReloadLabels { result: "refused" }).inc();
        tracing::error!(
            changed = cause.changed.join(", "),
            "the changed configuration is refused, the one before stays; a restart would not come up with it:\n{text}"
        );
    }
}

/// Some things are read once: an operator who changes them should know.
fn warn_of_restarts(before: &Config, after: &Config) {
    let once = [
        ("listen", before.listen != after.listen),
        ("admin", before.admin != after.admin),
        ("state", before.state != after.state),
        (
            "[server]",
            before.server
                != config::Server {
                    hosts: before.server.hosts.clone(),
                    origins: before.server.origins.clone(),
                    tls: before.server.tls.clone(),
                    ..after.server.clone()
                },
        ),
        (
            "tls of [server], as it is there or not,",
            before.server.tls.is_some() != after.server.tls.is_some(),
        ),
        (
            "[attempts] max_idle_connections, idle_connection_ms or connection_age_ms",
            before.attempts.max_idle_connections != after.attempts.max_idle_connections
                || before.attempts.idle_connection != after.attempts.idle_connection
                || before.attempts.connection_age != after.attempts.connection_age,
        ),
        ("log.format", before.log.format != after.log.format),
    ];
    for (what, _) in once.into_iter().filter(|(_, changed)| *changed) {
        tracing::warn!("`{what}` changed; it takes effect at the next start");
    }
}
