//! What a metric is, for the crates that have some.
//!
//! Each of them has a module `metrics` with a constant for every metric and a list of all. The constant is the only place
//! that describes it: Prometheus is told from there, and `docs/metrics.md` is made from there (`cargo xtask metrics`).

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until the process ends.
    Counter,
    /// It goes up and down.
    Gauge,
    /// A distribution, in buckets.
    Histogram,
}

impl Kind {
    /// Its name in documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric.
///
/// ```
/// # use levada_protocol::metric::Metric;
/// const RETRIES: Metric = Metric::counter("levada_retries_total", "requests")
///     .by(&["api"])
///     .means("requests that were tried again")
///     .when_high("look which nodes are down");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name. A counter's ends in `_total`, a histogram's in its unit.
    pub name: &'static str,
    /// Which kind of number it is.
    pub kind: Kind,
    /// What is counted or measured.
    pub unit: &'static str,
    /// By what it is told apart.
    pub labels: &'static [&'static str],
    /// What it means.
    pub meaning: &'static str,
    /// What an operator does when it is high; empty when that is no trouble.
    pub remedy: &'static str,
}

impl Metric {
    const fn new(name: &'static str, kind: Kind, unit: &'static str) -> Self {
        Self { name, kind, unit, labels: &[], meaning: "", remedy: "" }
    }

    /// A number that only grows.
    #[must_use]
    pub const fn counter(name: &'static str, unit: &'static str) -> Self {
        Self::new(name, Kind::Counter, unit)
    }

    /// A number that goes up and down.
    #[must_use]
    pub const fn gauge(name: &'static str, unit: &'static str) -> Self {
        Self::new(name, Kind::Gauge, unit)
    }

    /// A distribution.
    #[must_use]
    pub const fn histogram(name: &'static str, unit: &'static str) -> Self {
        Self::new(name, Kind::Histogram, unit)
    }

    /// Told apart by these labels.
    #[must_use]
    pub const fn by(self, labels: &'static [&'static str]) -> Self {
        Self { labels, ..self }
    }

    /// What it means.
    #[must_use]
    pub const fn means(self, meaning: &'static str) -> Self {
        Self { meaning, ..self }
    }

    /// What to do when it is high.
    #[must_use]
    pub const fn when_high(self, remedy: &'static str) -> Self {
        Self { remedy, ..self }
    }
}
