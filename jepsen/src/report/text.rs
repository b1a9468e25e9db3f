//! Text for a page: escaped, and numbers as people write them.

use std::fmt::{self, Write as _};

/// Longer text of others is cut: a page must not grow with an error message.
const CHARS_MAX: usize = 600;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
/// Nanoseconds in a second.
pub(super) const SECOND_NS: u64 = 1_000_000_000;

/// Shows text between tags and inside quoted attributes as what it is, whatever it is.
pub(super) struct Esc<T>(pub(super) T);

impl<T: fmt::Display> fmt::Display for Esc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping { to: f, left: CHARS_MAX }, "{}", self.0)
    }
}

struct Escaping<'a, 'b> {
    to: &'a mut fmt::Formatter<'b>,
    /// How many more characters are shown.
    left: usize,
}

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            match self.left {
                0 => return Ok(()),
                1 => self.to.write_char('…')?,
                _ => match char {
                    '&' => self.to.write_str("&amp;")?,
                    '<' => self.to.write_str("&lt;")?,
                    '>' => self.to.write_str("&gt;")?,
                    '"' => self.to.write_str("&quot;")?,
                    '\'' => self.to.write_str("&#39;")?,
                    '\n' | '\t' => self.to.write_char(char)?,
                    // A page may not hold them, not even escaped; the second kind turns the text around it.
                    char if char.is_control() => self.to.write_char('\u{fffd}')?,
                    '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => self.to.write_char('\u{fffd}')?,
                    char => self.to.write_char(char)?,
                },
            }
            self.left -= 1;
        }
        Ok(())
    }
}

/// `84,210`
pub(super) fn count(number: u64) -> String {
    grouped(&number.to_string())
}

fn grouped(digits: &str) -> String {
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 fault`, `2 faults`
pub(super) fn plural(number: u64, one: &str) -> String {
    format!("{} {one}{}", count(number), if number == 1 { "" } else { "s" })
}

/// `412 µs`, `3.4 ms`, `1.20 s`, `2 min 5 s`: three digits are enough.
pub(super) fn duration(ns: u64) -> String {
    let (minutes, seconds) = (ns / SECOND_NS / 60, ns / SECOND_NS % 60);
    if minutes >= 60 {
        return format!("{} h {} min", count(minutes / 60), minutes % 60);
    }
    if minutes > 0 {
        return format!("{minutes} min {seconds} s");
    }
    let Some((unit, name)) = [(SECOND_NS, "s"), (MS, "ms"), (US, "µs")].into_iter().find(|(unit, _)| ns >= *unit)
    else {
        return if ns == 0 { "0 s".to_owned() } else { format!("{ns} ns") };
    };
    let value = ns as f64 / unit as f64;
    let places = match value {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{value:.places$} {name}")
}

/// A moment of a run to the millisecond: `1:07.250`.
pub(super) fn moment(ns: u64) -> String {
    let ms = ns / MS;
    format!("{}:{:02}.{:03}", ms / 60_000, ms / 1000 % 60, ms % 1000)
}

/// A figure's name without its unit, and its value with it: `longest_gap_ms` of 12.5 is `longest gap`, `12.5 ms`.
pub(super) fn figure(name: &str, value: f64) -> (String, String) {
    const UNITS: [(&str, &str); 10] = [
        ("_per_s", "/s"),
        ("_ns", " ns"),
        ("_us", " µs"),
        ("_ms", " ms"),
        ("_s", " s"),
        ("_bytes", " bytes"),
        ("_kib", " KiB"),
        ("_mib", " MiB"),
        ("_percent", " %"),
        ("_ratio", ""),
    ];
    let found = UNITS.iter().find_map(|(suffix, unit)| name.strip_suffix(suffix).map(|name| (name, *unit)));
    let (name, unit) = found.unwrap_or((name, ""));
    (name.replace('_', " "), format!("{}{unit}", number(value)))
}

fn number(value: f64) -> String {
    if !value.is_finite() {
        return "unknown".to_owned();
    }
    let text =
        if value.fract() == 0.0 || value.abs() >= 1000.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("−", digits),
        None => ("", text.as_str()),
    };
    match digits.split_once('.') {
        Some((whole, rest)) => format!("{sign}{}.{rest}", grouped(whole)),
        None => format!("{sign}{}", grouped(digits)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_can_leave_its_place() {
        let text = "</script><b a=\"x\" b='y'>&amp;\u{0}\u{202e}\u{1b}";
        let shown = Esc(text).to_string();
        assert_eq!(shown, "&lt;/script&gt;&lt;b a=&quot;x&quot; b=&#39;y&#39;&gt;&amp;amp;\u{fffd}\u{fffd}\u{fffd}");
    }

    #[test]
    fn endless_text_ends() {
        let shown = Esc("ä".repeat(100_000)).to_string();
        assert_eq!(shown.chars().count(), CHARS_MAX);
        assert!(shown.ends_with('…'));
    }

    #[test]
    fn numbers_are_as_people_write_them() {
        assert_eq!(count(999), "999");
        assert_eq!(count(1_084_210), "1,084,210");
        let durations = [0, 12, 41_200, 3_410_000, 1_204_000_000, 125_000_000_000, u64::MAX].map(duration);
        assert_eq!(durations, ["0 s", "12 ns", "41.2 µs", "3.41 ms", "1.20 s", "2 min 5 s", "5,124,095 h 34 min"]);
        assert_eq!(moment(67_250_400_000), "1:07.250");
        assert_eq!(figure("longest_gap_ms", 1234.56), ("longest gap".to_owned(), "1,235 ms".to_owned()));
        assert_eq!(figure("sent_per_s", 12.345), ("sent".to_owned(), "12.35/s".to_owned()));
        assert_eq!(figure("sent", -3.0), ("sent".to_owned(), "−3".to_owned()));
        assert_eq!(figure("share", f64::NAN).1, "unknown");
    }
}
