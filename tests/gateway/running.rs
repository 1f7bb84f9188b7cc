//! The real gateway, running: its process, its folder, its two addresses and its log.

use std::collections::HashSet;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, prlimit};
use serde_json::Value;
use tempfile::TempDir;

use super::client::{Answer, Connection, Stream};
use super::setup::Setup;

/// A request for a whole answer.
pub const ASK: &str = r#"{"model":"smart","messages":[{"role":"user","content":"hello"}]}"#;
/// A request for a stream.
pub const ASK_STREAM: &str = r#"{"model":"smart","stream":true,"messages":[{"role":"user","content":"hello"}]}"#;
/// What is asked.
pub const CHAT: &str = "POST /v1/chat/completions";

/// A gateway of one test. Dropped, it is killed; when the test failed, its log is printed.
pub struct Gateway {
    child: Child,
    folder: TempDir,
    setup: Setup,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
}

/// Waits for something that has to come; what takes longer than this never will.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// An address that nobody listens on. Below the ports that the system gives to clients, so that no connection takes it
/// meanwhile, and never given out twice, since two gateways could share it.
pub fn free_address() -> SocketAddr {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap();
    loop {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(10_000..32_000)));
        if given.get_or_insert_default().insert(address.port()) && TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// The gateway's binary.
pub fn binary() -> Command {
    command_of(Path::new(env!("CARGO_BIN_EXE_pointsman")))
}

fn command_of(program: &Path) -> Command {
    let mut command = Command::new(program);
    // What the machine is set up for must not decide what a test sees.
    command.env_clear();
    for name in ["PATH", "HOME", "TMPDIR"] {
        command.envs(std::env::var(name).map(|value| (name, value)));
    }
    command
}

impl Gateway {
    pub fn start(setup: Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (listen, admin) = (free_address(), free_address());
        for name in ["plugins", "log"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        for (name, wasm) in &setup.plugins {
            fs::write(folder.path().join(format!("plugins/{name}.wasm")), wasm).unwrap();
        }
        for (name, text) in &setup.files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        fs::write(
            folder.path().join("pointsman.toml"),
            setup.config(&listen.to_string(), &admin.to_string()),
        )
        .unwrap();
        let child = spawn(folder.path(), &setup);
        let mut gateway = Self {
            child,
            folder,
            setup,
            listen,
            admin,
        };
        gateway.wait_until_ready();
        gateway
    }

    /// Stops it and starts it again in the same folder.
    pub fn restart(&mut self) {
        self.terminate();
        assert_eq!(self.wait_for_exit().code(), Some(0));
        self.start_again();
    }

    /// Starts it in the same folder, after it has ended.
    pub fn start_again(&mut self) {
        self.child = spawn(self.folder.path(), &self.setup);
        self.wait_until_ready();
    }

    fn wait_until_ready(&mut self) {
        eventually("the gateway to be ready", || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the gateway ended: {status}\n{}", self.log());
            }
            TcpStream::connect(self.admin).ok()?;
            (self.admin("GET /readyz").status == 200).then_some(())
        });
    }

    /// Lets it open no more file descriptors.
    pub fn take_descriptors(&self) {
        let open = self.descriptors();
        // The system gives the lowest number that is free, if that is below the limit.
        let free = (0..).find(|number| !open.contains(number));
        self.limit_descriptors(free.expect("a number"));
    }

    /// Limits its file descriptors. The limit may be raised again up to the hard one.
    pub fn limit_descriptors(&self, limit: u64) {
        let pid = Pid::from_child(&self.child);
        let mut limits = prlimit(Some(pid), Resource::Nofile, getrlimit(Resource::Nofile)).unwrap();
        limits.current = Some(limit);
        prlimit(Some(pid), Resource::Nofile, limits).unwrap();
    }

    /// The id of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// File descriptors that it has open.
    pub fn descriptors(&self) -> HashSet<u64> {
        let folder = fs::read_dir(format!("/proc/{}/fd", self.id())).unwrap();
        let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
        folder.filter_map(|entry| number(entry.unwrap())).collect()
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The most memory that it had at once, in bytes.
    pub fn peak_memory(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid().as_raw_nonzero())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let kib: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
        kib << 10
    }

    /// Asks it to stop.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until something is in its log.
    pub fn wait_for_log(&self, text: &str) {
        eventually(&format!("{text:?} in the log"), || {
            self.log().contains(text).then_some(())
        });
    }

    pub fn wait_for_exit(&mut self) -> ExitStatus {
        eventually("the gateway to end", || self.child.try_wait().unwrap())
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Replaces the configuration, in one step.
    pub fn configure(&mut self, setup: Setup) {
        let new = self.path("pointsman.toml.new");
        fs::write(&new, setup.config(&self.listen.to_string(), &self.admin.to_string())).unwrap();
        fs::rename(new, self.path("pointsman.toml")).unwrap();
        self.setup = setup;
    }

    /// Replaces a plugin, in one step.
    pub fn plug(&self, name: &str, wasm: &[u8]) {
        let new = self.path(".new");
        fs::write(&new, wasm).unwrap();
        fs::rename(new, self.plugin(name)).unwrap();
    }

    /// Where a plugin is.
    pub fn plugin(&self, name: &str) -> PathBuf {
        self.path(&format!("plugins/{name}.wasm"))
    }

    /// A path in the gateway's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.listen)
    }

    /// Asks for a whole answer.
    pub fn chat(&self, body: &str) -> Answer {
        self.ask(CHAT, &[], body)
    }

    /// Asks for a stream.
    pub fn stream(&self, body: &str) -> Stream {
        let mut connection = self.connect();
        connection.request(CHAT, &[], body.as_bytes());
        connection.stream()
    }

    pub fn ask(&self, line: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut connection = self.connect();
        connection.request(line, headers, body.as_bytes());
        connection.answer()
    }

    /// Asks the admin listener.
    pub fn admin(&self, line: &str) -> Answer {
        self.admin_with(line, "")
    }

    pub fn admin_with(&self, line: &str, body: &str) -> Answer {
        self.admin_as(&[("host", &self.admin.to_string())], line, body)
    }

    /// Asks the admin listener with these headers, `host` among them.
    pub fn admin_as(&self, headers: &[(&str, &str)], line: &str, body: &str) -> Answer {
        let mut connection = Connection::open(self.admin);
        connection.request(line, headers, body.as_bytes());
        connection.answer()
    }

    /// What the admin listener tells of a target or a policy.
    pub fn told_of(&self, kind: &str, name: &str) -> Value {
        let all = self.admin(&format!("GET /api/{kind}")).json();
        let rows = all
            .as_array()
            .or_else(|| all[kind].as_array())
            .unwrap_or_else(|| panic!("a list of {kind}: {all}"));
        let row = rows.iter().find(|row| row["name"] == name);
        row.unwrap_or_else(|| panic!("no {name} in {all}")).clone()
    }

    /// What the admin listener tells of a policy, if it knows it.
    pub fn told_of_policy(&self, name: &str) -> Option<Value> {
        let all = self.admin("GET /api/policies").json();
        all.as_array()?.iter().find(|row| row["name"] == name).cloned()
    }

    /// What the admin listener tells of a target.
    pub fn target(&self, name: &str) -> Value {
        self.told_of("targets", name)
    }

    /// What the admin listener tells of a policy.
    pub fn policy(&self, name: &str) -> Value {
        self.told_of("policies", name)
    }

    /// A line of the metrics, such as `pointsman_requests_total{…}`, by its beginning and something in it.
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let metrics = self.admin("GET /metrics");
        let is_it = |line: &&str| line.starts_with(name) && line.contains(labels);
        let lines = metrics.text().lines().filter(is_it);
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// All that was written to both of its outputs.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log/log")).unwrap_or_default()
    }

    /// Waits for the log line of the request that an answer belongs to.
    pub fn request_line(&self, id: &str) -> Value {
        eventually("the request to be logged", || {
            let log = self.log();
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let fields = |line: Value| {
                if line["fields"].is_object() {
                    line["fields"].clone()
                } else {
                    line
                }
            };
            lines
                .map(fields)
                .find(|line| line["id"] == id && line["outcome"].is_string())
        })
    }
}

fn spawn(folder: &Path, setup: &Setup) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("log/log"))
        .unwrap();
    let mut command = match &setup.program {
        Some(program) => command_of(program),
        None => binary(),
    };
    if let [launcher, arguments @ ..] = setup.launcher.as_slice() {
        let program = command.get_program().to_owned();
        command = command_of(Path::new(launcher));
        command.args(arguments).arg(program);
    }
    command.arg("serve").arg("--config").arg(folder.join("pointsman.toml"));
    command.envs(setup.env.iter().map(|(name, value)| (name, value)));
    command.stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().expect("the gateway's binary runs")
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if thread::panicking() {
            let state = match self.child.try_wait() {
                Ok(Some(status)) => format!("which had ended: {status}"),
                _ => "which was running".to_owned(),
            };
            eprintln!("--- log of the gateway, {state} ---\n{}---", self.log());
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
