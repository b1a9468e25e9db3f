//! What is looked for in Rust files: debugging macros, tests switched off in silence, length.
//!
//! Works on the code with comments, strings and character literals blanked out, so that words in them neither count
//! nor unbalance the braces.

use super::{FILE_LINES_MAX, FUNCTION_LINES_MAX, Finding, Long};

/// What must not stand in code, with what to do.
const FORBIDDEN: [(&str, &str); 5] = [
    ("dbg!", "remove it"),
    ("todo!", "write it"),
    ("unimplemented!", "write it, or answer with an error"),
    ("#[ignore]", "run it, remove it, or say why: #[ignore = \"..\"]"),
    ("#[allow(dead_code)]", "remove what is dead"),
];

pub(super) fn check(path: &str, text: &str, findings: &mut Vec<Finding>, long: &mut Vec<Long>) {
    let code = code(text);
    for (number, line) in (1..).zip(code.lines()) {
        for (forbidden, remedy) in FORBIDDEN {
            if line.contains(forbidden) {
                findings.push(Finding::new(path, number, format!("{forbidden}: {remedy}")));
            }
        }
    }
    let lines = code.lines().count();
    if lines > FILE_LINES_MAX {
        long.push(Long { name: path.to_owned(), lines, lines_max: FILE_LINES_MAX });
    }
    for (name, lines) in functions(&code) {
        if lines > FUNCTION_LINES_MAX {
            long.push(Long { name: format!("{path}: {name}"), lines, lines_max: FUNCTION_LINES_MAX });
        }
    }
}

/// The text with comments, strings and character literals turned into spaces, line by line as it was.
pub(super) fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let identifier_goes_on = out.ends_with(|last: char| last.is_alphanumeric() || last == '_');
        let blank = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if first == '"' {
            string(rest)
        } else if !identifier_goes_on && (rest.starts_with('r') || rest.starts_with("br")) {
            raw_string(rest)
        } else if first == '\'' {
            character(rest)
        } else {
            0
        };
        let (token, behind) = rest.split_at(if blank == 0 { first.len_utf8() } else { blank });
        if blank == 0 {
            out.push_str(token);
        } else {
            out.extend(token.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        rest = behind;
    }
    out
}

/// The length of the comment that begins here; comments nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        let rest = text.get(at..).unwrap_or_default();
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of the string that begins here.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the raw string that begins here; 0 if none does.
fn raw_string(text: &str) -> usize {
    let prefix = if text.starts_with("br") { 2 } else { 1 };
    let behind = text.get(prefix..).unwrap_or_default();
    let hashes = behind.len() - behind.trim_start_matches('#').len();
    let Some(body) = behind.get(hashes..).and_then(|rest| rest.strip_prefix('"')) else { return 0 };
    let end = format!("\"{}", "#".repeat(hashes));
    body.find(&end).map_or(text.len(), |at| prefix + hashes + 1 + at + end.len())
}

/// The length of the character literal that begins here; 0 if it is a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => text.get(3..).and_then(|rest| rest.find('\'')).map_or(0, |at| 3 + at + 1),
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 0,
        },
        None => 0,
    }
}

/// All functions with a body, and how many lines each has.
fn functions(code: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let before = code.get(..at).unwrap_or_default();
        if before.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let behind = code.get(at + 3..).unwrap_or_default();
        let name: String = behind.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        // A semicolon first: a declaration, or a type such as `[u8; 4]` among the parameters; braces of the body follow.
        let mut depth = 0_i32;
        let mut parentheses = 0_i32;
        let mut body_began = false;
        let end = behind.char_indices().find(|(_, c)| {
            match c {
                '(' | '[' => parentheses += 1,
                ')' | ']' => parentheses -= 1,
                '{' => {
                    depth += 1;
                    body_began = true;
                }
                '}' => depth -= 1,
                _ => {}
            }
            (body_began && depth == 0) || (!body_began && parentheses == 0 && *c == ';')
        });
        if let (false, true, Some((end, _))) = (name.is_empty(), body_began, end) {
            found.push((name, behind.get(..=end).unwrap_or_default().lines().count()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r##"
/// It says dbg! here, in a /* comment */.
fn short<'a>(of: &'a [u8; 4]) -> char {
    let _ = ("todo! { \" {", r#"unimplemented! " }"#, '{', '\'', b'}');
    'x'
}
trait T { fn declared(of: [u8; 2]); }
/* fn not() { /* nested */ } */
fn long()
where
    u8: Copy,
{

}
"##;

    #[test]
    fn words_in_comments_and_strings_are_not_code() {
        let (mut findings, mut long) = (Vec::new(), Vec::new());
        check("a.rs", SOURCE, &mut findings, &mut long);
        assert_eq!((findings, long), (Vec::new(), Vec::new()));
        assert_eq!(code(SOURCE).lines().count(), SOURCE.lines().count());
        let functions = functions(&code(SOURCE));
        assert_eq!(functions, [("short".to_owned(), 4), ("long".to_owned(), 6)]);
    }

    #[test]
    fn finds_what_must_not_be_in_code() {
        let (mut findings, mut long) = (Vec::new(), Vec::new());
        let source = ["fn a() {\n dbg!(1);\n", &"\n".repeat(120), "todo!()\n}\n", &"\n".repeat(500)].concat();
        check("a.rs", &source, &mut findings, &mut long);
        let lines: Vec<usize> = findings.iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [2, 123]);
        let names: Vec<&str> = long.iter().map(|long| long.name.as_str()).collect();
        assert_eq!(names, ["a.rs", "a.rs: a"]);
    }
}
