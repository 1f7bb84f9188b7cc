//! What other processes ask of this one by signals.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// To finish open requests and end.
    Stop(StopSignal),
    /// To read the configuration and the plugin folder again.
    Reload,
    /// Nothing here: the name of the signal.
    Nothing(&'static str),
}

/// A signal that stops the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    /// Ctrl-C.
    Interrupt,
    /// What service managers send.
    Terminate,
}

impl StopSignal {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }

    /// The exit code of a process that ends because of it, as shells have it: 128 and the number of the signal.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// All signals that are heard. What is not among them does what the system does by default.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    user_1: Signal,
    user_2: Signal,
}

impl Signals {
    /// Hears them from now on. Needs a runtime.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.interrupt.recv() => Wish::Stop(StopSignal::Interrupt),
            _ = self.terminate.recv() => Wish::Stop(StopSignal::Terminate),
            _ = self.hangup.recv() => Wish::Reload,
            _ = self.user_1.recv() => Wish::Nothing("SIGUSR1"),
            _ = self.user_2.recv() => Wish::Nothing("SIGUSR2"),
        }
    }
}
