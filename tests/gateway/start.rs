//! What a gateway needs to start, and what it does not.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::client::Connection;
use super::running::{ASK, CHAT, binary, eventually, free_address};
use super::setup::Setup;
use super::vendor::Vendor;

/// A gateway whose outputs are not a file. Dropped, it is killed.
struct Mute {
    child: Child,
    listen: SocketAddr,
    _folder: TempDir,
}

impl Mute {
    fn start(setup: &Setup, out: Stdio, err: Stdio) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (listen, admin) = (free_address(), free_address());
        let config = setup.config(&listen.to_string(), &admin.to_string());
        fs::write(folder.path().join("pointsman.toml"), config).unwrap();
        let mut gateway = binary();
        gateway
            .current_dir(folder.path())
            .args(["serve", "--config", "pointsman.toml"]);
        let child = gateway.stdout(out).stderr(err).spawn().unwrap();
        let mut mute = Self {
            child,
            listen,
            _folder: folder,
        };
        eventually("the gateway to listen", || {
            assert_eq!(mute.child.try_wait().unwrap(), None, "the gateway ended");
            TcpStream::connect(listen).ok()
        });
        mute
    }

    fn chat(&self) -> String {
        let mut connection = Connection::open(self.listen);
        connection.request(CHAT, &[], ASK.as_bytes());
        connection.answer().says()
    }

    fn drain(&mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        eventually("the gateway to end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn full() -> Stdio {
    File::options().write(true).open(Path::new("/dev/full")).unwrap().into()
}

/// A pipe that nobody reads any more.
fn closed() -> Stdio {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn outputs_that_are_full_or_closed_end_nothing() {
    let vendor = Vendor::well("vendor");
    let setup = Setup::new([&vendor]);
    for (out, err) in [(full(), full()), (closed(), closed()), (full(), closed())] {
        let mut gateway = Mute::start(&setup, out, err);
        for _ in 0..3 {
            assert_eq!(gateway.chat(), "from vendor");
        }
        assert_eq!(gateway.drain().code(), Some(0));
    }
}

#[test]
fn commands_end_with_their_code_although_nothing_can_be_printed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("bad.toml"), "colour = 1").unwrap();
    for (arguments, code) in [
        (&["check"][..], 0),
        (&["check", "--config", "bad.toml"], 1),
        (&["serve", "--config", "bad.toml"], 64),
    ] {
        for output in [full as fn() -> Stdio, closed] {
            let mut command = binary();
            command.current_dir(folder.path()).args(arguments);
            let status = command.stdout(output()).stderr(output()).status().unwrap();
            assert_eq!(status.code(), Some(code), "{arguments:?}");
        }
    }
}
