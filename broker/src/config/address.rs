//! `host:port`, as configuration has it.

use std::net::IpAddr;

/// Takes an address apart.
///
/// # Errors
/// Words that say what it should be.
pub(super) fn split(address: &str) -> Result<(&str, u16), String> {
    let wrong = || format!("{address:?} is not host:port");
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || (host.contains(':') && !bracketed) || host.contains(char::is_whitespace) {
        return Err(wrong());
    }
    Ok((host, port))
}

fn ip(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Whether only this machine reaches it. A name other than `localhost` may mean anything.
pub(super) fn is_loopback(host: &str) -> bool {
    ip(host).map_or(host == "localhost", |ip| ip.is_loopback())
}

/// Whether it means every address of the machine, and so none that others could use.
pub(super) fn is_unspecified(host: &str) -> bool {
    ip(host).is_some_and(|ip| ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(split("127.0.0.1:9170"), Ok(("127.0.0.1", 9170)));
        assert_eq!(split("[::1]:0"), Ok(("[::1]", 0)));
        for wrong in ["", "host", "host:", ":1", "host:70000", "::1:5", "a b:1"] {
            assert!(split(wrong).is_err(), "{wrong:?}");
        }
        for (host, loopback) in [("127.8.0.1", true), ("[::1]", true), ("localhost", true), ("0.0.0.0", false)] {
            assert_eq!(is_loopback(host), loopback, "{host}");
        }
        assert!(!is_loopback("example.org") && is_unspecified("[::]") && !is_unspecified("localhost"));
    }
}
