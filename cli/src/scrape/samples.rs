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
    use levada_broker::metrics::{CONTROLLER, NODE_INFO, REQUESTS, TAIL_BYTES};

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
        assert_eq!(samples.get(CONTROLLER), None);
        assert_eq!(samples.0.len(), 3, "{samples:?}");
        assert_eq!(samples.of("levada_requests_total")[1].labels[1].1, "}\"\\ ");
    }
}
