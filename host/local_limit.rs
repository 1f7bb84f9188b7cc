//! Failures that are the gateway's own: this machine or process lacks something that a connection needs, such as file descriptors,
//! memory or local ports. They say nothing about the vendor that was to be called.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::Instant;

/// Errors of the system that mean a shortage here, whatever was being done. Sources: the ERRORS sections of socket(2), connect(2),
/// epoll_ctl(2) and open(2).
const SHORTAGES: [Errno; 7] = [
    Errno::MFILE,
    Errno::NFILE,
    Errno::NOMEM,
    Errno::NOBUFS,
    Errno::ADDRNOTAVAIL,
    Errno::AGAIN,
    Errno::NOSPC,
];

/// Whether an error of the system means that this machine or process is at a limit.
pub fn is_local(error: &io::Error) -> bool {
    let is_known = |code: i32| SHORTAGES.iter().any(|errno| errno.raw_os_error() == code);
    error.raw_os_error().is_some_and(is_known)
}

/// The same for an error that was caused by one of the system's.
pub fn caused(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut system = causes.filter_map(|error| error.downcast_ref::<io::Error>());
    // An error that holds another one does not name it as its source.
    system.any(|error| is_local(error) || error.get_ref().is_some_and(|held| caused(held)))
}

/// Writes an ERROR line that names the shortage and what it keeps from happening. A shortage fails many things at once, so lines are
/// limited to one in ten seconds; each says how many were left out before it.
pub fn report(shortage: &str, effect: &str) {
    static LINES: Throttle = Throttle::new(Duration::from_secs(10));
    if let Some(left_out) = LINES.take(Instant::now()) {
        tracing::error!(shortage, effect, left_out, "the gateway is at a limit of this machine");
    }
}

/// Lets one line through in an interval, and counts the others.
struct Throttle {
    every: Duration,
    state: Mutex<(Option<Instant>, u64)>,
}

impl Throttle {
    const fn new(every: Duration) -> Self {
        Self {
            every,
            state: Mutex::new((None, 0)),
        }
    }

    /// Whether a line may be written now, and how many were left out since the last.
    fn take(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, left_out) = &mut *state;
        if last.is_some_and(|last| now.saturating_duration_since(last) < self.every) {
            *left_out += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortages_here_are_not_failures_there() {
        for local in [libc_code::EMFILE, libc_code::ENFILE, libc_code::ENOMEM] {
            assert!(is_local(&io::Error::from_raw_os_error(local)), "{local}");
        }
        for (errno, local) in [
            (Errno::NOBUFS, true),
            (Errno::ADDRNOTAVAIL, true),
            (Errno::AGAIN, true),
            (Errno::CONNREFUSED, false),
            (Errno::HOSTUNREACH, false),
            (Errno::NETUNREACH, false),
            (Errno::CONNRESET, false),
            (Errno::TIMEDOUT, false),
        ] {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            assert_eq!(is_local(&error), local, "{error}");
            assert_eq!(caused(&io::Error::other(error)), local);
        }
    }

    /// As Linux numbers them.
    mod libc_code {
        pub const ENOMEM: i32 = 12;
        pub const ENFILE: i32 = 23;
        pub const EMFILE: i32 = 24;
    }

    #[test]
    fn lines_are_limited_and_those_left_out_are_counted() {
        let lines = Throttle::new(Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| lines.take(start + Duration::from_secs(seconds));
        assert_eq!(
            [at(0), at(1), at(9), at(10), at(20)],
            [Some(0), None, None, Some(2), Some(0)]
        );
    }
}
