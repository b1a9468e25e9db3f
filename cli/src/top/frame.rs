//! A view as lines of text, for a terminal of 80 columns and more.

use super::view::{NodeRow, NodeState, PartitionRow, View};
use crate::units;

/// How partitions are ordered when not all of them fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    /// The busiest first.
    #[default]
    Busy,
    /// Those with replicas that are down or furthest behind first.
    Behind,
}

impl Order {
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Busy => Self::Behind,
            Self::Behind => Self::Busy,
        }
    }
}

/// What a line is, for whoever has colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Names of columns.
    Head,
    /// As it should be.
    Plain,
    /// Somebody should look at it.
    Alarm,
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) kind: Kind,
    pub(super) text: String,
}

impl Line {
    fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

/// A view, and the room there is for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) view: &'a View,
    pub(super) order: Order,
    pub(super) width: usize,
    pub(super) height: usize,
}

/// As much of the cluster's id as tells two clusters apart.
const CLUSTER_SHOWN: usize = 8;
/// However low the terminal is, this many lines show nodes.
const NODES_MIN: usize = 3;
/// The columns of a partition but its topic, which gets what is left.
const PARTITION_WIDTH: usize = 60;
const TOPIC_WIDTH_MIN: usize = 12;

impl Frame<'_> {
    /// As many as fit, none longer than fits.
    pub(super) fn lines(&self) -> Vec<Line> {
        let mut lines = self.verdict();
        lines.push(Line::new(Kind::Plain, ""));
        lines.push(Line::new(
            Kind::Head,
            "NODE STATE    LEADS RECORDS/s     IN/s    OUT/s   P50   P99  SYNC FREE   MEMORY",
        ));
        lines.extend(self.nodes(lines.len()));
        lines.push(Line::new(Kind::Plain, ""));
        lines.extend(self.partitions(self.height.saturating_sub(lines.len())));
        for line in &mut lines {
            line.text = line.text.chars().take(self.width).collect();
        }
        lines.truncate(self.height);
        lines
    }

    /// Is the data safe?
    fn verdict(&self) -> Vec<Line> {
        let view = self.view;
        let (all, up) = (view.nodes.len(), view.nodes.len() - view.nodes_down());
        let (leaderless, lame) = (view.leaderless, view.under_replicated);
        let cluster: String = view.cluster.chars().take(CLUSTER_SHOWN).collect();
        let partitions = units::count(view.partitions.len() as u64);
        let [leaderless_shown, lame_shown] = [leaderless, lame].map(|count| units::count(count as u64));
        let head = format!(
            "{cluster}: {up}/{all} nodes up, {partitions} partitions, {leaderless_shown} leaderless, {lame_shown} under-replicated"
        );
        let (kind, verdict) = match (leaderless, lame) {
            (0, 0) if up == all => (Kind::Plain, "safe: every partition has a leader and all its replicas"),
            (0, 0) => (Kind::Alarm, "! nodes are down, but none that a partition needs"),
            (0, _) => (Kind::Alarm, "! a replica is down or behind: the next failure may hurt"),
            _ => (Kind::Alarm, "! partitions without a leader take nothing and give nothing"),
        };
        let behind = units::count(view.behind_max());
        vec![Line::new(Kind::Plain, head), Line::new(kind, format!("{verdict}; {behind} behind at most"))]
    }

    /// All nodes; if they would take more than half of the room, those that are in trouble first.
    fn nodes(&self, above: usize) -> Vec<Line> {
        let mut nodes: Vec<&NodeRow> = self.view.nodes.iter().collect();
        let room = (self.height / 2).saturating_sub(above).max(NODES_MIN);
        if nodes.len() <= room {
            return nodes.into_iter().map(node).collect();
        }
        nodes.sort_by_key(|row| (row.state == NodeState::Up, row.node));
        let mut lines: Vec<Line> = nodes.iter().take(room - 1).map(|row| node(row)).collect();
        lines.push(Line::new(Kind::Plain, format!("… and {} more", nodes.len() + 1 - room)));
        lines
    }

    fn partitions(&self, room: usize) -> Vec<Line> {
        if self.view.partitions.is_empty() || room < 2 {
            return Vec::new();
        }
        let mut partitions: Vec<&PartitionRow> = self.view.partitions.iter().collect();
        // What is wrong comes first in either order; names keep the rest in place from one view to the next.
        partitions.sort_by(|a, b| {
            let trouble = |row: &PartitionRow| row.leader.is_none();
            let busy = b.records_per_s.unwrap_or(0.0).total_cmp(&a.records_per_s.unwrap_or(0.0));
            let behind = (b.down.len(), b.behind).cmp(&(a.down.len(), a.behind));
            let order = match self.order {
                Order::Busy => busy.then(behind),
                Order::Behind => behind.then(busy),
            };
            let name = (&a.topic, a.partition).cmp(&(&b.topic, b.partition));
            trouble(b).cmp(&trouble(a)).then(order).then(name)
        });
        let topic_width = self.width.saturating_sub(PARTITION_WIDTH).max(TOPIC_WIDTH_MIN);
        let (by_records, by_behind) = match self.order {
            Order::Busy => ("v RECORDS/s", "BEHIND"),
            Order::Behind => ("RECORDS/s", "v BEHIND"),
        };
        let (part, leader, mark, bytes) = ("PART", "LEADER", "HIGH WATERMARK", "BYTES");
        let mut lines = vec![Line::new(
            Kind::Head,
            format!(
                "{:<topic_width$} {part:>4} {leader:>6} {by_records:>11} {mark:>15} {bytes:>9} {by_behind}",
                "TOPIC"
            ),
        )];
        let fit = if partitions.len() < room { partitions.len() } else { room - 2 };
        lines.extend(partitions.iter().take(fit).map(|row| partition(row, topic_width)));
        if fit < partitions.len() {
            lines.push(Line::new(Kind::Plain, format!("… and {} more", units::count((partitions.len() - fit) as u64))));
        }
        lines
    }
}

fn node(row: &NodeRow) -> Line {
    let (kind, state) = match row.state {
        NodeState::Up => (Kind::Plain, "up"),
        NodeState::NotReady => (Kind::Alarm, "! WAITS"),
        NodeState::Silent => (Kind::Alarm, "no HTTP"),
        NodeState::Down => (Kind::Alarm, "! DOWN"),
    };
    let state = if row.controller && row.state == NodeState::Up { "up, ctrl" } else { state };
    let free = match (row.disk_free_bytes, row.disk_total_bytes) {
        (Some(free), Some(total)) if total > 0.0 => format!("{:.0}%", free / total * 100.0),
        _ => "-".to_owned(),
    };
    Line::new(
        kind,
        format!(
            "{:>4} {state:<8} {:>5} {:>9} {:>8} {:>8} {:>5} {:>5} {:>5} {free:>4} {:>8}",
            row.node,
            row.leads,
            count(row.in_records_per_s),
            size(row.in_bytes_per_s),
            size(row.out_bytes_per_s),
            time(row.produce_p50_s),
            time(row.produce_p99_s),
            time(row.sync_p99_s),
            size(row.anonymous_bytes),
        ),
    )
}

fn partition(row: &PartitionRow, topic_width: usize) -> Line {
    let topic = shortened(&row.topic, topic_width);
    let leader = row.leader.map_or_else(|| "none".to_owned(), |node| node.to_string());
    let mut behind = row.behind.map_or_else(|| "-".to_owned(), units::count);
    if !row.down.is_empty() {
        let nodes: Vec<String> = row.down.iter().map(u64::to_string).collect();
        behind = format!("{behind} !{}", nodes.join(","));
    }
    let is_well = row.leader.is_some() && !row.is_under_replicated();
    Line::new(
        if is_well { Kind::Plain } else { Kind::Alarm },
        format!(
            "{topic:<topic_width$} {:>4} {leader:>6} {:>11} {:>15} {:>9} {behind}",
            row.partition,
            count(row.records_per_s),
            units::count(row.high_watermark),
            units::size(row.bytes),
        ),
    )
}

fn shortened(name: &str, width: usize) -> String {
    if name.chars().count() <= width {
        return name.to_owned();
    }
    name.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// A number that is not negative, or nothing.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates and sizes are far below 2^64")]
fn whole(number: f64) -> u64 {
    number.max(0.0).round() as u64
}

fn count(number: Option<f64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| units::count(whole(number)))
}

fn size(bytes: Option<f64>) -> String {
    bytes.map_or_else(|| "-".to_owned(), |bytes| units::size(whole(bytes)))
}

/// A time in three digits.
fn time(seconds: Option<f64>) -> String {
    match seconds.map(|seconds| seconds * 1e3) {
        None => "-".to_owned(),
        Some(ms) if ms < 10.0 => format!("{ms:.1}ms"),
        Some(ms) if ms < 1000.0 => format!("{ms:.0}ms"),
        Some(ms) => format!("{:.1}s", ms / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(partitions: usize) -> View {
        let up = |node| NodeRow {
            node,
            state: NodeState::Up,
            controller: node == 1,
            leads: 4,
            in_records_per_s: Some(1_234_567.0),
            in_bytes_per_s: Some(340.5e6),
            out_bytes_per_s: Some(1.7e9),
            produce_p50_s: Some(0.00123),
            produce_p99_s: Some(0.0456),
            sync_p99_s: Some(1.5),
            disk_free_bytes: Some(31e9),
            disk_total_bytes: Some(100e9),
            anonymous_bytes: Some(512.3e6),
        };
        let row = |number: usize| PartitionRow {
            topic: if number == 1 {
                "a-topic-with-a-name-longer-than-its-column".to_owned()
            } else {
                "orders".to_owned()
            },
            partition: u32::try_from(number).unwrap(),
            leader: Some(1),
            records_per_s: Some(number as f64),
            high_watermark: 1_469_307_000,
            bytes: 120_000_000,
            behind: Some(0),
            down: Vec::new(),
        };
        let nodes = vec![up(1), up(2), up(3)];
        let cluster = "eb4cf84b-668e-456a-affd-7b28c8caf9a5".to_owned();
        View { cluster, nodes, partitions: (0..partitions).map(row).collect(), ..View::default() }
    }

    fn shown(view: &View, order: Order, width: usize, height: usize) -> String {
        let lines = Frame { view, order, width, height }.lines();
        assert!(lines.len() <= height && lines.iter().all(|line| line.text.chars().count() <= width));
        lines.iter().map(|line| format!("{}\n", line.text.trim_end())).collect()
    }

    #[test]
    fn all_is_well_on_a_small_terminal() {
        let expected = "\
eb4cf84b: 3/3 nodes up, 3 partitions, 0 leaderless, 0 under-replicated
safe: every partition has a leader and all its replicas; 0 behind at most

NODE STATE    LEADS RECORDS/s     IN/s    OUT/s   P50   P99  SYNC FREE   MEMORY
   1 up, ctrl     4 1,234,567 340.5 MB  1.70 GB 1.2ms  46ms  1.5s  31% 512.3 MB
   2 up           4 1,234,567 340.5 MB  1.70 GB 1.2ms  46ms  1.5s  31% 512.3 MB
   3 up           4 1,234,567 340.5 MB  1.70 GB 1.2ms  46ms  1.5s  31% 512.3 MB

TOPIC                PART LEADER v RECORDS/s  HIGH WATERMARK     BYTES BEHIND
orders                  2      1           2   1,469,307,000  120.0 MB 0
a-topic-with-a-name…    1      1           1   1,469,307,000  120.0 MB 0
orders                  0      1           0   1,469,307,000  120.0 MB 0
";
        assert_eq!(shown(&view(3), Order::Busy, 80, 24), expected);
    }

    #[test]
    fn what_is_wrong_comes_first_and_is_marked() {
        let mut view = view(40);
        view.nodes[2] = NodeRow { node: 3, ..NodeRow::default() };
        (view.leaderless, view.under_replicated) = (1, 2);
        view.partitions[4].leader = None;
        view.partitions[7].down = vec![3];
        view.partitions[9].behind = Some(123_456);
        let text = shown(&view, Order::Behind, 80, 24);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 24);
        assert!(lines[0].contains("2/3 nodes up") && lines[1].starts_with("! partitions without a leader"), "{text}");
        assert_eq!(lines[6].trim(), "3 ! DOWN       0         -        -        -     -     -     -    -        -");
        let starts = |line: &str| line.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
        assert_eq!([9, 10, 11].map(|at| starts(lines[at])), ["orders 4 none", "orders 7 1", "orders 9 1"]);
        assert!(lines[10].ends_with("0 !3") && lines[11].ends_with("123,456"), "{text}");
        assert_eq!(lines[23], "… and 26 more");
        let alarms = Frame { view: &view, order: Order::Busy, width: 80, height: 24 }.lines();
        assert_eq!(alarms.iter().filter(|line| line.kind == Kind::Alarm).count(), 3, "verdict, node, leaderless");
    }

    #[test]
    fn many_nodes_leave_room_for_partitions() {
        let mut view = view(40);
        view.nodes = (1..=30).map(|node| NodeRow { node, ..view.nodes[0].clone() }).collect();
        view.nodes[19].state = NodeState::Down;
        let text = shown(&view, Order::Busy, 80, 24);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[4].trim().starts_with("20 ! DOWN") && lines[5].trim().starts_with("1 up"), "{text}");
        assert_eq!((lines[11], lines.iter().filter(|line| line.starts_with("orders")).count()), ("… and 23 more", 9));
        assert_eq!(shown(&view, Order::Busy, 80, 100).matches(" up, ctrl").count(), 29);
    }

    #[test]
    fn any_room_is_enough() {
        for (width, height) in [(0, 0), (1, 1), (20, 5), (79, 9), (200, 100)] {
            shown(&view(30), Order::Busy, width, height);
        }
        assert!(!shown(&View::default(), Order::Busy, 80, 24).contains("TOPIC"));
    }
}
