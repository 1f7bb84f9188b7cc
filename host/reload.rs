//! Reloads: a policy that the library publishes, or a configuration file that changed, becomes live for the next request. What is
//! broken is told and leaves everything as it is.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use notify::Watcher;

use crate::config::{self, Config, ConfigErrors};
use crate::live::{Live, RefusedConfig};
use crate::metrics::ReloadLabels;

/// Makes every published version of a policy live, until the library is gone.
pub async fn follow_policies(live: Arc<Live>) {
    let mut changes = live.library.changes();
    while changes.changed().await.is_ok() {
        changes.mark_unchanged();
        live.swap_policies();
    }
}

/// Editors write in several steps: a file is read when it has been quiet for so long.
const QUIET: Duration = Duration::from_millis(50);
/// How often the file is looked at where events do not arrive.
const POLL: Duration = Duration::from_secs(2);

/// Watches the configuration file on a thread of its own, for as long as the gateway lives.
pub fn follow_config(live: &Arc<Live>, file: PathBuf) -> std::io::Result<()> {
    let live = Arc::downgrade(live);
    std::thread::Builder::new()
        .name("config-reload".into())
        .spawn(move || {
            let (events, arrived) = mpsc::channel();
            let watcher = watch(&file, events);
            // It may have changed since the gateway read it.
            let mut seen = None;
            loop {
                let Some(live) = live.upgrade() else { return };
                let now = std::fs::read(&file).ok();
                if now.is_some() && now != seen {
                    reload(&live, &file);
                }
                // A file that is gone for a moment is about to be replaced.
                seen = now.or(seen);
                drop(live);
                wait(&arrived, watcher.is_some());
            }
        })?;
    Ok(())
}

/// The folder is watched, not the file: editors and mounted volumes replace files by renaming.
fn watch(file: &Path, events: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let tell = move |found: notify::Result<notify::Event>| {
        // Our own look at the file opens it; that must not be a reason to look again.
        if !found.is_ok_and(|found| found.kind.is_access()) {
            let _ = events.send(());
        }
    };
    let mut watcher = notify::recommended_watcher(tell).ok()?;
    watcher.watch(folder, notify::RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}

/// Until something may have changed and has been quiet since.
fn wait(arrived: &mpsc::Receiver<()>, watching: bool) {
    if !watching {
        return std::thread::sleep(POLL);
    }
    if arrived.recv_timeout(POLL).is_ok() {
        let latest = Instant::now() + POLL;
        while arrived.recv_timeout(QUIET).is_ok() && Instant::now() < latest {}
    }
}

fn reload(live: &Live, file: &Path) {
    let reloads = &live.telemetry.metrics.reloads;
    match Config::load(file, &|name| std::env::var(name).ok()) {
        Ok(config) if config == *live.snapshot().config => live.set_refused_config(None),
        Ok(config) => {
            live.set_refused_config(None);
            for warning in &config.warnings {
                tracing::warn!("{warning}");
            }
            tell_restarts(&live.snapshot().config, &config);
            live.swap_config(config);
            reloads.get_or_create(&ReloadLabels { result: "live" }).inc();
            tracing::info!(file = %file.display(), "the changed configuration is live");
        }
        Err(errors) => {
            reloads.get_or_create(&ReloadLabels { result: "refused" }).inc();
            live.set_refused_config(Some(refused(&errors)));
            tracing::error!(file = %file.display(), "the changed configuration is refused, the one before stays:\n{errors}");
        }
    }
}

fn refused(errors: &ConfigErrors) -> RefusedConfig {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    RefusedConfig {
        at_ms: now.as_millis() as u64,
        errors: errors.to_string().lines().map(str::to_owned).collect(),
    }
}

/// Some things are read once: an operator who changes them should know.
fn tell_restarts(before: &Config, after: &Config) {
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
                    ..after.server.clone()
                },
        ),
        (
            "[attempts] max_idle_connections or idle_connection_ms",
            before.attempts.max_idle_connections != after.attempts.max_idle_connections
                || before.attempts.idle_connection != after.attempts.idle_connection,
        ),
        ("ca_file", before.ca_file != after.ca_file),
        ("log.format", before.log.format != after.log.format),
    ];
    for (what, _) in once.into_iter().filter(|(_, changed)| *changed) {
        tracing::warn!("`{what}` changed; it takes effect at the next start");
    }
}
