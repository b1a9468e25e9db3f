//! What one JSON value becomes in a column of fixed width, and back.

use arrow_schema::{DataType, TimeUnit};
use jiff::{
    Timestamp,
    civil::{Date, DateTime, Time},
    tz::TimeZone,
};

/// The day that dates count from.
const EPOCH: Date = Date::constant(1970, 1, 1);
/// Integers up to here are exact as floats.
const EXACT_FLOAT_MAX: f64 = 9_007_199_254_740_992.0;

/// The bytes of a value: at most sixteen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fixed {
    bytes: [u8; 16],
    width: usize,
}

impl Fixed {
    pub(crate) fn new<const WIDTH: usize>(value: [u8; WIDTH]) -> Self {
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(value).for_each(|(place, byte)| *place = byte);
        Self { bytes, width: WIDTH }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.width).unwrap_or_default()
    }
}

pub(crate) fn from_integer(data_type: &DataType, value: i128) -> Result<Fixed, String> {
    macro_rules! narrow {
        ($narrow:ty) => {
            <$narrow>::try_from(value).map(|value| Fixed::new(value.to_le_bytes())).ok()
        };
    }
    let fixed = match data_type {
        DataType::Int8 => narrow!(i8),
        DataType::Int16 => narrow!(i16),
        DataType::Int32 | DataType::Date32 | DataType::Time32(_) => narrow!(i32),
        DataType::Int64 | DataType::Time64(_) | DataType::Timestamp(..) => narrow!(i64),
        DataType::UInt8 => narrow!(u8),
        DataType::UInt16 => narrow!(u16),
        DataType::UInt32 => narrow!(u32),
        DataType::UInt64 => narrow!(u64),
        DataType::Float32 | DataType::Float64 => {
            #[allow(clippy::cast_precision_loss, reason = "a float column holds the nearest float")]
            return from_float(data_type, value as f64);
        }
        DataType::Decimal128(..) => return decimal(data_type, &value.to_string()),
        _ => return Err(format!("a number, where {} is expected", expected(data_type))),
    };
    fixed.ok_or_else(|| format!("{value} does not fit in {}", crate::schema::write_type(data_type)))
}

#[allow(clippy::cast_possible_truncation, reason = "checked beside each")]
pub(crate) fn from_float(data_type: &DataType, value: f64) -> Result<Fixed, String> {
    match data_type {
        DataType::Float64 => Ok(Fixed::new(value.to_le_bytes())),
        DataType::Float32 if value.is_finite() && (value as f32).is_infinite() => {
            Err(format!("{value} does not fit in float32"))
        }
        DataType::Float32 => Ok(Fixed::new((value as f32).to_le_bytes())),
        DataType::Decimal128(..) => decimal(data_type, &value.to_string()),
        _ if value.fract() == 0.0 && value.abs() <= EXACT_FLOAT_MAX => from_integer(data_type, value as i128),
        _ => Err(format!("{value}, where {} is expected", expected(data_type))),
    }
}

pub(crate) fn from_text(data_type: &DataType, text: &str) -> Result<Fixed, String> {
    let wrong = || format!("{:?}, where {} is expected", shown(text), expected(data_type));
    match data_type {
        DataType::Float32 | DataType::Float64 => match text {
            "NaN" => from_float(data_type, f64::NAN),
            "Infinity" => from_float(data_type, f64::INFINITY),
            "-Infinity" => from_float(data_type, f64::NEG_INFINITY),
            _ => Err(wrong()),
        },
        DataType::Decimal128(..) => decimal(data_type, text),
        DataType::Date32 => {
            let date: Date = text.parse().map_err(|_| wrong())?;
            let days = date.since(EPOCH).map_err(|_| wrong())?.get_days();
            from_integer(data_type, days.into())
        }
        DataType::Time32(unit) | DataType::Time64(unit) => {
            let time: Time = text.parse().map_err(|_| wrong())?;
            let nanoseconds = time.since(Time::midnight()).map_err(|_| wrong())?;
            let nanoseconds = nanoseconds.total(jiff::Unit::Nanosecond).map_err(|_| wrong())?;
            #[allow(clippy::cast_possible_truncation, reason = "a day's nanoseconds are exact")]
            in_unit(data_type, nanoseconds as i128, *unit, text)
        }
        DataType::Timestamp(unit, Some(_)) => {
            let time: Timestamp = text.parse().map_err(|_| wrong())?;
            in_unit(data_type, time.as_nanosecond(), *unit, text)
        }
        DataType::Timestamp(unit, None) => {
            let time: DateTime = text.parse().map_err(|_| wrong())?;
            let time = time.to_zoned(TimeZone::UTC).map_err(|_| wrong())?.timestamp();
            in_unit(data_type, time.as_nanosecond(), *unit, text)
        }
        _ => Err(wrong()),
    }
}

/// What a column of this type takes, in words.
pub(crate) fn expected(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "true or false".to_owned(),
        DataType::Utf8 => "text".to_owned(),
        DataType::Binary | DataType::FixedSizeBinary(_) => "base64 text".to_owned(),
        DataType::Date32 => "a date such as 2024-02-29".to_owned(),
        DataType::Time32(_) | DataType::Time64(_) => "a time such as 12:34:56".to_owned(),
        DataType::Timestamp(_, Some(_)) => "a time such as 2024-02-29T12:34:56Z".to_owned(),
        DataType::Timestamp(_, None) => "a time without zone such as 2024-02-29T12:34:56".to_owned(),
        DataType::List(_) | DataType::FixedSizeList(..) => "an array".to_owned(),
        DataType::Struct(_) => "an object".to_owned(),
        other => crate::schema::write_type(other),
    }
}

/// Text of a client, short enough for a message.
pub(crate) fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 48;
    let mut shown: String = text.chars().take(CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

const fn nanoseconds_per(unit: TimeUnit) -> i128 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

fn in_unit(data_type: &DataType, nanoseconds: i128, unit: TimeUnit, text: &str) -> Result<Fixed, String> {
    let per = nanoseconds_per(unit);
    if nanoseconds % per != 0 {
        let data_type = crate::schema::write_type(data_type);
        return Err(format!("{:?} has more digits than {data_type} keeps", shown(text)));
    }
    from_integer(data_type, nanoseconds / per)
}

/// A time of day, as text.
pub(crate) fn time_text(value: i64, unit: TimeUnit) -> Option<String> {
    let nanoseconds = i128::from(value) * nanoseconds_per(unit);
    let time = Time::midnight().checked_add(jiff::SignedDuration::from_nanos(i64::try_from(nanoseconds).ok()?));
    time.ok().map(|time| time.to_string())
}

/// A day, as text.
pub(crate) fn date_text(days: i32) -> Option<String> {
    let days = jiff::Span::new().try_days(days).ok()?;
    EPOCH.checked_add(days).ok().map(|date| date.to_string())
}

/// A point in time, as text.
pub(crate) fn timestamp_text(value: i64, unit: TimeUnit, zoned: bool) -> Option<String> {
    let time = Timestamp::from_nanosecond(i128::from(value) * nanoseconds_per(unit)).ok()?;
    Some(if zoned { time.to_string() } else { TimeZone::UTC.to_datetime(time).to_string() })
}

/// Digits, a point, digits: exactly what the column keeps, or an error.
fn decimal(data_type: &DataType, text: &str) -> Result<Fixed, String> {
    let DataType::Decimal128(precision, scale) = data_type else { return Err("not a decimal".to_owned()) };
    let scale = usize::try_from(*scale).unwrap_or(0);
    let wrong = || format!("{:?}, where a decimal number is expected", shown(text));
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || digits.ends_with('.') {
        return Err(wrong());
    }
    let fraction = fraction.trim_end_matches('0');
    let whole = whole.trim_start_matches('0');
    let fits = fraction.len() <= scale && whole.len() + scale <= usize::from(*precision);
    let unfit = || format!("{} does not fit in {}", shown(text), crate::schema::write_type(data_type));
    if !fits {
        return Err(unfit());
    }
    let all = format!("{whole}{fraction:0<scale$}");
    let value: i128 = if all.is_empty() { 0 } else { all.parse().map_err(|_| unfit())? };
    Ok(Fixed::new(if negative { -value } else { value }.to_le_bytes()))
}

/// A decimal's digits, as text.
pub(crate) fn decimal_text(value: i128, scale: i8) -> String {
    let scale = usize::try_from(scale).unwrap_or(0);
    let sign = if value < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integer(fixed: &Fixed) -> i64 {
        let mut bytes = if fixed.as_slice().last().is_some_and(|byte| *byte > 127) { [0xFF; 8] } else { [0; 8] };
        bytes.iter_mut().zip(fixed.as_slice()).for_each(|(place, byte)| *place = *byte);
        i64::from_le_bytes(bytes)
    }

    #[test]
    fn times_both_ways() {
        use TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
        let zoned = |unit| DataType::Timestamp(unit, Some("Europe/Lisbon".into()));
        for (data_type, text, value) in [
            (DataType::Date32, "1969-12-31", -1),
            (DataType::Date32, "2024-02-29", 19_782),
            (DataType::Time32(Second), "00:00:01", 1),
            (DataType::Time64(Nanosecond), "23:59:59.999999999", 86_399_999_999_999),
            (zoned(Millisecond), "2024-02-29T12:34:56.789Z", 1_709_210_096_789),
            (zoned(Microsecond), "1969-12-31T23:59:59.999999Z", -1),
            (DataType::Timestamp(Second, None), "1970-01-01T00:00:10", 10),
        ] {
            assert_eq!(integer(&from_text(&data_type, text).unwrap()), value, "{text}");
            let back = match &data_type {
                DataType::Date32 => date_text(value.try_into().unwrap()),
                DataType::Time32(unit) | DataType::Time64(unit) => time_text(value, *unit),
                DataType::Timestamp(unit, zone) => timestamp_text(value, *unit, zone.is_some()),
                _ => None,
            };
            assert_eq!(back.as_deref(), Some(text));
        }
        let millis = from_text(&zoned(Millisecond), "2024-02-29T13:34:56+01:00").unwrap();
        assert_eq!(integer(&millis), 1_709_210_096_000);
        assert_eq!(timestamp_text(i64::MAX, Second, true), None, "beyond the calendar it stays a number");
        assert_eq!(date_text(i32::MAX), None);
    }

    #[test]
    fn nothing_is_rounded() {
        use TimeUnit::Millisecond;
        let zoned = DataType::Timestamp(Millisecond, Some("UTC".into()));
        for (data_type, text, says) in [
            (&zoned, "2024-02-29T12:34:56.7891Z", "more digits than timestamp(ms, UTC) keeps"),
            (&zoned, "2024-02-29T12:34:56", "a time such as"),
            (&zoned, "2024-02-30T12:34:56Z", "a time such as"),
            (&DataType::Timestamp(Millisecond, None), "2024-02-29T12:34:56Z", "without zone"),
            (&DataType::Float64, "1.5", "where float64 is expected"),
            (&DataType::Int64, "1", "where int64 is expected"),
            (&DataType::Decimal128(4, 2), "1.234", "does not fit in decimal128(4, 2)"),
            (&DataType::Decimal128(4, 2), "123", "does not fit in decimal128(4, 2)"),
            (&DataType::Decimal128(4, 2), "1e3", "where a decimal number is expected"),
            (&DataType::Decimal128(4, 2), "", "where a decimal number is expected"),
        ] {
            let error = from_text(data_type, text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(from_integer(&DataType::Int8, 128).unwrap_err().contains("128 does not fit in int8"));
        assert!(from_integer(&DataType::UInt64, -1).is_err());
        assert!(from_float(&DataType::Int32, 1.5).is_err());
        assert!(from_float(&DataType::Float32, 1e300).is_err());
        assert_eq!(integer(&from_float(&DataType::Int32, -7.0).unwrap()), -7);
    }

    #[test]
    fn decimals_both_ways() {
        for (text, value, scale) in
            [("0.00", 0, 2), ("-0.05", -5, 2), ("12.34", 1234, 2), ("7", 7, 0), ("-123456.789", -123_456_789, 3)]
        {
            let data_type = DataType::Decimal128(12, scale);
            assert_eq!(from_text(&data_type, text).unwrap().as_slice(), i128::to_le_bytes(value), "{text}");
            assert_eq!(decimal_text(value, scale), text);
        }
        assert_eq!(from_float(&DataType::Decimal128(6, 2), 0.1).unwrap().as_slice(), 10_i128.to_le_bytes());
        assert_eq!(from_text(&DataType::Decimal128(6, 2), "1.500").unwrap().as_slice(), 150_i128.to_le_bytes());
    }
}
