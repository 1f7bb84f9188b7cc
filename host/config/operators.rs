//! Who may use the listener for operators.

use super::Secret;
use super::section::Section;
use super::spelling::excerpt;
use crate::origin::fault_of_host;

/// The `admin_…` keys at the top of the file: who may use the listener for operators.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Operators {
    /// Names besides its addresses and `localhost` that the listener may be asked under; default: none.
    pub hosts: Vec<String>,
    /// What operators show as `authorization: Bearer …`. Default: none, which is allowed on loopback only.
    pub token: Option<Secret>,
    /// `/metrics` needs no token, as `/healthz` and `/readyz` never do; default: false.
    pub open_metrics: bool,
}

impl Operators {
    pub(super) fn read(top: &mut Section<'_>) -> Self {
        let hosts = top.texts("admin_hosts").unwrap_or_default();
        for host in &hosts {
            if let Some(fault) = fault_of_host(host.value) {
                let fault = format!("has \"{}\", which {fault}", excerpt(host.value));
                top.wrong(
                    host.line,
                    "admin_hosts",
                    &fault,
                    "write names such as \"gateway.example.com\"",
                );
            }
        }
        Self {
            hosts: hosts.into_iter().map(|host| host.value.to_owned()).collect(),
            token: Secret::read(top, "admin_token"),
            open_metrics: top.flag("admin_open_metrics").unwrap_or_default(),
        }
    }
}
