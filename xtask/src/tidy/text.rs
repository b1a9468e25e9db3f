//! What no text file of the repository may contain.

use super::Finding;

/// What must not stand anywhere, with what to do. Put together here, so that this file may pass its own check.
const FORBIDDEN: [(&str, &str); 6] = [
    (concat!("FIX", "ME"), "mend it, or open an issue"),
    (concat!("TO", "DO"), "do it, or open an issue"),
    (concat!("XX", "X "), "say what is meant"),
    (concat!("<<<<", "<<<"), "resolve the conflict"),
    (concat!("/ro", "ot/"), "a path of one machine: make it relative or ask for it"),
    (concat!("/wo", "rk/"), "a path of one machine: make it relative or ask for it"),
];

/// Files whose bytes are somebody else's, or are data.
fn is_foreign(path: &str) -> bool {
    path == "Cargo.lock" || path == "LICENSE" || path.contains("/fixtures/") || path.contains("/corpus/")
}

pub(super) fn check(path: &str, text: &str, findings: &mut Vec<Finding>) {
    if is_foreign(path) {
        return;
    }
    for (number, line) in (1..).zip(text.lines()) {
        for (forbidden, remedy) in FORBIDDEN {
            if line.contains(forbidden) {
                findings.push(Finding::new(path, number, format!("{}: {remedy}", forbidden.trim())));
            }
        }
        if line.ends_with([' ', '\t', '\r']) {
            findings.push(Finding::new(path, number, "space at the end of the line: remove it"));
        }
        if line.contains('\t') && !path.ends_with("Makefile") {
            findings.push(Finding::new(path, number, "a tab: use spaces (in a string, \\t)"));
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        findings.push(Finding::new(path, text.lines().count(), "the last line does not end: end it"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<usize> {
        let mut findings = Vec::new();
        check(path, text, &mut findings);
        findings.iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn finds_what_is_left_behind() {
        let text = ["// TO", "DO\nfine\nspace \n\ttab\n/wo", "rk/x\nno end"].concat();
        assert_eq!(findings("a.md", &text), [1, 3, 4, 5, 6]);
        assert_eq!(findings("a.md", "fine\n"), [0_usize; 0]);
        assert_eq!(findings("protocol/tests/fixtures/a.txt", &text), [0_usize; 0]);
    }
}
