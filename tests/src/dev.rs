//! A cluster as a developer starts it: `levada dev`, and the command beside it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

/// A node, as `cluster.json` has it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct DevNode {
    /// Its id.
    pub id: u64,
    /// Its process.
    pub pid: u32,
    /// `host:port` of its native protocol.
    pub native: String,
    /// `host:port` of its Flight service.
    pub flight: String,
    /// `host:port` of its health and metrics.
    pub http: String,
    /// Its data directory.
    pub data_dir: PathBuf,
}

/// `cluster.json`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct ClusterFile {
    /// All nodes.
    pub nodes: Vec<DevNode>,
}

/// A running `levada dev`. Stopped when dropped.
#[derive(Debug)]
pub struct Dev {
    binary: PathBuf,
    process: Child,
    /// The nodes, in the order of their ids.
    pub nodes: Vec<DevNode>,
}

impl Dev {
    /// Starts it on a directory, with more arguments, and waits until it says that all nodes serve.
    ///
    /// # Errors
    /// It ends before that.
    pub fn start(binary: &Path, directory: &Path, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(binary);
        command.args(["--output", "json", "dev", "--data-dir"]).arg(directory).args(arguments);
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let stdout = process.stdout.take().context("the process has no output")?;
        let mut stderr = process.stderr.take().context("the process has no output")?;
        let words = std::thread::spawn(move || {
            let mut words = String::new();
            // What is not text is not worth showing.
            let _ = stderr.read_to_string(&mut words);
            words
        });
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line.is_empty() {
            let words = words.join().unwrap_or_default();
            bail!("levada dev ended ({}) before the nodes were ready: {words}", process.wait()?);
        }
        let ClusterFile { nodes } = serde_json::from_str(&line).with_context(|| format!("not cluster.json: {line}"))?;
        Ok(Self { binary: binary.to_owned(), process, nodes })
    }

    /// Native addresses, as a client takes them.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.nodes.iter().map(|node| node.native.clone()).collect::<Vec<_>>().join(",")
    }

    /// The `levada` command, for this cluster.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env("LEVADA_BOOTSTRAP", self.bootstrap());
        command
    }

    /// Runs the `levada` command with this on its standard input.
    ///
    /// # Errors
    /// It cannot be run. How it ended is in the output.
    pub fn run(&self, arguments: &[&str], input: &[u8]) -> Result<Output> {
        let mut command = self.command(arguments);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = process.stdin.take().context("the process has no input")?;
        let input = input.to_owned();
        let writer = std::thread::spawn(move || {
            // It may end before it has read everything.
            let _ = stdin.write_all(&input);
        });
        let output = process.wait_with_output()?;
        writer.join().ok().context("writing the input failed")?;
        Ok(output)
    }

    /// Runs the `levada` command, and answers what it printed.
    ///
    /// # Errors
    /// It fails; with its words.
    pub fn ok(&self, arguments: &[&str], input: &[u8]) -> Result<String> {
        let output = self.run(arguments, input)?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "levada {arguments:?} ended with {}: {words}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// `kill -9` of a node.
    ///
    /// # Errors
    /// There is no such node.
    pub fn kill(&self, id: u64) -> Result<()> {
        let node = self.nodes.iter().find(|node| node.id == id).with_context(|| format!("no node {id}"))?;
        signal(node.pid, Signal::KILL)
    }

    /// Stops it as SIGTERM does, and says how it ended.
    ///
    /// # Errors
    /// It is gone already.
    pub fn stop(mut self) -> Result<ExitStatus> {
        signal(self.process.id(), Signal::TERM)?;
        Ok(self.process.wait()?)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // After `stop` it is gone, and both fail.
        if self.process.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = signal(self.process.id(), Signal::TERM);
            let _ = self.process.wait();
        }
    }
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("process 0 is none")?;
    kill_process(pid, signal).with_context(|| format!("process {pid:?} takes no signal"))
}
