//! What a gateway needs to start, and what it does not.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
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

#[test]
fn addresses_of_the_command_line_go_before_the_configuration() {
    let vendor = Vendor::well("vendor");
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind(free_address()).unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let config = Setup::new([&vendor]).config(&taken, &taken.replace("127.0.0.1", "127.0.0.2"));
    fs::write(folder.path().join("pointsman.toml"), config).unwrap();
    let (listen, admin) = (free_address(), free_address());
    let mut gateway = binary();
    gateway
        .current_dir(folder.path())
        .args(["serve", "--config", "pointsman.toml"]);
    gateway.args(["--listen", &listen.to_string(), "--admin", &admin.to_string()]);
    let child = gateway.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut gateway = Mute {
        child,
        listen,
        _folder: folder,
    };
    eventually("both to listen", || {
        assert_eq!(gateway.child.try_wait().unwrap(), None, "the gateway ended");
        TcpStream::connect(listen).and(TcpStream::connect(admin)).ok()
    });
    assert_eq!(gateway.chat(), "from vendor");
}

#[test]
fn an_address_that_is_taken_names_its_setting_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let (taken, free) = (TcpListener::bind(free_address()).unwrap(), free_address().to_string());
    let taken = taken.local_addr().unwrap().to_string();
    for (listen, admin, setting) in [(&taken, &free, "listen"), (&free, &taken, "admin")] {
        let mut gateway = binary();
        let arguments = ["serve", "--listen", listen, "--admin", admin];
        let output = gateway.current_dir(folder.path()).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        for words in [
            &format!("the `{setting}` address"),
            &taken,
            &format!("--{setting} 127.0.0.1:"),
        ] {
            assert!(error.contains(words.as_str()), "{words} in {error}");
        }
    }
}

#[test]
fn the_version_names_the_runtime_that_policies_depend_on() {
    let output = binary().arg("--version").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let begin = format!("pointsman {} (", env!("CARGO_PKG_VERSION"));
    assert!(said.starts_with(&begin) && said.contains("wasmtime 48."), "{said}");
    let is_checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join(".git").exists();
    assert_eq!(said.contains("commit "), is_checkout, "{said}");
}
