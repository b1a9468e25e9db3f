//! One run: a stage is built, clients work, nemeses strike, everything is mended, clients go on for a while, everything is read, and
//! the checkers judge.
//!
//! ```text
//! |-- clients ------------------------------------------------|
//!    |-- faults, each mended again --|  mend all  |-- tail ---|  every replica is read  |  checkers
//! ```
//!
//! It is **inconclusive** when too little happened: too few acknowledged, or a family of faults of which none bit.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use levada_checkers::{
    history::{Event, file},
    verdict::{self, Check},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::{
    control::{Control, Expected},
    nemesis::{Domain, Family, Hand, Targets},
    net::Env,
    report,
    results::{Fault, Plan, Results},
    seed::{Seed, seconds},
    stage::{Disk, Lie, Props, Stage},
    workload::{Orders, TOPIC, Workload},
};

/// The mix of families changes after so long.
const ROTATE: Duration = Duration::from_secs(30);
/// Clients work so long before the first fault, and after the last.
const LEAD: Duration = Duration::from_secs(3);
const TAIL: Duration = Duration::from_secs(25);
/// How long nodes may take to be ready when nothing disturbs them any more.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// After the last fault is mended, everything must be served within this.
const SERVED_WITHIN: Duration = Duration::from_secs(10);
// Who is not served in time must be seen, though its client gives up and asks again.
const _: () = assert!(TAIL.as_secs() > 2 * SERVED_WITHIN.as_secs());
/// How long what clients have under way may take to come to its end.
const STOP_WITHIN: Duration = Duration::from_secs(25);
/// How long it may take until nothing is missing and nothing moves, when nothing disturbs it and nobody works.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
/// Nodes prepared to join, where nodes come and go.
const SPARES: u64 = 2;
/// How long it may take to read everything.
const FINALE_WITHIN: Duration = Duration::from_secs(200);

/// A run may take so many times as long as it was asked to, if too little was acknowledged.
const SLOWER_MAX: u32 = 5;
/// How often it is looked how things go.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// The exit code of whoever was interrupted, as shells have it.
const INTERRUPTED: i32 = 130;

/// What a run is to do. What is not about the run itself is not kept with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The server.
    #[serde(skip)]
    pub binary: PathBuf,
    /// What clients do.
    pub workload: Workload,
    /// What goes wrong.
    #[serde(rename = "nemesis")]
    pub families: Vec<Family>,
    /// How many nodes a fault hits, where it hits several.
    pub targets: Targets,
    /// How many nodes.
    pub nodes: u64,
    /// Between what they are.
    pub env: Env,
    /// On what they store.
    pub disk: Disk,
    /// How long faults go on.
    #[serde(rename = "time_s", with = "seconds")]
    pub time: Duration,
    /// How often every family must bite.
    #[serde(rename = "bites")]
    pub bites_min: u64,
    /// Between two faults of one domain, on average.
    #[serde(rename = "interval_s", with = "seconds")]
    pub interval: Duration,
    /// What clients are told.
    pub orders: Orders,
    /// Fewer acknowledged prove nothing.
    #[serde(rename = "acked_min")]
    pub acknowledged_min: u64,
    /// Where runs are kept.
    #[serde(skip)]
    pub out: PathBuf,
    /// Nodes' data is kept, too.
    #[serde(skip)]
    pub keep: bool,
    /// What is not as it seems to the servers.
    pub lie: Option<Lie>,
    /// Say nothing of what happens.
    #[serde(skip)]
    pub quiet: bool,
}

impl Options {
    /// Whether it can be done.
    ///
    /// # Errors
    /// What cannot, and what to do about it.
    pub fn check(&self) -> Result<()> {
        if self.env == Env::Proxy {
            ensure!(
                self.disk == Disk::Dir,
                "disks whose power can be cut need namespaces, and root: take --env netns, or --disk dir"
            );
        }
        let elsewhere: Vec<&str> =
            self.families.iter().filter(|family| !family.works_in(self.env)).map(|family| family.name()).collect();
        ensure!(
            elsewhere.is_empty(),
            "--env {} cannot do these faults: {}; docs/harness.md says which can be done where",
            name_of(self.env),
            elsewhere.join(", ")
        );
        if let Some(family) = self.families.iter().find(|family| family.needs_disks() && self.disk != Disk::Loop) {
            bail!("{} strikes only disks that are the nodes' own: add --disk loop", family.name());
        }
        Ok(())
    }

    /// Does it. What it came to, and where it is kept.
    ///
    /// # Errors
    /// The harness is at fault: the system refuses something, or the cluster did not come up in the first place.
    pub fn run(&self) -> Result<(Results, PathBuf)> {
        let began = jiff::Timestamp::now();
        let id = format!("{}-{}", began.strftime("%Y%m%d-%H%M%S"), self.workload.name());
        let store = self.out.join(&id);
        std::fs::create_dir_all(&store).with_context(|| format!("cannot make {}", store.display()))?;
        let store = store.canonicalize()?;
        let build = crate::shell::output(&self.binary.to_string_lossy(), ["--version"])?.trim().to_owned();
        Seed::new(self, &build).keep(&store)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let played = runtime.block_on(self.play(&store));
        runtime.shutdown_timeout(Duration::from_secs(1));
        if !self.keep {
            let _ = std::fs::remove_dir_all(store.join("data"));
        }
        let (faults, mut checks, faults_end_ns) = played?;
        let events = file::read(&store.join("history.jsonl.zst"))?;
        checks.extend(self.judge(&events, &faults, faults_end_ns));
        let results = Results {
            id,
            began: began.to_string(),
            build,
            plan: self.plan(),
            again: self.again(),
            verdict: verdict::worst(&checks),
            checks,
            faults,
            shrunk: None,
        };
        keep(&store, &results, &events)?;
        Ok((results, store))
    }

    async fn play(&self, store: &Path) -> Result<(Vec<Fault>, Vec<Check>, u64)> {
        let props = Props {
            binary: self.binary.clone(),
            nodes: self.nodes,
            env: self.env,
            seed: self.orders.seed,
            spares: if self.families.contains(&Family::Membership) { SPARES } else { 0 },
            disk: self.disk,
            clocks: self.families.contains(&Family::Clock),
            lie: self.lie,
            quiet: self.quiet,
        };
        let interrupted = CancellationToken::new();
        tokio::spawn(listen_for_signals(interrupted.clone())?);
        let stage = Arc::new(tokio::task::block_in_place(|| Stage::build(&props, store))?);
        tokio::task::block_in_place(|| stage.wait_ready(READY_WITHIN))?;
        self.workload.set_up(&stage, &self.orders).await?;
        if self.lie.is_some() {
            // The lie begins here: a cluster that never was proves nothing.
            tokio::task::block_in_place(|| crate::shell::run::<&str>("sync", []))?;
        }
        let admin = levada_client::Admin::connect(&stage.bootstrap).await?;
        let expected = Expected {
            nodes: usize::try_from(self.nodes)?,
            topic: TOPIC.to_owned(),
            partitions: usize::try_from(self.orders.keys)?,
            replicas: usize::try_from(self.orders.replicas)?,
        };
        let control = Control::new(Handle::current(), admin, expected, Arc::clone(&stage));
        let processes = Arc::new(Mutex::new(Check::new("processes")));
        let lookout = tokio::spawn(look_out(Arc::clone(&stage), Arc::clone(&processes)));
        let work = self.workload.begin(&stage, &self.orders);
        tokio::time::sleep(LEAD).await;
        let faults = self.strike_all(&stage, &control, &interrupted).await?;
        let faults_end_ns = stage.recorder.now_ns();
        let mut checks = Vec::new();
        if interrupted.is_cancelled() {
            let mut check = Check::new("interrupted");
            check.doubt(format!("it was interrupted after {} s", Duration::from_nanos(faults_end_ns).as_secs()));
            checks.push(check);
        }
        let mut within = FINALE_WITHIN;
        if let Err(error) = tokio::task::block_in_place(|| stage.wait_ready(READY_WITHIN)) {
            let mut check = Check::new("ready");
            check.found("not-ready", None, Vec::new(), format!("{error:#}"));
            checks.push(check);
            within = STOP_WITHIN;
        }
        stage.say("everything is mended");
        tokio::time::sleep(TAIL).await;
        work.stop(STOP_WITHIN).await;
        stage.say("waiting until everything is whole");
        if let Err(lacks) = tokio::task::block_in_place(|| control.wait_settled(SETTLED_WITHIN)) {
            let mut check = Check::new("whole");
            check.found("not-whole", None, Vec::new(), lacks);
            checks.push(check);
        }
        stage.say("reading every replica");
        if let Err(error) = self.workload.finale(&stage, &self.orders, within).await {
            let mut check = Check::new("finale");
            check.found("unreadable", None, Vec::new(), format!("nobody says what the topic is: {error:#}"));
            checks.push(check);
        }
        stage.recorder.finish()?;
        lookout.abort();
        tokio::task::block_in_place(|| look_for_dead(&stage, &processes));
        checks.push(processes.lock().unwrap_or_else(PoisonError::into_inner).clone());
        checks.push(stage.recorder.shown());
        checks.push(scan_logs(&stage));
        Ok((faults, checks, faults_end_ns))
    }

    /// Lets each domain's nemeses strike on a thread of their own, until the time is over or somebody says stop.
    async fn strike_all(
        &self,
        stage: &Arc<Stage>,
        control: &Control,
        interrupted: &CancellationToken,
    ) -> Result<Vec<Fault>> {
        let struck: Arc<Mutex<Vec<Fault>>> = Arc::default();
        let domains: BTreeSet<Domain> = self.families.iter().map(|family| family.domain()).collect();
        let mut threads = Vec::new();
        for (number, domain) in (0_u64..).zip(domains) {
            let hand = Hand {
                stage: Arc::clone(stage),
                control: control.clone(),
                dice: StdRng::seed_from_u64(self.orders.seed ^ number << 40),
                lasts: self.interval,
                targets: self.targets,
            };
            let (this, struck) = (self.clone(), Arc::clone(&struck));
            threads.push(thread::spawn(move || this.strike(domain, hand, &struck)));
        }
        tokio::select! {
            () = self.watch(stage, &struck, &threads) => {}
            () = interrupted.cancelled() => stage.say("interrupted: mending everything, then judging what there is"),
        }
        stage.calm.set();
        let joined: Vec<_> = tokio::task::block_in_place(|| threads.into_iter().map(|thread| thread.join()).collect());
        for ended in joined {
            ended.map_err(|_| anyhow::anyhow!("a nemesis panicked"))??;
        }
        let mut faults = std::mem::take(&mut *struck.lock().unwrap_or_else(PoisonError::into_inner));
        faults.sort_by_key(|fault| fault.from_ns);
        Ok(faults)
    }

    /// Until the time is over, enough was acknowledged and every family has bitten as often as it must (a slow machine needs longer, within reason), or a
    /// nemesis has failed. Says how it goes.
    async fn watch(&self, stage: &Stage, struck: &Mutex<Vec<Fault>>, threads: &[JoinHandle<Result<()>>]) {
        let began = tokio::time::Instant::now();
        let mut told = began;
        let is_enough = || {
            let elapsed = began.elapsed();
            let bitten = bitten(&struck.lock().unwrap_or_else(PoisonError::into_inner));
            let have_all_bitten = self.families.iter().all(|family| bitten.get(family.name()) >= Some(&self.bites_min));
            let done = stage.recorder.acknowledged() >= self.acknowledged_min && have_all_bitten;
            elapsed > self.time * SLOWER_MAX
                || (elapsed > self.time && done)
                || threads.iter().any(JoinHandle::is_finished)
        };
        while !is_enough() {
            tokio::time::sleep(LOOK_INTERVAL).await;
            if told.elapsed() > Duration::from_secs(10) {
                told = tokio::time::Instant::now();
                stage.say(&format!("{} records acknowledged", stage.recorder.acknowledged()));
            }
        }
    }

    fn strike(&self, domain: Domain, mut hand: Hand, struck: &Mutex<Vec<Fault>>) -> Result<()> {
        let (mut period, mut have_bitten) = (0, BTreeSet::new());
        let all: Vec<Family> = self.families.iter().copied().filter(|family| family.domain() == domain).collect();
        loop {
            let pause = self.interval.mul_f64(hand.dice.random_range(0.3..1.0));
            if hand.stage.calm.sleep(pause) {
                return Ok(());
            }
            let now = Duration::from_nanos(hand.stage.recorder.now_ns()).as_secs() / ROTATE.as_secs();
            let mix = self.mix(now);
            if now != period {
                period = now;
                hand.stage.say(&format!("{domain:?} faults now: {}", names(&mix, domain)));
            }
            let ours: Vec<Family> = mix.into_iter().filter(|family| family.domain() == domain).collect();
            // Each must bite once, before any does a second time, whatever the mix is.
            let new: Vec<Family> = all.iter().copied().filter(|family| !have_bitten.contains(family)).collect();
            let choice = if new.is_empty() { &ours } else { &new };
            let Some(&family) = choice.choose(&mut hand.dice) else { continue };
            hand.lasts = self.interval.mul_f64(hand.dice.random_range(0.3..1.0));
            let from_ns = hand.stage.recorder.now_ns();
            let done = family.strike(&mut hand).with_context(|| format!("the nemesis {}", family.name()))?;
            let Some(done) = done else { continue };
            if done.evidence.is_some() {
                have_bitten.insert(family);
            }
            let fault = Fault {
                family: family.name().to_owned(),
                what: done.what,
                nodes: done.nodes,
                from_ns,
                to_ns: hand.stage.recorder.now_ns(),
                evidence: done.evidence,
            };
            struck.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
        }
    }

    /// Which families there are at a time: all in the first period, then some, and none in a quarter of all periods.
    fn mix(&self, period: u64) -> Vec<Family> {
        if period == 0 {
            return self.families.clone();
        }
        let mut dice = StdRng::seed_from_u64(self.orders.seed ^ period << 16);
        if dice.random_bool(0.25) {
            return Vec::new();
        }
        let count = dice.random_range(1..=self.families.len());
        self.families.choose_multiple(&mut dice, count).copied().collect()
    }

    fn judge(&self, events: &[Event], faults: &[Fault], faults_end_ns: u64) -> Vec<Check> {
        let mut checks = self.workload.check(events);
        let served = self.workload.served();
        checks.push(levada_checkers::liveness::check_served(events, faults_end_ns, SERVED_WITHIN, served));
        let floor = levada_checkers::stats::Floor { acked_min: self.acknowledged_min };
        checks.push(levada_checkers::stats::check(events, &floor));
        checks.push(self.check_faults(faults));
        checks
    }

    /// Every family must have bitten as often as it must.
    fn check_faults(&self, faults: &[Fault]) -> Check {
        let mut check = Check::new("faults");
        let bitten = bitten(faults);
        for family in &self.families {
            let count = bitten.get(family.name()).copied().unwrap_or(0);
            #[allow(clippy::cast_precision_loss, reason = "they are few")]
            check.figure(&format!("{}_count", family.name()), count as f64);
            if count == 0 {
                check.doubt(format!("nothing shows that any fault of the family {} bit", family.name()));
            } else if count < self.bites_min {
                let (name, min) = (family.name(), self.bites_min);
                check.doubt(format!("the family {name} bit {count} times, not {min}: give it more --time"));
            }
            if family.domain() == Domain::Process {
                self.count_hits(*family, faults, &mut check);
            }
        }
        let without = faults.iter().filter(|fault| fault.evidence.is_none()).count();
        #[allow(clippy::cast_precision_loss, reason = "they are few")]
        check.figure("without_evidence_count", without as f64);
        if 2 * without > faults.len() {
            check.doubt(format!("nothing shows that {without} of {} faults bit", faults.len()));
        }
        check
    }

    /// How many nodes the faults of a family hit, one by one, and how many of the faults hit all at once.
    fn count_hits(&self, family: Family, faults: &[Fault], check: &mut Check) {
        let its = faults.iter().filter(|fault| fault.family == family.name() && fault.evidence.is_some());
        let (mut nodes, mut of_all) = (0.0, 0.0);
        for fault in its {
            nodes += f64::from(u32::try_from(fault.nodes.len()).unwrap_or(u32::MAX));
            of_all += f64::from(u8::from(fault.nodes.len() as u64 == self.nodes));
        }
        check.figure(&format!("{}_nodes_count", family.name()), nodes);
        check.figure(&format!("{}_of_all_count", family.name()), of_all);
    }

    fn plan(&self) -> Plan {
        Plan {
            workload: self.workload.name().to_owned(),
            nemeses: self.families.iter().map(|family| family.name().to_owned()).collect(),
            nodes: self.nodes,
            time_s: self.time.as_secs(),
            rate: self.orders.rate,
            clients: self.orders.clients,
            interval_s: self.interval.as_secs(),
            env: name_of(self.env),
            disk: name_of(self.disk),
            seed: self.orders.seed,
        }
    }
}

/// A choice, as the command line has it.
pub(crate) fn name_of(choice: impl clap::ValueEnum) -> String {
    choice.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// The first signal says that it is enough, the second ends this process, and everything that was started with it.
fn listen_for_signals(interrupted: CancellationToken) -> Result<impl Future<Output = ()>> {
    let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        loop {
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
            }
            if interrupted.is_cancelled() {
                std::process::exit(INTERRUPTED);
            }
            interrupted.cancel();
        }
    })
}

/// How many faults of each family bit.
fn bitten(faults: &[Fault]) -> BTreeMap<String, u64> {
    let mut bitten = BTreeMap::new();
    for fault in faults.iter().filter(|fault| fault.evidence.is_some()) {
        *bitten.entry(fault.family.clone()).or_default() += 1;
    }
    bitten
}

/// Looks for processes that ended by themselves, until it is aborted.
async fn look_out(stage: Arc<Stage>, processes: Arc<Mutex<Check>>) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        tokio::task::block_in_place(|| look_for_dead(&stage, &processes));
    }
}

fn look_for_dead(stage: &Stage, processes: &Mutex<Check>) {
    let found = stage.died();
    let mut processes = processes.lock().unwrap_or_else(PoisonError::into_inner);
    match found {
        Ok(died) => {
            for (node, log) in died {
                stage.say(&format!("node {node} ENDED BY ITSELF"));
                processes.found("died", None, Vec::new(), format!("node {node} ended by itself:\n{log}"));
            }
        }
        Err(error) => processes.doubt(format!("a node cannot be started again: {error:#}")),
    }
}

/// Nobody may have panicked.
fn scan_logs(stage: &Stage) -> Check {
    let mut check = Check::new("logs");
    for node in stage.hosts() {
        for line in stage.log(node).lines().filter(|line| line.contains("panicked at")) {
            check.found("panic", None, Vec::new(), format!("node {node}: {line}"));
        }
    }
    check
}

fn names(families: &[Family], domain: Domain) -> String {
    let names = families.iter().filter(|family| family.domain() == domain).map(|family| family.name());
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn keep(store: &Path, results: &Results, events: &[Event]) -> Result<()> {
    let mut faults = String::new();
    for fault in &results.faults {
        faults.push_str(&serde_json::to_string(fault)?);
        faults.push('\n');
    }
    ensure!(store.is_dir(), "{} is gone", store.display());
    std::fs::write(store.join("faults.jsonl"), faults)?;
    std::fs::write(store.join("results.json"), serde_json::to_string_pretty(results)?)?;
    std::fs::write(store.join("report.html"), report::html(results, events))?;
    Ok(())
}
