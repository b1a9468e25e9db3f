//! Places in a log as a command line names them.

use std::str::FromStr;

use levada_client::Offset;

/// A place in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// The first record there is.
    Earliest,
    /// Behind the last record there is when it is asked for.
    Latest,
    /// This record.
    Offset(Offset),
    /// The first record not older than this, in milliseconds since 1970.
    Time(i64),
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "earliest" => Ok(Self::Earliest),
            None if text == "latest" => Ok(Self::Latest),
            Some(("offset", number)) => number
                .parse()
                .map(|offset| Self::Offset(Offset(offset)))
                .map_err(|_| format!("{number:?} is no offset")),
            Some(("time", time)) => match time.parse::<jiff::Timestamp>() {
                Ok(time) => Ok(Self::Time(time.as_millisecond())),
                Err(_) => Err(format!("{time:?} is no time of RFC 3339, such as 2024-02-29T12:00:00Z")),
            },
            _ => Err("use earliest, latest, offset:N or time:2024-02-29T12:00:00Z".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        assert_eq!("earliest".parse(), Ok(Position::Earliest));
        assert_eq!("offset:12".parse(), Ok(Position::Offset(Offset(12))));
        assert_eq!("time:1970-01-01T01:00:01+01:00".parse(), Ok(Position::Time(1000)));
        for wrong in ["", "first", "offset:", "offset:-1", "time:yesterday", "time:2024-02-29", "latest:1"] {
            assert!(wrong.parse::<Position>().is_err(), "{wrong:?}");
        }
    }
}
