//! What a checker says.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::history::{Index, Key};

/// Whether what happened may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing is wrong, and enough happened to say so.
    Valid,
    /// Too little happened, or too little is known of it.
    Inconclusive,
    /// Something happened that must not.
    Invalid,
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anomaly {
    /// Its kind, such as `lost-write`.
    pub kind: String,
    /// The partition or register in which it is.
    pub key: Option<Key>,
    /// What exactly, for a person.
    pub what: String,
    /// The events that show it, in the order of the argument.
    pub events: Vec<Index>,
}

/// What one checker found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Its name, such as `log`.
    pub name: String,
    /// Its verdict.
    pub verdict: Verdict,
    /// Why it is not [`Verdict::Valid`], in a sentence, if it is not.
    pub why: Option<String>,
    /// How many of each kind were found. Those beyond [`Check::ANOMALIES_MAX`] a kind are counted only.
    pub counts: BTreeMap<String, u64>,
    /// The first of each kind.
    pub anomalies: Vec<Anomaly>,
    /// What was measured on the way; the unit is last in the name, such as `longest_gap_ms`.
    pub figures: BTreeMap<String, f64>,
}

impl Check {
    /// Of each kind, so many anomalies are told in full.
    pub const ANOMALIES_MAX: u64 = 8;

    /// One that has found nothing yet.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            verdict: Verdict::Valid,
            why: None,
            counts: BTreeMap::new(),
            anomalies: Vec::new(),
            figures: BTreeMap::new(),
        }
    }

    /// Something must not be.
    pub fn found(&mut self, kind: &str, key: Option<Key>, events: Vec<Index>, what: impl Into<String>) {
        self.verdict = Verdict::Invalid;
        let count = self.counts.entry(kind.to_owned()).or_default();
        *count += 1;
        if *count <= Self::ANOMALIES_MAX {
            self.anomalies.push(Anomaly { kind: kind.to_owned(), key, what: what.into(), events });
        }
        let kinds: Vec<String> = self.counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        self.why = Some(kinds.join(", "));
    }

    /// Nothing is known to be wrong, but it cannot be said that nothing is.
    pub fn doubt(&mut self, why: impl Into<String>) {
        if self.verdict == Verdict::Valid {
            self.verdict = Verdict::Inconclusive;
            self.why = Some(why.into());
        }
    }

    /// Notes a figure.
    pub fn figure(&mut self, name: &str, value: f64) {
        self.figures.insert(name.to_owned(), value);
    }
}

/// The worst of all.
#[must_use]
pub fn worst<'a>(checks: impl IntoIterator<Item = &'a Check>) -> Verdict {
    checks.into_iter().map(|check| check.verdict).max().unwrap_or(Verdict::Inconclusive)
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "valid",
            Self::Inconclusive => "inconclusive",
            Self::Invalid => "INVALID",
        })
    }
}
