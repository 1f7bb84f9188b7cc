//! File descriptors: how many this process may have, and which of them clients may not take. A client's request needs two, one for
//! its own connection and one for the vendor's; without a reserve, clients that only wait would take those of vendors and operators.

use std::os::fd::AsRawFd;

use rustix::process::{Resource, getrlimit, setrlimit};

/// Descriptors that are left for operators, reloads and files when everything else is taken.
const RESERVE: u64 = 16;

/// Raises the soft limit of this process to the hard one: many systems start programs with 1,024 and allow far more.
pub fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        let limit = self::limit();
        tracing::warn!(%error, limit, "the limit of file descriptors cannot be raised");
    }
}

/// How many descriptors this process may have now.
fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many connections of clients fit: each needs a second descriptor for its vendor. At most `wanted`, and at least one.
pub fn client_connections(wanted: usize) -> usize {
    let fitting = fitting(limit(), open());
    if fitting < wanted as u64 {
        tracing::warn!(
            max_connections = wanted,
            fitting,
            limit = limit(),
            "the limit of file descriptors has no room for server.max_connections: more connections than fit wait to be accepted; \
             raise the hard limit (LimitNOFILE= of a systemd unit, `ulimit -Hn`), or lower max_connections"
        );
    }
    usize::try_from(fitting).unwrap_or(usize::MAX).clamp(1, wanted.max(1))
}

fn fitting(limit: u64, open: u64) -> u64 {
    limit.saturating_sub(open + RESERVE) / 2
}

/// Whether a descriptor is one of the last, which are kept for operators. The system gives the lowest number that is free, so a high
/// one means that all below it are taken.
pub fn is_reserved(descriptor: &impl AsRawFd) -> bool {
    is_reserved_of(u64::try_from(descriptor.as_raw_fd()).unwrap_or_default(), limit())
}

fn is_reserved_of(number: u64, limit: u64) -> bool {
    number >= limit.saturating_sub(RESERVE.min(limit / 4))
}

/// How many are open now.
fn open() -> u64 {
    const USUAL: u64 = 32;
    std::fs::read_dir("/proc/self/fd").map_or(USUAL, |entries| entries.count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_needs_two_and_operators_keep_some() {
        assert_eq!(fitting(80, 24), 20);
        assert_eq!(fitting(1024, 28), 490);
        assert_eq!(fitting(20, 30), 0);
        assert_eq!(fitting(u64::MAX, 0), (u64::MAX - RESERVE) / 2);
    }

    #[test]
    fn the_last_descriptors_are_reserved() {
        assert!(!is_reserved_of(63, 80));
        assert!(is_reserved_of(64, 80));
        assert!(!is_reserved_of(29, 40));
        assert!(is_reserved_of(30, 40));
        assert!(!is_reserved_of(1_000_000, u64::MAX));
    }
}
