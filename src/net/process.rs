//! The standard metrics of a process, which have the same names for all programs:
//! <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use super::prometheus::Writer;
use crate::time::Wall;

/// Unit of processor times in `/proc`, per second. Linux defines it as 100 (`USER_HZ`) on all
/// architectures that Rust supports with a standard library.
const TICKS_PER_SECOND: f64 = 100.0;

/// Measurements of this process.
pub struct Process {
    started: Wall,
    descriptors: Descriptors,
}

/// The number of open descriptors.
enum Descriptors {
    /// The size of `/proc/self/fd`, which Linux reports since 6.2, and as 0 before that.
    Size,
    /// A thread lists that directory, which takes milliseconds if many are open. It is asked at each
    /// measurement, which returns the result of the previous one.
    Listed { requests: SyncSender<()>, latest: Arc<AtomicU64> },
    /// There is no `/proc`, or no thread.
    Unknown,
}

impl Process {
    /// A process that was started at `started`.
    #[must_use]
    pub fn new(started: Wall) -> Self {
        let descriptors = match size() {
            Some(0) => Descriptors::listed().unwrap_or(Descriptors::Unknown),
            Some(_) => Descriptors::Size,
            None => Descriptors::Unknown,
        };
        Self { started, descriptors }
    }

    /// Writes the metrics. Those that are unknown, for example without `/proc`, are absent.
    pub fn push_metrics(&self, w: &mut Writer) {
        let stat = fs::read_to_string("/proc/self/stat").ok();
        let stat = stat.as_deref().and_then(Stat::parse);
        if let Some(stat) = &stat {
            w.standard_counter("process_cpu_seconds_total", "CPU time used, in seconds.")
                .value(stat.cpu_seconds);
        }
        w.standard_gauge("process_start_time_seconds", "Start, since the Unix epoch.")
            .value(self.started.nanos() as f64 / 1e9);
        let resident = resident_bytes();
        if let Some(bytes) = resident {
            w.standard_gauge("process_resident_memory_bytes", "Resident memory.").value(bytes);
        }
        if let Some(stat) = &stat {
            w.standard_gauge("process_virtual_memory_bytes", "Virtual memory.")
                .value(stat.virtual_bytes);
        }
        let open = self.descriptors.measure();
        if let Some(open) = open {
            w.standard_gauge("process_open_fds", "Open file descriptors.").value(open);
        }
        let most = rlimit::Resource::NOFILE.get().map(|(soft, _)| soft).ok();
        if let Some(most) = most {
            w.standard_gauge("process_max_fds", "Limit on open file descriptors.").value(most);
        }
        for (name, standard, value) in [
            ("resident_memory_bytes", "process_resident_memory_bytes", resident),
            ("open_fds", "process_open_fds", open),
            ("max_fds", "process_max_fds", most),
        ] {
            if let Some(value) = value {
                w.gauge(name, &format!("The same as {standard}, for existing dashboards."))
                    .value(value);
            }
        }
    }
}

impl Descriptors {
    /// Starts the thread, after a first count: few descriptors are open at the start.
    fn listed() -> io::Result<Self> {
        let latest = Arc::new(AtomicU64::new(list()?));
        let (requests, requested) = sync_channel(1);
        let counted = Arc::clone(&latest);
        thread::Builder::new().name("descriptors".to_owned()).spawn(move || {
            for () in requested {
                if let Ok(open) = list() {
                    counted.store(open, Ordering::Relaxed);
                }
            }
        })?;
        Ok(Self::Listed { requests, latest })
    }

    fn measure(&self) -> Option<u64> {
        match self {
            Self::Size => size(),
            Self::Listed { requests, latest } => {
                let open = latest.load(Ordering::Relaxed);
                let _ = requests.try_send(()); // if it is full, the thread has a request already
                Some(open)
            }
            Self::Unknown => None,
        }
    }
}

/// The size of `/proc/self/fd`.
fn size() -> Option<u64> {
    fs::metadata("/proc/self/fd").ok().map(|directory| directory.len())
}

/// The number of entries of `/proc/self/fd`, without the one that lists it.
fn list() -> io::Result<u64> {
    Ok((fs::read_dir("/proc/self/fd")?.count() as u64).saturating_sub(1))
}

/// Resident memory by `/proc/self/status`, which gives it in KiB.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Fields of `/proc/self/stat`.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    virtual_bytes: u64,
}

impl Stat {
    /// Parses the line, whose fields proc(5) numbers. The second one, the name of the command in
    /// parentheses, may contain anything.
    fn parse(line: &str) -> Option<Self> {
        let (_, fields) = line.rsplit_once(')')?;
        let mut fields = fields.split_whitespace().skip(14 - 3).map(|field| field.parse().ok());
        let user: u64 = fields.next()??;
        let system: u64 = fields.next()??;
        let virtual_bytes = fields.nth(23 - 16)??;
        let cpu_seconds = (user + system) as f64 / TICKS_PER_SECOND;
        Some(Self { cpu_seconds, virtual_bytes })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn fields_are_found_whatever_the_name_of_the_command() {
        let line = "7 (a) 1 (b) S 1 1 1 0 -1 4194560 9 0 0 0 250 75 0 0 20 0 4 0 11 5242880 99 18";
        let expected = Stat { cpu_seconds: 3.25, virtual_bytes: 5_242_880 };
        assert_eq!(Stat::parse(line), Some(expected));
        assert_eq!(Stat::parse(&line[..50]), None);
        assert_eq!(Stat::parse(""), None);
    }

    /// Other tests of this process open and close files meanwhile, so the number is a lower bound.
    #[test]
    fn descriptors_are_counted_on_kernels_that_do_not_report_them() {
        let descriptors = Descriptors::listed().unwrap();
        assert!(descriptors.measure() > Some(2));
        let _open: Vec<File> = (0..300).map(|_| File::open("/proc/self/stat").unwrap()).collect();
        let start = Instant::now();
        while descriptors.measure() < Some(300) {
            assert!(start.elapsed() < Duration::from_secs(10), "the thread does not count");
            thread::yield_now();
        }
    }
}
