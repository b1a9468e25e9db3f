//! Times, sizes and counts as people write and read them.

use std::time::Duration;

/// A time on the command line: `500ms`, `10s`, `5m`, `2h`; a plain number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{unit:?} is no unit of time: use ms, s, m or h")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("{text:?} is no time: use 500ms, 10s, 5m or 2h"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

/// A size on the command line: `1024`, `4KiB`, `64MiB`, `1GB`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text.get(digits.len()..).unwrap_or_default() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "KiB" | "K" | "k" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" | "M" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" | "G" => 1 << 30,
        unit => return Err(format!("{unit:?} is no unit of size: use KiB, MiB, GiB, kB, MB or GB")),
    };
    let number: u64 = digits.trim().parse().map_err(|_| format!("{text:?} is no size: use 4096, 4KiB or 64MiB"))?;
    number.checked_mul(unit).ok_or_else(|| format!("{text} is too large"))
}

/// `KEY=VALUE` on the command line.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

/// A count with commas between the thousands.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// So many of something.
pub(crate) fn some(number: u64, one: &str, many: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{} {many}", count(number)),
    }
}

/// A time that has passed, in the unit of its magnitude.
pub(crate) fn ago(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A size with a unit of its magnitude.
pub(crate) fn size(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let number = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", number / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", number / 1e6),
        _ => format!("{:.2} GB", number / 1e9),
    }
}

/// How many there are in a second.
pub(crate) fn rate(number: u64, elapsed: Duration) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a rate of more than 2^53 a second does not occur")]
    let number = number as f64;
    number / elapsed.as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("10"), Ok(10));
        for wrong in ["", "x", "5 parsecs", "-1s", "1e400s"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["", "x", "-1", "1.5GB", "5TiB", "99999999999GiB"] {
            assert!(bytes(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(key_value("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(key_value("=b").is_err() && key_value("a").is_err());
    }

    #[test]
    fn shown_for_people() {
        let some = |number| some(number, "copy", "copies");
        assert_eq!([some(0), some(1), some(1_000)], ["0 copies", "1 copy", "1,000 copies"]);
        assert_eq!(["999", "1,000", "1,469,307"].map(str::to_owned), [count(999), count(1000), count(1_469_307)]);
        assert_eq!((size(999), size(1_500_000)), ("999 B".to_owned(), "1.5 MB".to_owned()));
    }
}
