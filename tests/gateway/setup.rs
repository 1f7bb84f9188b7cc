//! What a gateway is started with: a configuration, plugins and variables.

use std::path::{Path, PathBuf};

use super::heard::Format;
use super::running::Gateway;
use super::vendor::Vendor;

include!(concat!(env!("OUT_DIR"), "/ready_made.rs"));

/// The bytes of a ready-made policy.
pub fn ready_made(name: &str) -> &'static [u8] {
    READY_MADE
        .iter()
        .find(|(known, _)| *known == name)
        .expect("a ready-made policy")
        .1
}

/// What a gateway is started with. Its one route, `smart`, has all targets, in the order of their vendors.
#[derive(Default, Clone)]
pub struct Setup {
    targets: Vec<Target>,
    route: String,
    toml: String,
    after: String,
    log_format: Option<&'static str>,
    workers: Option<usize>,
    is_admin_public: bool,
    pub(super) plugins: Vec<(String, Vec<u8>)>,
    pub(super) files: Vec<(String, String)>,
    pub(super) env: Vec<(String, String)>,
    /// Another file than the gateway's own that is started.
    pub(super) program: Option<PathBuf>,
    /// What is started before it, and starts it.
    pub(super) launcher: Vec<String>,
}

#[derive(Clone)]
struct Target {
    name: &'static str,
    vendor: &'static str,
    model: String,
    base_url: String,
    more: String,
}

impl Setup {
    pub fn new<'a>(vendors: impl IntoIterator<Item = &'a Vendor>) -> Self {
        let target = |vendor: &Vendor| Target {
            name: vendor.name,
            vendor: "openai-compatible",
            model: format!("{}-model", vendor.name),
            base_url: format!("http://{}/v1", vendor.address),
            more: String::new(),
        };
        Self {
            targets: vendors.into_iter().map(target).collect(),
            ..Self::default()
        }
    }

    /// Adds lines to the target of a vendor.
    pub fn target(mut self, name: &str, toml: &str) -> Self {
        let target = self.target_of(name);
        target.more += toml;
        target.more.push('\n');
        self
    }

    /// Says whose API a target speaks.
    pub fn vendor(mut self, name: &str, vendor: &'static str) -> Self {
        self.target_of(name).vendor = vendor;
        self
    }

    /// Says in which format a target speaks.
    pub fn speaks(mut self, name: &str, format: Format) -> Self {
        self.target_of(name).vendor = format.vendor();
        if format != Format::Converse {
            return self;
        }
        // AWS is never asked without a credential.
        self.target(name, "api_key = { env = \"BEDROCK_KEY\" }")
            .env("BEDROCK_KEY", "key-of-bedrock")
    }

    fn target_of(&mut self, name: &str) -> &mut Target {
        self.targets
            .iter_mut()
            .find(|target| target.name == name)
            .expect("a target")
    }

    /// Asks a target for another model.
    pub fn model(mut self, name: &str, model: &str) -> Self {
        self.target_of(name).model = model.to_owned();
        self
    }

    /// Moves a target elsewhere.
    pub fn base_url(mut self, name: &str, base_url: &str) -> Self {
        self.target_of(name).base_url = base_url.to_owned();
        self
    }

    /// Adds lines to the route.
    pub fn route(mut self, toml: &str) -> Self {
        self.route += toml;
        self.route.push('\n');
        self
    }

    /// Adds tables behind all others.
    pub fn after(mut self, toml: &str) -> Self {
        self.after += toml;
        self
    }

    /// Logs `json` where a test says nothing.
    pub fn log_format(mut self, format: &'static str) -> Self {
        self.log_format = Some(format);
        self
    }

    /// Works on more threads than the one that is enough for most tests.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Lets other machines reach the admin listener.
    pub fn public_admin(mut self) -> Self {
        self.is_admin_public = true;
        self
    }

    /// Adds to the configuration: keys such as `timeouts.request_ms`, and tables behind them.
    pub fn toml(mut self, toml: &str) -> Self {
        self.toml += toml;
        self.toml.push('\n');
        self
    }

    /// Asks a ready-made policy on the route.
    pub fn policy(self, name: &str) -> Self {
        self.plugin(name, ready_made(name))
            .route(&format!("policies = [\"{name}\"]"))
    }

    /// Puts a file into the plugin folder.
    pub fn plugin(mut self, name: &str, wasm: &[u8]) -> Self {
        self.plugins.push((name.to_owned(), wasm.to_vec()));
        self
    }

    /// Puts a file beside the configuration.
    pub fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts a copy of the gateway's binary.
    pub fn program(mut self, program: &Path) -> Self {
        self.program = Some(program.to_owned());
        self
    }

    /// Runs the gateway after lines of a shell, such as `ulimit -v 1000`.
    pub fn after_shell(mut self, lines: &str) -> Self {
        self.launcher = ["sh", "-c", &format!("{lines}\nexec \"$0\" \"$@\"")]
            .map(str::to_owned)
            .into();
        self
    }

    pub fn start(self) -> Gateway {
        Gateway::start(self)
    }

    /// The text of the configuration. Decisions have time: these tests run many at once on few cores.
    pub fn config(&self, listen: &str, admin: &str) -> String {
        let admin = match self.is_admin_public {
            true => admin.replace("127.0.0.1", "0.0.0.0"),
            false => admin.to_owned(),
        };
        let (log_format, workers) = (self.log_format.unwrap_or("json"), self.workers.unwrap_or(1));
        let mut text = format!(
            "listen = \"{listen}\"\nadmin = \"{admin}\"\nlog.format = \"{log_format}\"\n\
             server.workers = {workers}\npolicies.deadline_ms = 2000\n{}",
            self.toml
        );
        for Target {
            name,
            vendor,
            model,
            base_url,
            more,
        } in &self.targets
        {
            text += &format!(
                "[[target]]\nname = \"{name}\"\nvendor = \"{vendor}\"\nmodel = \"{model}\"\n\
                 base_url = \"{base_url}\"\n{more}"
            );
        }
        let names: Vec<_> = self.targets.iter().map(|target| target.name).collect();
        text + &format!(
            "[[route]]\nmodel = \"smart\"\ntargets = {names:?}\n{}{}",
            self.route, self.after
        )
    }
}
