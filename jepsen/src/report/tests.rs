//! The page as a whole.

use levada_checkers::{
    history::{Event, Op, Phase},
    verdict::{Check, worst},
};

use crate::results::{Fault, Results, Shrunk};

use super::{html, sample};

/// What a page may come to, whatever the history holds.
const BYTES_MAX: usize = 2 << 20;

fn results(checks: Vec<Check>, faults: Vec<Fault>) -> Results {
    let (mut results, _) = sample::valid(1);
    results.verdict = worst(&checks);
    (results.checks, results.faults) = (checks, faults);
    results
}

fn fault(family: &str, from_ns: u64, to_ns: u64) -> Fault {
    Fault { family: family.to_owned(), what: "node 1".to_owned(), nodes: vec![1], from_ns, to_ns, evidence: None }
}

/// Pairs of an invocation and its completion, a millisecond apart.
fn history(operations: Vec<(Op, Op, Phase, Option<u64>)>) -> Vec<Event> {
    let mut events = Vec::new();
    for (asked, told, phase, node) in operations {
        let invocation = events.len() as u64;
        for (phase, op) in [(Phase::Invoke, asked), (phase, told)] {
            let index = events.len() as u64;
            events.push(Event {
                index,
                time_ns: index * 1_000_000,
                process: 1,
                node,
                phase,
                invocation,
                op,
                error: None,
            });
        }
    }
    events
}

fn ok(op: Op) -> (Op, Op, Phase, Option<u64>) {
    (op.clone(), op, Phase::Ok, Some(1))
}

/// The page when a check found one anomaly in a history.
fn page_of(kind: &str, key: Option<u32>, named: &[u64], events: &[Event]) -> String {
    let mut check = Check::new("log");
    check.found(kind, key, named.to_vec(), "it is <so>");
    html(&results(vec![check], Vec::new()), events)
}

/// Whether every tag that is opened is closed, in order.
fn is_balanced(page: &str) -> bool {
    const VOID: [&str; 2] = ["meta", "!DOCTYPE"];
    let mut open = Vec::new();
    let body = page.split_once("</style>").map_or(page, |(_, body)| body);
    for tag in body.split('<').skip(1) {
        let Some((tag, _)) = tag.split_once('>') else { return false };
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap_or_default();
        if tag.starts_with('/') {
            let matches = open.pop() == Some(name) || (open.is_empty() && ["head", "html"].contains(&name));
            if !matches {
                return false;
            }
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
    }
    open.is_empty()
}

#[test]
fn the_same_run_gives_the_same_page() {
    let (results, events) = sample::invalid(3);
    let page = html(&results, &events);
    assert_eq!(page, html(&results, &events));
    assert!(is_balanced(&page));
}

#[test]
fn a_page_needs_nothing_but_itself() {
    let (results, events) = sample::invalid(3);
    let page = html(&results, &events);
    for outside in ["http:", "https:", "<script", "<link", "@import", "url(", "src="] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn an_empty_history_has_a_page() {
    let page = html(&results(Vec::new(), Vec::new()), &[]);
    assert!(page.contains("INCONCLUSIVE") && page.contains("Nothing was checked."), "{page}");
    assert!(page.contains("0 events") && !page.contains("NaN"), "{page}");
    assert!(is_balanced(&page));
}

#[test]
fn nothing_of_what_others_wrote_is_markup() {
    const EVIL: &str = "\"><script>alert('x')</script>&lt;";
    let mut check = Check::new(EVIL);
    check.found(EVIL, Some(0), vec![0], EVIL);
    check.figure(EVIL, 1.0);
    let mut doubtful = Check::new(EVIL);
    doubtful.doubt(EVIL);
    let mut bad = fault(EVIL, 0, 1);
    (bad.what, bad.evidence) = (EVIL.to_owned(), Some(EVIL.to_owned()));
    let mut results = results(vec![check, doubtful], vec![bad]);
    for text in [&mut results.id, &mut results.began, &mut results.build, &mut results.again] {
        EVIL.clone_into(text);
    }
    let plan = &mut results.plan;
    for text in [&mut plan.workload, &mut plan.env, &mut plan.disk] {
        EVIL.clone_into(text);
    }
    plan.nemeses = vec![EVIL.to_owned()];
    let mut events =
        history(vec![(Op::Read { key: 0, value: None }, Op::Read { key: 0, value: None }, Phase::Info, None)]);
    events[1].error = Some(EVIL.to_owned());
    let page = html(&results, &events);
    assert!(!page.contains("<script") && !page.contains("alert('x')"), "{page}");
    assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)") && is_balanced(&page), "{page}");
}

#[test]
fn a_fault_that_bit_nothing_or_never_ended_says_so() {
    let page = html(&results(Vec::new(), vec![fault("kill", 0, u64::MAX)]), &[]);
    assert!(page.contains("NO EVIDENCE") && page.contains("never ended") && page.contains("0 of 1"), "{page}");
}

#[test]
fn a_million_operations_make_no_larger_page_than_a_few_thousand() {
    // What spreads as far as it can: all latencies, all outcomes, many keys, many pauses.
    let mut state = 1_u64;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % below
    };
    let mut events = Vec::new();
    for number in 0..500_000_u64 {
        let (key, invocation) = (u32::try_from(draw(1000)).unwrap(), events.len() as u64);
        let time_ns = number * 1_000_000;
        let phase = [Phase::Ok, Phase::Info, Phase::Fail][usize::try_from(draw(3)).unwrap()];
        let latency_ns = 10_u64.pow(u32::try_from(4 + draw(7)).unwrap()) * (1 + draw(9));
        for (phase, time_ns) in [(Phase::Invoke, time_ns), (phase, time_ns + latency_ns)] {
            let op = Op::Send { key, value: number, offset: (phase == Phase::Ok).then_some(number) };
            let index = events.len() as u64;
            events.push(Event { index, time_ns, process: 1, node: None, phase, invocation, op, error: None });
        }
    }
    let mut check = Check::new("log");
    for kind in 0..12 {
        for _ in 0..100 {
            check.found(&format!("kind-{kind}"), Some(1), (0..100_000).collect(), "x".repeat(10_000));
        }
    }
    let faults = (0..2000).map(|at| fault("kill", at * 1_000_000, at * 1_500_000)).collect();
    let page = html(&results(vec![check], faults), &events);
    assert!(page.len() < BYTES_MAX, "{} bytes", page.len());
}

#[test]
fn an_anomaly_of_a_log_shows_who_says_what_stands_where() {
    let records = |values: &[u64]| (10..).zip(values.iter().copied()).collect::<Vec<_>>();
    let lost = history(vec![
        ok(Op::Send { key: 7, value: 71, offset: Some(11) }),
        ok(Op::Poll { key: 7, from: 10, records: records(&[70, 99, 72]) }),
    ]);
    let page = page_of("lost-write", Some(7), &[1, 3], &lost);
    assert!(page.contains("A value that was certainly written is missing"), "{page}");
    let row = "<tr class=\"differs\"><th>11</th><td><mark>71</mark></td><td>99</td><td>99</td></tr>";
    assert!(page.contains(row) && is_balanced(&page), "{page}");
}

#[test]
fn replicas_that_differ_are_compared_where_they_do() {
    let log = |node, values: [u64; 40]| {
        let records = (0..).zip(values).collect();
        let told = Op::Final { key: 0, range: None, records };
        (told.clone(), told, Phase::Ok, Some(node))
    };
    let mut other = [5; 40];
    other[30] = 6;
    let page = page_of("divergence", Some(0), &[1, 3], &history(vec![log(1, [5; 40]), log(2, other)]));
    assert!(page.contains("<th>node 1</th><th>node 2</th>"), "{page}");
    assert!(page.contains("<tr class=\"differs\"><th>30</th><td>5</td><td>6</td></tr>"), "{page}");
    assert!(!page.contains("<th>20</th>"), "{page}");
}

#[test]
fn what_a_reader_was_not_shown_is_a_dash() {
    let poll = |from, records: &[(u64, u64)]| ok(Op::Poll { key: 0, from, records: records.to_vec() });
    let within = page_of("poll-skip", Some(0), &[1], &history(vec![poll(4, &[(4, 4), (6, 6)])]));
    assert!(!within.contains("<th>5</th>"), "nobody says anything of it: {within}");
    let events = history(vec![
        ok(Op::Send { key: 0, value: 5, offset: Some(5) }),
        poll(3, &[(3, 3), (4, 4)]),
        poll(6, &[(6, 6)]),
    ]);
    let between = page_of("poll-skip", Some(0), &[3, 5], &events);
    assert!(between.contains("<th>5</th><td>5</td><td class=\"skipped\">—</td>"), "{between}");
}

#[test]
fn columns_and_rows_of_a_snapshot_stand_side_by_side() {
    let told = Op::Snapshot { key: 0, from: 0, columns: vec![(0, 1), (1, 2)], rows: vec![(0, 1), (1, 3)] };
    let page = page_of("flight-differs", Some(0), &[1], &history(vec![ok(told)]));
    assert!(page.contains("columns</th>") && page.contains("<th>1</th><td>3</td><td>2</td>"), "{page}");
}

#[test]
fn an_anomaly_of_a_register_shows_which_operations_overlap() {
    let events = history(vec![
        ok(Op::Write { key: 3, value: 1 }),
        (Op::Write { key: 3, value: 2 }, Op::Write { key: 3, value: 2 }, Phase::Info, None),
        ok(Op::Cas { key: 3, expected: Some(1), value: 4 }),
        ok(Op::Read { key: 3, value: None }),
    ]);
    let page = page_of("nonlinearizable", Some(3), &[1, 3, 5, 7], &events);
    for text in ["write 1", "write 2", "set to 4 if 1", "read → never written"] {
        assert!(page.contains(text), "{text}: {page}");
    }
    // The write whose outcome nobody knows is open to the right, and what its process did next has another lane.
    assert!(page.contains("class=\"step info\" x=\"22.22%\" y=\"0\" width=\"77.77%\""), "{page}");
    assert!(page.contains("class=\"step ok\" x=\"44.44%\" y=\"26\""), "{page}");
    assert!(!page.contains("class=\"offsets\""), "{page}");
}

#[test]
fn an_anomaly_without_a_key_or_with_events_that_are_not_there_has_its_words() {
    let page = page_of("G1c", None, &[5, 6, 7], &[]);
    assert!(page.contains("it is &lt;so&gt;") && page.contains("3 events it names"), "{page}");
    let page = page_of("never-heard-of", None, &[], &[]);
    assert!(page.contains("never-heard-of") && is_balanced(&page), "{page}");
}

#[test]
fn what_a_run_was_shrunk_to_is_told_and_linked_where_there_is_something() {
    let (mut results, events) = sample::invalid(5);
    assert!(!html(&results, &events).contains("minimal.txt"));
    results.shrunk = Some(Shrunk { kind: "phantom".to_owned(), story: "p1 reads <7>\n".to_owned() });
    let page = html(&results, &events);
    assert!(page.contains("href=\"minimal.txt\"") && page.contains("href=\"minimal.jsonl.zst\""));
    assert!(page.contains("p1 reads &lt;7&gt;"));
    assert!(is_balanced(&page));
}
