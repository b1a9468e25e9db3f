//! A real Prometheus and a real Alertmanager beside a cluster, and a webhook that takes what they send.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{http, tools};

/// Debian's Alertmanager opens files in `/usr/share` that are where it was unpacked. This shows them to it, and to nobody
/// else: `$0` is where they are, then comes the command.
const WITH_ITS_FILES: &str = "mount -t overlay overlay -o lowerdir=\"$0\":/usr/share /usr/share && exec \"$@\"";

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    prometheus: PathBuf,
    promtool: PathBuf,
    alertmanager: PathBuf,
    /// Where they were unpacked, if they are not installed.
    unpacked: Option<PathBuf>,
}

impl Programs {
    /// Those that are installed, or that an earlier run unpacked into the cache directory.
    #[must_use]
    pub fn find() -> Option<Self> {
        let installed = std::env::split_paths(&std::env::var_os("PATH")?).collect();
        let unpacked = tools::cache().ok()?.join("prometheus/usr");
        Self::in_places(installed, None).or_else(|| Self::in_places(vec![unpacked.join("bin")], Some(unpacked)))
    }

    fn in_places(places: Vec<PathBuf>, unpacked: Option<PathBuf>) -> Option<Self> {
        let find = |names: &[&str]| {
            let files = places.iter().flat_map(|place| names.iter().map(move |name| place.join(name)));
            files.into_iter().find(|file| file.is_file())
        };
        Some(Self {
            prometheus: find(&["prometheus"])?,
            promtool: find(&["promtool"])?,
            alertmanager: find(&["prometheus-alertmanager", "alertmanager"])?,
            unpacked,
        })
    }

    fn prometheus(&self) -> Command {
        Command::new(&self.prometheus)
    }

    fn alertmanager(&self) -> Command {
        let Some(unpacked) = &self.unpacked else { return Command::new(&self.alertmanager) };
        let mut command = Command::new("unshare");
        command.args(["--mount", "--map-root-user", "sh", "-c", WITH_ITS_FILES]);
        command.arg(unpacked.join("share")).arg(&self.alertmanager);
        command
    }

    /// The same, taken from the Debian archive if need be. They are unpacked, not installed: installed, both would start
    /// as services.
    ///
    /// # Errors
    /// There is no apt, or no network.
    pub fn get() -> Result<Self> {
        if let Some(found) = Self::find() {
            return Ok(found);
        }
        let directory = tools::cache()?.join("prometheus");
        fs::create_dir_all(&directory)?;
        let packages = ["prometheus", "prometheus-alertmanager"];
        let download = || {
            let mut apt = Command::new("apt-get");
            apt.args(["download", "--quiet"]).args(packages).current_dir(&directory).status()
        };
        if !download().context("cannot run apt-get")?.success() {
            // It may not know yet what there is.
            Command::new("apt-get").args(["update", "--quiet"]).status()?;
            ensure!(download()?.success(), "apt-get cannot download {packages:?}");
        }
        for file in fs::read_dir(&directory)?.filter_map(|entry| Some(entry.ok()?.path())) {
            if file.extension().is_some_and(|extension| extension == "deb") {
                let unpacked = Command::new("dpkg").arg("-x").arg(&file).arg(&directory).status()?;
                ensure!(unpacked.success(), "dpkg cannot unpack {}", file.display());
            }
        }
        Self::find().context("the packages do not hold the programs")
    }

    /// Lets promtool work on rules: `check` them, or `test` them over series made up for it.
    ///
    /// # Errors
    /// It finds fault with them.
    pub fn promtool(&self, what: &str, file: &Path) -> Result<()> {
        let output = Command::new(&self.promtool).args([what, "rules"]).arg(file).output()?;
        let said = [output.stdout, output.stderr].concat();
        ensure!(output.status.success(), "promtool {what} rules: {}", String::from_utf8_lossy(&said).trim());
        Ok(())
    }
}

/// Both programs at work. They end when this is dropped.
#[derive(Debug)]
pub struct Monitors {
    processes: Vec<Child>,
    prometheus: String,
    directory: PathBuf,
    received: Arc<Mutex<Vec<Value>>>,
}

impl Monitors {
    /// Starts them below a directory, over the HTTP addresses of nodes (job `levada`), every second. The rules must not
    /// take longer than the test.
    ///
    /// # Errors
    /// They do not come up.
    pub fn start(programs: &Programs, directory: &Path, nodes: &[String], rules: &str) -> Result<Self> {
        let received = Arc::new(Mutex::new(Vec::new()));
        let webhook = listen(Arc::clone(&received))?;
        let [prometheus, alertmanager] = [free_address()?, free_address()?];
        let targets = nodes.iter().map(|node| format!("'{node}'")).collect::<Vec<_>>().join(", ");
        fs::write(directory.join("rules.yml"), rules)?;
        fs::write(
            directory.join("prometheus.yml"),
            format!(
                "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
                 rule_files: [rules.yml]\n\
                 alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{alertmanager}']}}]}}]}}\n\
                 scrape_configs: [{{job_name: levada, static_configs: [{{targets: [{targets}]}}]}}]\n"
            ),
        )?;
        fs::write(
            directory.join("alertmanager.yml"),
            format!(
                "route: {{receiver: hook, group_by: [...], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}}\n\
                 receivers: [{{name: hook, webhook_configs: [{{url: 'http://{webhook}/'}}]}}]\n"
            ),
        )?;
        let run = |name: &str, mut program: Command, arguments: &[&str]| {
            let log = fs::File::create(directory.join(format!("{name}.log")))?;
            program.args(arguments).current_dir(directory).stdin(Stdio::null());
            let child = program.stdout(log.try_clone()?).stderr(log).spawn();
            child.with_context(|| format!("cannot start {name}"))
        };
        // Neither may listen where anybody else could reach it.
        let listen_at = |address: &str| format!("--web.listen-address={address}");
        let mut monitors = Self { processes: Vec::new(), prometheus, directory: directory.to_owned(), received };
        monitors.processes.push(run(
            "alertmanager",
            programs.alertmanager(),
            &[
                "--config.file=alertmanager.yml",
                "--storage.path=am",
                "--cluster.listen-address=",
                &listen_at(&alertmanager),
            ],
        )?);
        monitors.processes.push(run(
            "prometheus",
            programs.prometheus(),
            &["--config.file=prometheus.yml", "--storage.tsdb.path=tsdb", &listen_at(&monitors.prometheus)],
        )?);
        monitors.eventually("Prometheus is ready", |monitors| {
            Ok(http::get(&monitors.prometheus, "/-/ready").is_ok().then_some(()))
        })?;
        monitors
            .eventually("Alertmanager is ready", |_| Ok(http::get(&alertmanager, "/-/ready").is_ok().then_some(())))?;
        Ok(monitors)
    }

    /// The answer to a query: a vector.
    ///
    /// # Errors
    /// Prometheus does not like it.
    pub fn query(&self, query: &str) -> Result<Vec<Value>> {
        let body = http::get(&self.prometheus, &format!("/api/v1/query?query={}", http::encode(query)))?;
        let answer: Value = serde_json::from_str(&body)?;
        let result = answer["data"]["result"].as_array().with_context(|| format!("{query}: {body}"))?;
        Ok(result.clone())
    }

    /// The alerts that have come to the webhook so far.
    #[must_use]
    pub fn received(&self) -> Vec<Value> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks until it is so.
    ///
    /// # Errors
    /// Not within a minute; with what came to the webhook, and the ends of the logs.
    pub fn eventually<T>(&self, what: &str, mut ask: impl FnMut(&Self) -> Result<Option<T>>) -> Result<T> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(answer) = ask(self)? {
                return Ok(answer);
            }
            if Instant::now() > deadline {
                let log = |name: &str| fs::read_to_string(self.directory.join(name)).unwrap_or_default();
                let (prometheus, alertmanager) = (log("prometheus.log"), log("alertmanager.log"));
                bail!("not within a minute: {what}\n{:#?}\n{prometheus}\n{alertmanager}", self.received());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Monitors {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A webhook on a free port, until the process ends. Every alert that is sent to it is kept.
fn listen(received: Arc<Mutex<Vec<Value>>>) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    std::thread::spawn(move || {
        for socket in listener.incoming().filter_map(std::io::Result::ok) {
            // What is not understood is sent again.
            if let Ok(alerts) = take(socket) {
                received.lock().unwrap_or_else(PoisonError::into_inner).extend(alerts);
            }
        }
    });
    Ok(address)
}

fn take(socket: TcpStream) -> Result<Vec<Value>> {
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(&socket);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse()?,
            _ if line.trim().is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let message: Value = serde_json::from_slice(&body)?;
    (&socket).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    Ok(message["alerts"].as_array().cloned().unwrap_or_default())
}

/// An address that was free a moment ago.
fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}
