//! Taking secrets out of what is given to others.
//!
//! By name: no value of a key that sounds like a secret is kept. And by form: no user and password in an address. Better
//! one value too many taken out than one too few.

use serde_json::Value;

/// What stands in the place of a secret.
const TAKEN_OUT: &str = "(taken out)";

/// Parts of names that sound like secrets, in small letters and without separators.
const SECRET_NAMES: [&str; 9] =
    ["password", "passwd", "passphrase", "secret", "token", "credential", "privatekey", "accesskey", "apikey"];

fn is_secret(name: &str) -> bool {
    let plain: String =
        name.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect();
    SECRET_NAMES.iter().any(|secret| plain.contains(secret))
}

/// Of lines `key = value`.
pub(super) fn from_lines(lines: &[String]) -> String {
    let line = |line: &String| match line.split_once(" = ") {
        Some((key, value)) if is_secret(key) && value != "\"\"" => format!("{key} = \"{TAKEN_OUT}\"\n"),
        _ => format!("{}\n", from_text(line)),
    };
    lines.iter().map(line).collect()
}

/// Of JSON, however deep.
pub(super) fn from_json(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if is_secret(key) && !value.is_null() {
                    *value = TAKEN_OUT.into();
                } else {
                    from_json(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(from_json),
        Value::String(text) => *text = from_text(text),
        _ => {}
    }
}

/// `scheme://user:password@host` without user and password.
pub(super) fn from_text(text: &str) -> String {
    let mut parts = text.split("://");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("://");
        let end = part.find(|c: char| c.is_whitespace() || "/\"',".contains(c)).unwrap_or(part.len());
        let (authority, rest) = part.split_at(end);
        match authority.rsplit_once('@') {
            Some((_, host)) => out.extend([TAKEN_OUT, "@", host]),
            None => out.push_str(authority),
        }
        out.push_str(rest);
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_go_and_the_rest_stays() {
        let lines = [
            "tls.private_key = \"abc\"",
            "s3.secret_access_key = \"\"",
            "tier.url = \"s3://id:pw@host/b\"",
            "node_id = 1",
            "journal.files_keep = 8",
        ];
        let expected = "tls.private_key = \"(taken out)\"\ns3.secret_access_key = \"\"\n\
                        tier.url = \"s3://(taken out)@host/b\"\nnode_id = 1\njournal.files_keep = 8\n";
        assert_eq!(from_lines(&lines.map(str::to_owned)), expected);
        let mut value = json!({
            "auth": [{"Pass-Word": "x", "passWord": {"a": 1}, "user": "me"}],
            "url": "a http://u@h:1/p, b://c d",
            "token": null,
        });
        from_json(&mut value);
        let expected = json!({
            "auth": [{"Pass-Word": "(taken out)", "passWord": "(taken out)", "user": "me"}],
            "url": "a http://(taken out)@h:1/p, b://c d",
            "token": null,
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn no_key_of_today_is_a_secret() {
        let keys = levada_broker::config::KEYS.iter().filter(|key| is_secret(key.name));
        assert_eq!(keys.count(), 0, "if it is one, let this test say so");
    }
}
