//! This machine's clock: whether anything keeps it right. How far nodes are apart, `cluster.rs` sees.

use std::process::Command;

use super::Finding;

const CHECK: &str = "clock";

/// Asks systemd, which knows of every service that tells the kernel that the clock is right (its own, chrony, ntpd).
pub(super) fn check() -> Finding {
    let asked = Command::new("timedatectl").args(["show", "--property=NTPSynchronized", "--value"]).output();
    let answer = asked.ok().filter(|output| output.status.success());
    judge(answer.and_then(|output| String::from_utf8(output.stdout).ok()).as_deref())
}

fn judge(answer: Option<&str>) -> Finding {
    match answer.map(str::trim) {
        Some("yes") => Finding::ok(CHECK, "it is kept right"),
        Some("no") => Finding::warning(
            CHECK,
            "nothing keeps it right (timedatectl: NTPSynchronized=no)",
            "run a time service (chrony, systemd-timesyncd): retention and timestamps go by the clock",
        ),
        _ => Finding::skipped(
            CHECK,
            "whether anything keeps it right cannot be seen here (no timedatectl that answers)",
            "in a container the host keeps it: look there",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::State, *};

    #[test]
    fn a_clock_that_nobody_keeps_is_told() {
        assert_eq!(judge(Some("yes\n")).state, State::Ok);
        assert_eq!(judge(Some("no\n")).state, State::Warning);
        assert_eq!(judge(Some("")).state, State::Skipped);
        assert_eq!(judge(None).state, State::Skipped);
    }
}
