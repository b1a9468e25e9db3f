//! A flag for every configuration key: `--listen-native` for `listen.native`. The broker's table of keys is the only
//! list of them.

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use levada_broker::config::{KEYS, Key};

pub(super) const HELP: &str = "\
Every key may also stand in the configuration file (`listen.native` as key `native` of table `listen`), or in the
environment (LEVADA_LISTEN_NATIVE). Flags go before the environment, that before the file, that before the defaults.";

/// The keys that were set by flags.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConfigFlags(Vec<(&'static Key, String)>);

impl ConfigFlags {
    /// Them under the names of their variables.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        self.0.iter().map(|(key, value)| (key.variable(), value.clone())).collect()
    }

    /// The environment as if it said what the flags say.
    pub(crate) fn over(
        self,
        environment: impl Iterator<Item = (String, String)>,
    ) -> impl Iterator<Item = (String, String)> {
        environment.chain(self.0.into_iter().map(|(key, value)| (key.variable(), value)))
    }
}

fn flag(key: &'static Key) -> Arg {
    let default = key.default.trim_matches('"');
    let shown = if default.is_empty() || default == "[]" { String::new() } else { format!(" [default: {default}]") };
    let arg = Arg::new(key.name)
        .long(key.name.replace(['.', '_'], "-"))
        .help(format!("{}{shown}", key.meaning))
        .help_heading("Configuration");
    if matches!(key.default, "true" | "false") {
        arg.num_args(0..=1).require_equals(true).default_missing_value("true").value_name("BOOL")
    } else {
        arg.value_name("VALUE")
    }
}

impl Args for ConfigFlags {
    fn augment_args(command: Command) -> Command {
        command.args(KEYS.iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ConfigFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |key: &'static Key| Some((key, matches.get_one::<String>(key.name)?.clone()));
        Ok(Self(KEYS.iter().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: ConfigFlags,
    }

    #[test]
    fn flags_say_what_the_environment_could_and_go_before_it() {
        let line = ["x", "--listen-native", "a:1", "--insecure", "--limits-idle-ms=5"];
        let flags = Line::try_parse_from(line).unwrap().flags;
        let environment = [("LEVADA_LISTEN_NATIVE".to_owned(), "b:2".to_owned())];
        let all: Vec<(String, String)> = flags.over(environment.into_iter()).collect();
        let last = |name: &str| all.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        assert_eq!(last("LEVADA_LISTEN_NATIVE"), Some("a:1"));
        assert_eq!(last("LEVADA_INSECURE"), Some("true"));
        assert_eq!(last("LEVADA_LIMITS_IDLE_MS"), Some("5"));
        assert!(Line::try_parse_from(["x", "--no-such-key", "1"]).is_err());
    }
}
