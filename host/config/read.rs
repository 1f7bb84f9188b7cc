//! Reads a whole configuration file: takes it apart into sections and puts together what they say.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use toml::de::DeTable;

use super::document::{Document, Written};
use super::names::{self, Names};
use super::section::Section;
use super::spelling::excerpt;
use super::{
    Attempts, Breaker, Config, ConfigErrors, Environment, Finding, GatewayKey, Log, Operators, Policies, PolicyRules,
    Reading, Route, Server, Source, Target, Timeouts, Trace, absolute, check, file, syntax,
};

/// The text of a configuration file.
pub(super) fn text(path: &Path) -> Result<String, ConfigErrors> {
    let failed = |line, found, instead: &str| {
        ConfigErrors(vec![Finding {
            file: path.to_owned(),
            line,
            found,
            instead: instead.to_owned(),
        }])
    };
    let bytes = file::bytes_or_pipe(path).map_err(|error| {
        failed(
            None,
            format!("the configuration file cannot be read: {error}"),
            "give the path of a file that can be read",
        )
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        failed(
            Some(line),
            "a character that is not UTF-8".to_owned(),
            "save the file as UTF-8",
        )
    })
}

/// What the text of a configuration file says.
pub(super) fn config(text: &str, path: &Path, base: &Path, how: (&Source, Environment<'_>)) -> Reading {
    let document = Document::new(text, path, base, how);
    let (tree, errors) = DeTable::parse_recoverable(text);
    syntax::report(&document, text, &errors);
    let config = read_top(Section::top(&document, tree.get_ref()));
    let found = document.finish();
    Reading {
        config: Config {
            file: Some(absolute(path)),
            files: found.files,
            warnings: found.warnings,
            ..config
        },
        errors: found.errors,
        text: Some(text.to_owned()),
        policy_lines: found.policy_lines,
        not_read: found.not_read,
    }
}

fn read_top(mut top: Section<'_>) -> Config {
    let default = Config::defaults(top.document.base);
    let source = top.document.source;
    let (listen, admin) = (read_address(&mut top, "listen"), read_address(&mut top, "admin"));
    let listen = source.listen.or(listen).unwrap_or(default.listen);
    let admin = source.admin.or(admin).unwrap_or(default.admin);
    let operators = Operators::read(&mut top);
    let state = top.path("state").map_or(default.state, |path| path.value);
    let ca_file = top.pem_file("ca_file", file::fault_of_certificates);
    let ca_file = ca_file.map(|(path, _)| path);
    let server = Server::read(top.section("server"));
    let log = Log::read(top.section("log"));
    let trace = Trace::read(top.section("trace"));
    let timeouts = Timeouts::read(top.section("timeouts"));
    let attempts = Attempts::read(top.section("attempts"));
    let breaker = Breaker::read(top.section("breaker"));
    let keys = read_keys(&mut top);
    let (targets, names) = read_targets(&mut top, &timeouts);
    let routes = read_routes(&mut top, &names, &attempts, &timeouts);
    let policies = Policies::read(top.section("policies"));
    let policy = read_policies(&mut top, &policies.defaults, &routes);
    let routes = routes.into_iter().map(|route| route.value).collect();
    let config = Config {
        listen,
        admin,
        operators,
        state,
        server,
        log,
        trace,
        policies,
        timeouts,
        attempts,
        breaker,
        ca_file,
        keys,
        policy,
        targets,
        routes,
        ..default
    };
    check::ports(&top, &config);
    check::operators(&top, &config);
    check::clients(&top, &config);
    check::targets(&top, &config, &names);
    check::collector(&top, &config);
    top.close();
    config
}

fn read_address(top: &mut Section<'_>, key: &'static str) -> Option<SocketAddr> {
    let written = top.word(key)?;
    let address = written.value.parse();
    if address.is_err() {
        let instead = "write an IP address and a port, such as \"127.0.0.1:8080\"";
        top.wrong(
            written.line,
            key,
            &format!("is \"{}\"", excerpt(written.value)),
            instead,
        );
    }
    address.ok()
}

fn read_keys(top: &mut Section<'_>) -> Vec<GatewayKey> {
    let mut names = Names::<()>::new("key");
    let mut keys: Vec<GatewayKey> = Vec::new();
    for mut section in top.sections("key") {
        let (document, line) = (section.document, section.line_of("secret"));
        let name = names::read(&mut section);
        let key = GatewayKey::read(section, name);
        if let Some(name) = name {
            names.declare(document, name, None);
        }
        let Some(key) = key else { continue };
        if let Some(same) = keys.iter().find(|earlier| earlier.is_shown_as(&key)) {
            let found = format!("the key `{}` has the same secret as `{}`", key.name, same.name);
            document.wrong(line, found, "give each client its own");
        }
        keys.push(key);
    }
    keys
}

fn read_targets<'a>(top: &mut Section<'a>, ceiling: &Timeouts) -> (Vec<Arc<Target>>, Names<'a, Arc<Target>>) {
    let mut names = Names::new("target");
    let mut targets = Vec::new();
    for mut section in top.sections("target") {
        let name = names::read(&mut section);
        let target = Target::read(section, name, ceiling);
        targets.extend(target.clone());
        if let Some(name) = name {
            names.declare(top.document, name, target);
        }
    }
    if !top.has("target") {
        let instead = "write at least one, with name, vendor and model";
        top.document
            .missing(None, "no [[target]], so there is nowhere to send requests", instead);
    }
    (targets, names)
}

fn read_routes(
    top: &mut Section<'_>,
    targets: &Names<'_, Arc<Target>>,
    attempts: &Attempts,
    ceiling: &Timeouts,
) -> Vec<Written<Route>> {
    let mut models = Names::<()>::new("route");
    let mut routes: Vec<Written<Route>> = Vec::new();
    for mut section in top.sections("route") {
        let line = section.line;
        let model = Route::read_model(&mut section);
        if let Some(model) = model {
            models.declare(top.document, model, None);
        }
        let Some(value) = Route::read(section, model, targets, attempts, ceiling) else {
            continue;
        };
        let covers = |earlier: &&Written<Route>| earlier.value.covers(&value) && earlier.value.model != value.model;
        if let Some(earlier) = routes.iter().find(covers) {
            let found = format!(
                "no request gets here: `{}` on line {} takes them first",
                earlier.value.model, earlier.line
            );
            top.document.suspicious(line, found, "move this route up");
        }
        routes.push(Written { value, line });
    }
    if !top.has("route") {
        let instead = "write at least one, such as model = \"*\" with targets = [\"…\"]";
        top.document
            .missing(None, "no [[route]], so no request is served", instead);
    }
    routes
}

fn read_policies(
    top: &mut Section<'_>,
    default: &PolicyRules,
    routes: &[Written<Route>],
) -> BTreeMap<String, PolicyRules> {
    let mut policies = BTreeMap::new();
    for (name, section) in top.named_sections("policy") {
        let mut used = routes.iter().flat_map(|route| &route.value.policies);
        if !names::is_policy(name.value) {
            let found = format!("`{}` is not the name of a policy", excerpt(name.value));
            top.document.wrong(
                name.line,
                found,
                "write letters, digits, - and _, such as [policy.plan-b] for plan-b.wasm",
            );
        } else if !used.any(|policy| policy == name.value) {
            let found = format!("no [[route]] has the policy `{}`", name.value);
            top.document.suspicious(
                name.line,
                found,
                format!("write policies = [\"{}\"] in one", name.value),
            );
        }
        top.document.names_policy(name.value, name.line);
        policies.insert(name.value.to_owned(), PolicyRules::read(section, default.clone()));
    }
    policies
}
