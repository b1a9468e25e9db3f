//! What the system lets a node have: descriptors, maps, memory. As it is for this process; a service manager may give the
//! node other limits than a shell has.

use std::fs;

use levada_broker::config::ServerConfig;
use rustix::process::{Resource, getrlimit};

use super::{Finding, configuration::Configuration};
use crate::units;

/// Descriptors apart from native clients: Flight and HTTP connections, files with two each, peers, the process's own.
const FILES_BESIDES: u64 = 1024 + 64 + 2 * 512 + 256;
/// Segments that are open are mapped, and so are those that readers still hold.
const MAPS_MIN: u64 = 16_384;

pub(super) fn check(configuration: Option<&Configuration>) -> Vec<Finding> {
    let config = configuration.map(|configuration| &configuration.config);
    let mut findings = vec![
        descriptors(getrlimit(Resource::Nofile).maximum, config.map_or(4096, |config| config.limits.connections_max)),
        maps(number("/proc/sys/vm/max_map_count")),
    ];
    if let Some(config) = config {
        findings.push(memory(memory_wanted(config), memory_there()));
    }
    findings
}

/// The hard limit: the server takes all of it.
fn descriptors(limit: Option<u64>, connections_max: u64) -> Finding {
    let wanted = connections_max + FILES_BESIDES;
    let Some(limit) = limit else { return Finding::ok("limits.files", "the number of open files has no limit") };
    let saw = format!("{} open files at most (ulimit -Hn here; a unit has its own)", units::count(limit));
    let todo = format!(
        "raise the hard limit to {} or more (LimitNOFILE= of the unit, /etc/security/limits.conf), or lower \
         limits.connections_max",
        units::count(wanted)
    );
    match limit {
        0..1024 => Finding::wrong("limits.files", saw, todo),
        _ if limit < wanted => Finding::warning("limits.files", saw, todo),
        _ => Finding::ok("limits.files", saw),
    }
}

fn maps(limit: Option<u64>) -> Finding {
    let Some(limit) = limit else {
        return Finding::skipped("limits.maps", "vm.max_map_count cannot be read", "look with sysctl");
    };
    let saw = format!("{} maps at most (vm.max_map_count)", units::count(limit));
    if limit < MAPS_MIN {
        return Finding::wrong("limits.maps", saw, "sysctl -w vm.max_map_count=65530, and keep it in /etc/sysctl.d");
    }
    Finding::ok("limits.maps", saw)
}

/// What `docs/operations.md` says that a node's memory is made of.
fn memory_wanted(config: &ServerConfig) -> u64 {
    config.memory_bytes((config.seed_nodes.len() as u64).saturating_sub(1))
}

fn memory(wanted: u64, there: Option<u64>) -> Finding {
    const CHECK: &str = "memory";
    let Some(there) = there else { return Finding::skipped(CHECK, "/proc/meminfo cannot be read", "look with free") };
    let saw = format!("{} may be used, the configuration lets a node take {}", units::size(there), units::size(wanted));
    let todo = "lower tail.bytes_max, limits.request_bytes_max and flight.held_bytes_max, or give it more memory: the system ends whoever has \
                too much, and reads need page cache besides";
    match wanted {
        _ if wanted > there => Finding::wrong(CHECK, saw, todo),
        _ if wanted > there / 4 * 3 => Finding::warning(CHECK, saw, todo),
        _ => Finding::ok(CHECK, saw),
    }
}

/// The machine's memory, or less if this process's control group has less.
fn memory_there() -> Option<u64> {
    let machine = total(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(group_files(&groups).iter().filter_map(|file| number(file)).fold(machine, u64::min))
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Where the limits of the memory group stand, and those of all above it, in either version of control groups.
fn group_files(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let mut path = path.trim_end_matches('/');
        loop {
            files.push(format!("{root}{path}/{name}"));
            let Some((above, _)) = path.rsplit_once('/') else { break };
            path = above;
        }
    }
    files
}

/// A file that holds one number; `max` is none.
fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use levada_broker::config::ServerConfig;
    use levada_client::NodeId;

    use super::{super::State, *};

    const MIB: u64 = 1 << 20;

    #[test]
    fn limits_are_held_against_what_a_node_may_want() {
        let state = |limit| descriptors(limit, 4096).state;
        assert_eq!([state(None), state(Some(65_536)), state(Some(4096))], [State::Ok, State::Ok, State::Warning]);
        assert_eq!(state(Some(256)), State::Wrong);
        assert_eq!((maps(Some(65_530)).state, maps(Some(1000)).state), (State::Ok, State::Wrong));
        let wanted = memory_wanted(&ServerConfig::local(NodeId(1), "x"));
        assert_eq!(wanted, (256 + 512 + 256 + 160 + 256 + 256) * MIB, "the defaults, alone");
        let state = |there| memory(wanted, Some(there)).state;
        assert_eq!(
            [state(wanted * 2), state(wanted + 1), state(wanted - 1)],
            [State::Ok, State::Warning, State::Wrong]
        );
    }

    #[test]
    fn the_systems_files_are_understood() {
        assert_eq!(total("MemTotal:       24669068 kB\nMemFree: 1 kB\n"), Some(24_669_068 << 10));
        let files = group_files("4:memory:/a/b\n2:cpu:/x\n0::/\n");
        let expected = ["/a/b", "/a", ""].map(|path| format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"));
        assert_eq!(files[..3], expected);
        assert_eq!(files[3..], ["/sys/fs/cgroup/memory.max"]);
        assert!(memory_there().is_some_and(|bytes| bytes > 64 * MIB));
    }
}
