//! What is shown: steps, progress bars, results.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{HumanBytes, HumanCount, MultiProgress, ProgressBar, ProgressStyle};

use crate::{
    Killed,
    data::{DataSet, Source},
    ledger::Ledger,
    read::{Followed, Verdict},
};

/// The terminal.
pub(crate) struct Screen {
    bars: MultiProgress,
}

/// Something under way.
pub(crate) struct Step<'a> {
    screen: &'a Screen,
    spinner: ProgressBar,
}

impl Screen {
    pub(crate) fn new() -> Self {
        Self { bars: MultiProgress::new() }
    }

    /// A line that stays.
    pub(crate) fn say(&self, text: String) {
        // Above the bars on a terminal; otherwise there are no bars, and nothing would be shown.
        if self.bars.is_hidden() || self.bars.println(&text).is_err() {
            println!("{text}");
        }
    }

    pub(crate) fn step(&self, what: &str) -> Step<'_> {
        let spinner = self.bars.add(ProgressBar::new_spinner()).with_message(what.to_owned());
        spinner.enable_steady_tick(Duration::from_millis(100));
        Step { screen: self, spinner }
    }

    pub(crate) fn bar(&self, what: &str, length: u64) -> ProgressBar {
        let style = ProgressStyle::with_template("{prefix:>24} {bar:32} {human_pos}/{human_len} {per_sec} {msg}");
        let bar = ProgressBar::new(length).with_prefix(what.to_owned());
        self.bars.add(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    pub(crate) fn clear(&self) {
        // Only bars that are done are left.
        let _ = self.bars.clear();
    }
}

impl Step<'_> {
    pub(crate) fn done(self, what: impl Into<String>) {
        self.spinner.finish_and_clear();
        self.screen.say(format!("- {}", what.into()));
    }
}

fn table(header: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header);
    }
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}\n");
}

fn per_second(number: u64, took: Duration) -> u64 {
    let nanos = took.as_nanos().max(1);
    u64::try_from(u128::from(number) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

/// What was written and read.
pub(crate) fn results(source: &Source, verdicts: &[(&Verdict, &Ledger, &DataSet); 2], wrote: Duration) {
    if source.is_generated {
        println!("\nGENERATED EVENTS: nobody bought or flew anything.");
    }
    println!();
    for (_, _, data) in verdicts {
        println!("{} {}", HumanCount(data.rows), data.what);
    }
    let rows = ["purchases (typed)", "flights (untyped)"].iter().zip(verdicts).map(|(name, (verdict, ledger, _))| {
        vec![
            (*name).to_owned(),
            HumanCount(ledger.acknowledged()).to_string(),
            HumanCount(per_second(ledger.acknowledged(), wrote)).to_string(),
            HumanCount(verdict.records).to_string(),
            HumanCount(per_second(verdict.records, verdict.took)).to_string(),
            format!("{}/s", HumanBytes(per_second(verdict.bytes, verdict.took))),
        ]
    });
    table(&["TOPIC", "ACKNOWLEDGED", "PER SECOND", "READ AS ARROW", "PER SECOND", "THROUGHPUT"], rows.collect());
}

/// A question to the data, answered from Arrow columns.
pub(crate) fn departments(verdict: &Verdict) {
    let mut departments: Vec<_> = verdict.departments.iter().collect();
    departments.sort_by(|(_, (_, a)), (_, (_, b))| b.total_cmp(a));
    let rows = departments
        .into_iter()
        .take(5)
        .map(|(name, (count, sales))| vec![name.clone(), HumanCount(*count).to_string(), format!("{sales:.2}")]);
    table(&["DEPARTMENT", "PURCHASES", "SALES"], rows.collect());
}

/// What was promised, and whether it held.
pub(crate) fn promises(
    killed: &Killed,
    pause: Duration,
    seen: &Followed,
    caught_up: Duration,
    verdicts: &[(&Verdict, &Ledger, &DataSet); 2],
) {
    let sum = |of: fn(&Verdict) -> u64| HumanCount(verdicts.iter().map(|(verdict, ..)| of(verdict)).sum()).to_string();
    let sums = verdicts.iter().all(|(verdict, _, data)| verdict.sum_is_right(data));
    let rows = [
        ("acknowledged records lost", sum(|verdict| verdict.lost)),
        ("records twice or misplaced", sum(|verdict| verdict.wrong)),
        ("sums are those of the source", if sums { "yes" } else { "NO" }.to_owned()),
        ("killed", format!("node {}, leader of {} partitions", killed.node, killed.led)),
        ("writes to those paused for at most", format!("{:.2} s", pause.as_secs_f64())),
        ("the following reader's greatest lag", format!("{} records", HumanCount(seen.lag_max))),
        ("it had all after the last acknowledgement", format!("{:.0} ms", caught_up.as_secs_f64() * 1e3)),
    ];
    table(&[], rows.map(|(what, value)| vec![what.to_owned(), value]).to_vec());
}
