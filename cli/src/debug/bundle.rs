//! What goes into a bundle.
//!
//! What the cluster says is had by the commands that an operator would run, as JSON, from this very binary: nobody has to
//! learn a second form, and one of them that hangs or fails takes nothing else with it. Then each node is asked for its
//! metrics and health. What cannot be had is noted, and the rest goes on.

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};

use super::{archive::Entry, secrets};
use crate::{args::Global, doctor::configuration::Configuration, scrape::http, server::flags::ConfigFlags, units};

/// A file, and the command that makes it.
const COMMANDS: [(&str, &[&str]); 4] = [
    ("cluster-status.json", &["cluster", "status"]),
    ("topics.json", &["topic", "list"]),
    ("top.json", &["top", "--once"]),
    ("doctor.json", &["doctor"]),
];
/// How long a command may take with its tries, and then in all.
const OPERATION_WITHIN: Duration = Duration::from_secs(10);
const COMMAND_WITHIN: Duration = Duration::from_secs(30);
const NODE_WITHIN: Duration = Duration::from_secs(5);

/// What a node says over HTTP, and under which name it is kept.
const PAGES: [(&str, &str); 3] =
    [("/metrics", "metrics.txt"), ("/health/ready", "ready.json"), ("/health/live", "live.json")];

/// What tells one machine from another, as the kernel has it.
const MACHINE: [&str; 6] =
    ["/proc/version", "/etc/os-release", "/proc/uptime", "/proc/loadavg", "/proc/meminfo", "/proc/self/limits"];

/// Everything that could be had, and what could not.
#[derive(Debug, Default)]
pub(super) struct Bundle {
    pub(super) files: Vec<Entry>,
    pub(super) missing: Vec<String>,
}

impl Bundle {
    /// Gathers all of it, and says on standard error how that goes.
    pub(super) async fn gather(global: &Global, config: Option<PathBuf>, http: &[String], made: Timestamp) -> Self {
        let mut bundle = Self::default();
        let mut nodes: Vec<(String, String)> =
            http.iter().map(|address| (address.replace([':', '/'], "_"), address.clone())).collect();
        for (name, words) in COMMANDS {
            let said = run(global, words, config.as_ref()).await;
            if let (Ok(said), "cluster-status.json") = (&said, name) {
                nodes.extend(http_addresses(said));
            }
            bundle.keep(name, said.map(|said| format!("{said:#}\n")));
        }
        if nodes.is_empty() {
            bundle.lack("nodes", "no node told the addresses of the others; --http names them");
        }
        // All at once: those that are down may take as long as they like.
        let asked = nodes.iter().flat_map(|(node, address)| {
            PAGES.map(|(path, name)| async move {
                (format!("nodes/{node}/{name}"), http::get(address, path, NODE_WITHIN).await)
            })
        });
        for (name, page) in join_all(asked).await {
            bundle.keep(&name, page.map(|page| page.body));
        }
        bundle.configuration(config);
        for path in MACHINE {
            let name = format!("machine/{}", path.trim_start_matches('/').replace('/', "-"));
            bundle.keep(&name, std::fs::read_to_string(path).with_context(|| path.to_owned()));
        }
        bundle.close(global, made);
        bundle
    }

    /// The configuration of the node on this machine; others keep theirs to themselves.
    fn configuration(&mut self, config: Option<PathBuf>) {
        const NAME: &str = "config.txt";
        if config.is_none() && std::env::var_os("LEVADA_NODE_ID").is_none() {
            return self.lack(NAME, "--config FILE names the configuration of the node on this machine");
        }
        let (configuration, finding) = Configuration::load(config, ConfigFlags::default());
        match configuration {
            Some(configuration) => self.keep(NAME, Ok(secrets::from_lines(&configuration.config.lines()))),
            None => self.lack(NAME, &finding.saw),
        }
    }

    /// What the bundle is, and what it lacks.
    fn close(&mut self, global: &Global, made: Timestamp) {
        let missing: String = self.missing.iter().map(|line| format!("{line}\n")).collect();
        let missing = if missing.is_empty() { "nothing\n".to_owned() } else { missing };
        self.files.push(("missing.txt".to_owned(), missing.into_bytes()));
        let about = json!({
            "made": made.to_string(),
            "levada": env!("CARGO_PKG_VERSION"),
            "optimised": !cfg!(debug_assertions),
            "bootstrap": secrets::from_text(&global.bootstrap()),
            "files": self.files.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        });
        self.files.push(("about.json".to_owned(), format!("{about:#}\n").into_bytes()));
    }

    fn keep(&mut self, name: &str, text: Result<String>) {
        match text {
            Ok(text) => {
                eprintln!("  {name} ({})", units::size(text.len() as u64));
                self.files.push((name.to_owned(), text.into_bytes()));
            }
            Err(error) => self.lack(name, &format!("{error:#}")),
        }
    }

    fn lack(&mut self, name: &str, why: &str) {
        let why = secrets::from_text(why);
        eprintln!("  {name} is missing: {why}");
        self.missing.push(format!("{name}: {why}"));
    }
}

/// What a command of this binary prints as JSON, without secrets. How it ended does not matter: a doctor that finds
/// something wrong fails, and has said so.
async fn run(global: &Global, words: &[&str], config: Option<&PathBuf>) -> Result<Value> {
    let within = global.timeout().min(OPERATION_WITHIN);
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("levada")
        .args(["--bootstrap", &global.bootstrap(), "--output", "json"])
        .args(["--timeout", &format!("{}ms", within.as_millis())])
        .args(words)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let (Some(config), ["doctor"]) = (config, words) {
        command.arg("--config").arg(config);
    }
    let shown = words.join(" ");
    let ended = timeout(COMMAND_WITHIN, command.output()).await;
    let output = ended.with_context(|| format!("levada {shown} did not end within {COMMAND_WITHIN:?}"))??;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.stdout.is_empty(), "levada {shown} printed nothing, and said: {}", errors.trim());
    let mut said: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("levada {shown}"))?;
    secrets::from_json(&mut said);
    Ok(said)
}

/// Each node's id and HTTP address, of `levada cluster status`.
fn http_addresses(status: &Value) -> Vec<(String, String)> {
    let nodes = status["nodes"].as_array().into_iter().flatten();
    nodes.filter_map(|node| Some((node["id"].as_u64()?.to_string(), node["http"].as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_found_in_the_status() {
        let status = json!({"nodes": [{"id": 1, "http": "a:1"}, {"id": 2}, {"id": 3, "http": "c:3"}]});
        let found = [("1", "a:1"), ("3", "c:3")].map(|(id, http)| (id.to_owned(), http.to_owned()));
        assert_eq!(http_addresses(&status), found);
        assert!(http_addresses(&json!(null)).is_empty());
    }

    #[test]
    fn what_cannot_be_had_is_noted_without_secrets() {
        let mut bundle = Bundle::default();
        bundle.keep("a", Ok("text".to_owned()));
        bundle.keep("b", Err(anyhow::anyhow!("no http://u:p@h")));
        assert_eq!(bundle.missing, ["b: no http://(taken out)@h"]);
        assert_eq!(bundle.files.len(), 1);
    }
}
