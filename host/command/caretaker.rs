//! Everything beside requests, on a thread of its own: signals, operators and the policies' new versions. Signals are heard before
//! anything is loaded, which can take a minute where policies must be compiled.

use std::net::TcpListener;
use std::sync::{Arc, mpsc};
use std::thread;

use pointsman::admin;
use pointsman::live::Live;
use pointsman::reload::{self, Reloader};
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};

use super::log::Lines;
use super::signals::{Signals, StopSignal, Wish};

/// See the module. Dropped before [`Caretaker::begin`], its thread ends.
pub struct Caretaker {
    duty: oneshot::Sender<Duty>,
}

/// What there is to take care of once everything is loaded.
pub struct Duty {
    pub live: Arc<Live>,
    pub operators: TcpListener,
    pub reloader: Reloader,
    /// Set to true when no more requests are to be accepted.
    pub stop: watch::Sender<bool>,
}

impl Caretaker {
    /// Starts to hear signals. `lines` are what is left of the log when one of them ends the process.
    pub fn start(lines: Lines) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (duty, begun) = oneshot::channel();
        let (hears, heard) = mpsc::channel();
        thread::Builder::new()
            .name("caretaker".into())
            .spawn(move || run(&runtime, begun, lines, &hears))?;
        heard.recv()??;
        Ok(Self { duty })
    }

    /// Everything is loaded.
    pub fn begin(self, duty: Duty) {
        // Its thread is there for as long as this process.
        let _ = self.duty.send(duty);
    }
}

fn run(runtime: &Runtime, begun: oneshot::Receiver<Duty>, lines: Lines, hears: &mpsc::Sender<std::io::Result<()>>) {
    runtime.block_on(async move {
        let signals = match Signals::listen() {
            Ok(signals) => signals,
            Err(error) => {
                let _ = hears.send(Err(error));
                return;
            }
        };
        let _ = hears.send(Ok(()));
        let mut watchman = Watchman { signals, lines };
        if let Some(duty) = watchman.while_loading(begun).await {
            tokio::spawn(reload::follow_policies(duty.live.clone()));
            tokio::spawn(admin::serve(duty.operators, duty.live.clone()));
            watchman.while_serving(duty.live, &duty.reloader, duty.stop).await;
        }
    });
}

/// Hears signals.
struct Watchman {
    signals: Signals,
    lines: Lines,
}

impl Watchman {
    /// `None`: the start has failed.
    async fn while_loading(&mut self, mut begun: oneshot::Receiver<Duty>) -> Option<Duty> {
        loop {
            let wish = tokio::select! {
                duty = &mut begun => return duty.ok(),
                wish = self.signals.next() => wish,
            };
            match wish {
                Wish::Stop(signal) => self.end_now(signal, "nothing was served yet"),
                // The newest configuration is looked for as soon as everything is loaded.
                Wish::Reload => tracing::info!("SIGHUP: the gateway is still starting"),
                Wish::Nothing(name) => ignore(name),
            }
        }
    }

    /// Until the process ends.
    async fn while_serving(&mut self, live: Arc<Live>, reloader: &Reloader, stop: watch::Sender<bool>) {
        let mut stop = Some(stop);
        loop {
            match self.signals.next().await {
                Wish::Stop(signal) => match stop.take() {
                    Some(stop) => {
                        tracing::info!(
                            signal = signal.name(),
                            "asked to stop; a second signal ends the gateway at once"
                        );
                        tokio::spawn(drain(live.clone(), stop));
                    }
                    None => self.end_now(signal, "requests that are still open are cut off"),
                },
                Wish::Reload => {
                    tracing::info!("SIGHUP: the configuration and the plugin folder are read again");
                    reloader.reload();
                }
                Wish::Nothing(name) => ignore(name),
            }
        }
    }

    /// Ends the process.
    fn end_now(&self, signal: StopSignal, what: &str) -> ! {
        tracing::warn!(signal = signal.name(), "ends at once: {what}");
        self.lines.flush();
        std::process::exit(signal.exit_code().into())
    }
}

fn ignore(signal: &str) {
    tracing::info!("{signal} is ignored; SIGHUP reads the configuration again, SIGTERM and SIGINT stop the gateway");
}

async fn drain(live: Arc<Live>, stop: watch::Sender<bool>) {
    live.drain();
    let delay = live.snapshot().config.server.drain_delay;
    tracing::info!(
        delay_ms = delay.as_millis() as u64,
        "draining: not ready any more, open requests may finish"
    );
    tokio::time::sleep(delay).await;
    let _ = stop.send(true);
    // Operators can look on while the last streams finish.
}
