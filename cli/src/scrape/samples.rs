//! Prometheus' text form, read back.

use std::collections::BTreeMap;

use levada_protocol::metric::Metric;

/// The numbers of one scrape, by the name they stand under.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Samples(BTreeMap<String, Vec<Sample>>);

#[derive(Clone, Debug, PartialEq)]
struct Sample {
    labels: Vec<(String, String)>,
    value: f64,
}

impl Samples {
    /// What is not understood is left out.
    pub(crate) fn parse(text: &str) -> Self {
        let mut all: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, sample)) = sample(line) {
                all.entry(name.to_owned()).or_default().push(sample);
            }
        }
        Self(all)
    }

    fn of(&self, name: &str) -> &[Sample] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// The number of a counter or a gauge; the sum, if it is told apart by labels.
    pub(crate) fn get(&self, metric: Metric) -> Option<f64> {
        let samples = self.of(metric.name);
        (!samples.is_empty()).then(|| samples.iter().map(|sample| sample.value).sum())
    }

    /// A label of the first number of a metric.
    pub(crate) fn label(&self, metric: Metric, label: &str) -> Option<&str> {
        let labels = &self.of(metric.name).first()?.labels;
        labels.iter().find(|(name, _)| name == label).map(|(_, value)| value.as_str())
    }

    /// A quantile of what a histogram got since an earlier scrape, or ever. Within a bucket it takes values to be spread
    /// evenly, as Prometheus does. None if there is nothing.
    pub(crate) fn quantile(&self, metric: Metric, quantile: f64, since: Option<&Self>) -> Option<f64> {
        let buckets = |samples: &Self| -> BTreeMap<u64, (f64, f64)> {
            let mut buckets = BTreeMap::new();
            for sample in samples.of(&format!("{}_bucket", metric.name)) {
                let le = sample.labels.iter().find(|(name, _)| name == "le").and_then(|(_, le)| le.parse::<f64>().ok());
                let Some(le) = le.filter(|le| *le >= 0.0) else { continue };
                // Positive floats are in the order of their bits.
                buckets.entry(le.to_bits()).or_insert((le, 0.0)).1 += sample.value;
            }
            buckets
        };
        let earlier = since.map(buckets).unwrap_or_default();
        let counts: Vec<(f64, f64)> = buckets(self)
            .into_iter()
            // A process that was started again counts from 0.
            .map(|(key, (le, count))| (le, (count - earlier.get(&key).map_or(0.0, |(_, count)| *count)).max(0.0)))
            .collect();
        let total = counts.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
        let rank = quantile * total;
        let (mut below_le, mut below_count) = (0.0, 0.0);
        for (le, count) in counts {
            if count >= rank {
                let is_open = le.is_infinite() || count <= below_count;
                let part = if is_open { 0.0 } else { (rank - below_count) / (count - below_count) };
                return Some(if le.is_infinite() { below_le } else { below_le + (le - below_le) * part });
            }
            (below_le, below_count) = (le, count);
        }
        None
    }
}

/// `name{label="value",…} number`.
fn sample(line: &str) -> Option<(&str, Sample)> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = rest.split_whitespace().next()?;
    // Go's spelling, which Rust's parser takes as well: +Inf, NaN.
    Some((name, Sample { labels, value: value.parse().ok()? }))
}

/// Up to and with the closing brace; what is behind it.
fn labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(behind) = rest.strip_prefix('}') {
            return Some((labels, behind));
        }
        let (name, behind) = rest.split_once("=\"")?;
        let (mut value, mut escaped, mut end) = (String::new(), false, None);
        for (at, c) in behind.char_indices() {
            match c {
                _ if escaped => {
                    value.push(if c == 'n' { '\n' } else { c });
                    escaped = false;
                }
                '\\' => escaped = true,
                '"' => {
                    end = Some(at + 1);
                    break;
                }
                c => value.push(c),
            }
        }
        labels.push((name.to_owned(), value));
        rest = behind.get(end?..)?;
    }
}

#[cfg(test)]
mod tests {
    use levada_broker::metrics::{NODE_INFO, PRODUCE_SECONDS, REQUESTS, TAIL_BYTES};

    use super::*;

    #[test]
    fn numbers_and_labels_are_read() {
        let text = "# HELP x y\nlevada_requests_total{api=\"produce\",code=\"OK\"} 3\n\
                    levada_requests_total{api=\"fetch\",code=\"}\\\"\\\\ \"} 4\nlevada_tail_bytes 1.5e3\n\
                    levada_node_info{node=\"2\",version=\"0.1.0\"} 1\nhalf{a=\"b\nnothing\nx y\n";
        let samples = Samples::parse(text);
        assert_eq!(samples.get(REQUESTS), Some(7.0));
        assert_eq!(samples.get(TAIL_BYTES), Some(1500.0));
        assert_eq!(samples.label(NODE_INFO, "version"), Some("0.1.0"));
        assert_eq!(samples.label(NODE_INFO, "rack"), None);
        assert_eq!(samples.get(PRODUCE_SECONDS), None);
        assert_eq!(samples.0.len(), 3, "{samples:?}");
        assert_eq!(samples.of("levada_requests_total")[1].labels[1].1, "}\"\\ ");
    }

    #[test]
    fn quantiles_are_of_what_came_since() {
        let of = |counts: [u32; 4]| {
            let lines = ["0.001", "0.002", "0.1", "+Inf"].iter().zip(counts);
            let lines = lines.map(|(le, count)| format!("levada_produce_seconds_bucket{{le=\"{le}\"}} {count}\n"));
            Samples::parse(&lines.collect::<String>())
        };
        let (first, second) = (of([100, 100, 100, 100]), of([100, 110, 120, 120]));
        let quantile = |quantile, since| second.quantile(PRODUCE_SECONDS, quantile, since).unwrap();
        assert!((quantile(0.25, Some(&first)) - 0.0015).abs() < 1e-9);
        assert!((quantile(0.75, Some(&first)) - 0.051).abs() < 1e-9);
        assert!(quantile(0.5, None) < 0.001);
        assert_eq!(first.quantile(PRODUCE_SECONDS, 0.5, Some(&first)), None, "nothing came");
        assert!(first.quantile(PRODUCE_SECONDS, 0.5, Some(&second)).is_none(), "it was started again");
        let beyond = of([0, 0, 0, 5]).quantile(PRODUCE_SECONDS, 0.5, None).unwrap();
        assert!((beyond - 0.1).abs() < 1e-9, "more is not known");
    }
}
