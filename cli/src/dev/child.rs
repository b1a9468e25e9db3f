//! One node of the development cluster: a child process.

use std::{
    fs::OpenOptions,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::process::{ChildStdin, Command};

use super::layout::{Layout, Node};
use crate::scrape::http;

/// How long a node may take to answer a health request.
const HEALTH_WITHIN: Duration = Duration::from_millis(500);
/// How much of a log is shown when its node fails.
const LOG_LINES_SHOWN: usize = 12;

/// A running node, or one that has ended.
pub(super) struct Child {
    id: u64,
    pid: u32,
    http: String,
    log: PathBuf,
    process: tokio::process::Child,
    /// Closed, it tells the node to stop.
    stop: Option<ChildStdin>,
    ended: Option<ExitStatus>,
}

impl Child {
    pub(super) fn start(node: &Node, layout: &Layout) -> Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(&node.log);
        let log = log.with_context(|| format!("cannot write the log {}", node.log.display()))?;
        // Not `current_exe`: that names nothing any more once the binary was built anew.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("levada")
            .args(["server", "--until-stdin-closes"])
            .args(["--node-id", &node.id.to_string()])
            .arg("--data-dir")
            .arg(&node.data_dir)
            .args(["--listen-native", &node.native, "--listen-flight", &node.flight, "--listen-http", &node.http])
            .args(["--seed-nodes", &layout.seed_nodes()])
            .stdin(Stdio::piped())
            .stdout(log.try_clone().context("cannot share the log")?)
            .stderr(log)
            // Ctrl-C is for the parent, which stops its nodes in order.
            .process_group(0)
            .kill_on_drop(true);
        let mut process = command.spawn().with_context(|| format!("cannot start node {}", node.id))?;
        let pid = process.id().context("a process that just started has no id")?;
        let stop = process.stdin.take();
        Ok(Self { id: node.id, pid, http: node.http.clone(), log: node.log.clone(), process, stop, ended: None })
    }

    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    pub(super) const fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) const fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// How it ended, told once.
    pub(super) fn ended(&mut self) -> Result<Option<String>> {
        if self.ended.is_some() {
            return Ok(None);
        }
        self.ended = self.process.try_wait().with_context(|| format!("cannot watch node {}", self.id))?;
        Ok(self.ended.map(|status| match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => format!("ended ({status})"),
        }))
    }

    /// Whether it serves.
    pub(super) async fn is_ready(&self) -> bool {
        http::get(&self.http, "/health/ready", HEALTH_WITHIN).await.is_ok_and(|answer| answer.status == 200)
    }

    pub(super) fn ask_to_stop(&mut self) {
        drop(self.stop.take());
    }

    pub(super) async fn wait(&mut self) {
        // It was started here and is waited for nowhere else: this cannot fail.
        let _ = self.process.wait().await;
    }

    pub(super) async fn kill(&mut self) {
        // It may have ended this moment.
        let _ = self.process.kill().await;
    }

    pub(super) fn log_end(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(LOG_LINES_SHOWN)..).unwrap_or_default().join("\n")
    }
}
