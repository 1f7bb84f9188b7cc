//! A gateway without sockets: one worker, whose clients and vendors are in memory.

use std::fs;
use std::sync::Arc;

use pointsman::config::Config;
use pointsman::live::Live;
use pointsman::server::Worker;
use tempfile::TempDir;

use super::guests::guest;
use super::street::{NAMES, Street, Way};

pub struct Yard {
    pub live: Arc<Live>,
    pub worker: Arc<Worker>,
    pub street: Arc<Street>,
    _home: TempDir,
}

impl Yard {
    /// A gateway with the policy `picker` and this configuration; each vendor's target has lines of its own. To be called where the clock
    /// stands still.
    pub fn open(top: &str, route: &str, targets: [&str; 3]) -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("plugins")).unwrap();
        fs::write(home.path().join("plugins/picker.wasm"), guest("picker")).unwrap();
        let targets = [0, 1, 2].map(|place| {
            let (name, more) = (NAMES[place], targets[place]);
            format!(
                "[[target]]\nname = \"{name}\"\nvendor = \"openai-compatible\"\nmodel = \"m\"\nbase_url = \"http://{name}.test/v1\"\n\
                 input_price = 1.0\noutput_price = 1.0\n{more}\n"
            )
        });
        let config = format!(
            "log.requests = false\npolicies.deadline_ms = 2000\npolicy.picker.settings = {{ }}\n{top}\n{}\
             [[route]]\nmodel = \"smart\"\ntargets = {NAMES:?}\npolicies = [\"picker\"]\n{route}\n",
            targets.concat()
        );
        let file = home.path().join("pointsman.toml");
        fs::write(&file, config).unwrap();
        let config = Config::load(&file, &|name| {
            name.starts_with("KEY_").then(|| format!("sk-{name}-12345678"))
        })
        .unwrap_or_else(|error| panic!("{error}"));
        let street = Arc::new(Street::default());
        let program = env!("CARGO_BIN_EXE_pointsman").into();
        let live = Live::with_dialer(config, &[], program, Arc::new(Way(street.clone()))).unwrap();
        street.know(&live);
        let worker = Worker::alone(&live).unwrap();
        Self {
            live,
            worker,
            street,
            _home: home,
        }
    }

    /// The sum of a metric over all of its labels.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.live.telemetry.metrics.encode();
        let lines = text.lines().filter_map(|line| line.strip_prefix(name));
        let values = lines.filter(|rest| rest.starts_with(['{', ' ']));
        values
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Attempts that are in progress anywhere.
    pub fn in_flight(&self) -> u32 {
        let snapshot = self.live.snapshot();
        let readings = snapshot.routes[0]
            .targets
            .iter()
            .map(|target| target.health.read(tokio::time::Instant::now()));
        readings.map(|reading| reading.in_flight).sum()
    }
}
