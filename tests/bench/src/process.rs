//! Processor time and memory of a process, as Linux tells them under `/proc`.

use std::{fs, io};

use serde::Serialize;

/// `/proc/PID/stat` counts in units of 1/100 s on every Linux (USER_HZ), whatever the kernel's own tick.
const US_PER_TICK: u64 = 10_000;

/// What a process, or a process and its children, have used.
#[derive(Clone, Copy, Default, Serialize)]
pub struct Usage {
    /// User and system time of all threads, those that have ended included, in microseconds.
    pub cpu_us: u64,
    /// Memory now.
    pub rss_kib: u64,
    /// Memory at its highest.
    pub peak_kib: u64,
}

impl Usage {
    /// One process alone.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        Ok(Self {
            cpu_us: cpu_us(&stat)?,
            rss_kib: kib(&status, "VmRSS:")?,
            peak_kib: kib(&status, "VmHWM:")?,
        })
    }

    /// A process and its children, added up: nginx is a master and its workers. Pages they share count once for each.
    pub fn of_tree(pid: u32) -> io::Result<Self> {
        let mut sum = Self::of_process(pid)?;
        for child in children(pid)? {
            let child = Self::of_tree(child)?;
            sum.cpu_us += child.cpu_us;
            sum.rss_kib += child.rss_kib;
            sum.peak_kib += child.peak_kib;
        }
        Ok(sum)
    }
}

fn children(pid: u32) -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let listed = fs::read_to_string(thread?.path().join("children"))?;
        children.extend(listed.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    Ok(children)
}

/// Fields 14 and 15 of `stat`, counted from behind the program's name, which may hold spaces.
fn cpu_us(stat: &str) -> io::Result<u64> {
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut times = behind_name
        .split_whitespace()
        .skip(11)
        .map_while(|field| field.parse::<u64>().ok());
    match (times.next(), times.next()) {
        (Some(user), Some(system)) => Ok((user + system) * US_PER_TICK),
        _ => Err(io::Error::other("no processor times in /proc/PID/stat")),
    }
}

fn kib(status: &str, name: &str) -> io::Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| io::Error::other(format!("no {name} in /proc/PID/status")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_usage_is_read() {
        let usage = Usage::of_tree(std::process::id()).expect("this is Linux");
        assert!(usage.rss_kib > 100 && usage.peak_kib >= usage.rss_kib);
    }

    #[test]
    fn a_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 1 1 1";
        assert_eq!(cpu_us(stat).expect("both times are there"), 2_000_000);
    }
}
