//! How the command ends: exit codes that scripts can rely on, and errors that say what to do next.

use std::{ffi::OsString, process::ExitCode};

use levada_broker::{config::ConfigError, server::ServerError};
use levada_client::{Error, ErrorClass, ErrorCode};

use crate::{
    args::{BOOTSTRAP, Global},
    print,
};

/// Anything that is none of the others.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong (clap exits with it by itself).
const USAGE: u8 = 2;
/// The cluster refused the request; the same request will be refused again.
const REFUSED: u8 = 3;
/// No node answered, or not in time; the same request may succeed later.
const UNREACHABLE: u8 = 4;

/// What `--help` says about them.
pub(crate) const HELP: &str = "\
Exit codes:
  0  done
  1  failed
  2  the command line or the configuration is wrong
  3  the cluster refused the request; trying again will not help
  4  no node answered, or not in time; trying again may help";

/// The command line cannot be what was meant, although it parses.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// An error that was told where it belongs: in the log.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub(crate) struct Told(pub(crate) anyhow::Error);

/// An error that ends the command, for a command line that cannot be meant.
pub(crate) fn usage(what: impl Into<String>) -> anyhow::Error {
    Usage(what.into()).into()
}

/// Tells what went wrong, and answers the exit code for it.
pub(crate) fn report(error: &anyhow::Error, global: &Global) -> ExitCode {
    if is_closed_pipe(error) {
        // Whoever read the output (`head`, a pager) has seen enough.
        return ExitCode::SUCCESS;
    }
    let code = code_of(error);
    if error.is::<Told>() {
        return ExitCode::from(code);
    }
    let protocol_error = error.chain().find_map(|cause| cause.downcast_ref::<Error>());
    let words = words(error);
    if global.is_json() {
        tell_as_json(name_of(error), &words, code);
    } else {
        eprintln!("error: {words}");
        let is_default = global.bootstrap() == BOOTSTRAP;
        if let Some(next) = protocol_error.and_then(|error| next_step(error, is_default)) {
            eprintln!("  next: {next}");
        }
    }
    ExitCode::from(code)
}

fn tell_as_json(name: Option<&str>, words: &str, code: u8) {
    eprintln!("{}", serde_json::json!({"error": {"code": name, "message": words, "exit": code}}));
}

/// Tells what clap has to say: what is wrong with the command line, or what was asked for (`--help`).
pub(crate) fn report_parsing(error: &clap::Error, mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let mut wants_json = false;
    while let Some(argument) = arguments.next() {
        wants_json |=
            argument == "--output=json" || argument == "--output" && arguments.next().is_some_and(|of| of == "json");
    }
    if !error.use_stderr() || !wants_json {
        // A closed standard output is no error.
        drop(error.print());
    } else {
        let words = error.render().to_string();
        tell_as_json(None, words.strip_prefix("error: ").unwrap_or(&words).trim_end(), USAGE);
    }
    if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}

/// All that there is to say, from the outside to the innermost cause, each once: some errors say what their cause says.
pub(crate) fn words(error: &anyhow::Error) -> String {
    let mut words = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !words.contains(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    words
}

/// The stable name of an error's code, if it has one.
pub(crate) fn name_of(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|cause| {
        let of_protocol = cause.downcast_ref::<Error>().map(|error| error.code.name());
        let of_server = || cause.downcast_ref::<ServerError>().map(|error| error.code().name());
        let of_config = || cause.is::<ConfigError>().then(|| ErrorCode::InvalidConfig.name());
        of_protocol.or_else(of_server).or_else(of_config)
    })
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.is::<print::Closed>()
}

/// The exit code for an error.
pub(crate) fn code_of(error: &anyhow::Error) -> u8 {
    if let Some(Told(error)) = error.downcast_ref() {
        return code_of(error);
    }
    for cause in error.chain() {
        if cause.is::<Usage>() || cause.is::<ConfigError>() {
            return USAGE;
        }
        if let Some(error) = cause.downcast_ref::<Error>() {
            return match error.class() {
                ErrorClass::FixRequest => REFUSED,
                ErrorClass::Retry | ErrorClass::Redirect => UNREACHABLE,
                ErrorClass::Fence | ErrorClass::Stop => FAILED,
            };
        }
    }
    FAILED
}

/// What a person at a terminal can do about it, where the error's own words cannot know.
fn next_step(error: &Error, is_default: bool) -> Option<&'static str> {
    match error.code {
        // It knows better.
        _ if error.message.contains("`levada ") => None,
        ErrorCode::Disconnected if is_default => Some(
            "is a node running there? --bootstrap or LEVADA_BOOTSTRAP names others; `levada dev --data-dir DIR` starts a \
             cluster to try",
        ),
        ErrorCode::Disconnected => Some("is a node running there? --bootstrap or LEVADA_BOOTSTRAP names others"),
        ErrorCode::UnknownTopic => Some("`levada topic list` shows the topics, `levada topic create` makes one"),
        ErrorCode::NotReady => Some("`/health/ready` of the nodes says what they wait for; --timeout waits longer"),
        ErrorCode::NotLeader | ErrorCode::NotController | ErrorCode::Timeout => {
            Some("`levada cluster status` and `/health/ready` of the nodes say what is missing; --timeout waits longer")
        }
        ErrorCode::TopicExists => Some("`levada topic describe NAME` shows what is there; --if-not-exists accepts it"),
        ErrorCode::OffsetOutOfRange => Some("`levada topic describe NAME` shows the offsets there are"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn advice_fits_what_happened() {
        let next = |code, words, is_default| next_step(&Error::new(code, words), is_default).unwrap_or_default();
        assert!(next(ErrorCode::Disconnected, "", true).contains("levada dev"));
        assert!(!next(ErrorCode::Disconnected, "", false).contains("levada dev"));
        assert!(!next(ErrorCode::NotReady, "", false).contains("cluster status"), "that may be what has just failed");
        assert_eq!(next(ErrorCode::NotReady, "no controller: `levada cluster recover`", false), "");
    }

    #[test]
    fn nothing_is_said_twice() {
        let error = anyhow::anyhow!("the disk is full").context("a file: the disk is full").context("it stopped");
        assert_eq!(words(&error), "it stopped: a file: the disk is full");
        let error = anyhow::Error::new(wrong_config()).context("no server");
        assert_eq!((name_of(&error), code_of(&error)), (Some("INVALID_CONFIG"), USAGE));
    }

    fn wrong_config() -> ConfigError {
        let source = levada_broker::config::Source::default();
        source.load().expect_err("it has no node_id")
    }

    #[test]
    fn codes_follow_the_class_of_the_error_below_all_words() {
        let wrapped = |code| {
            let error: anyhow::Result<()> = Err(Error::new(code, "why")).context("what").context("to what");
            code_of(&error.unwrap_err())
        };
        assert_eq!(wrapped(ErrorCode::UnknownTopic), REFUSED);
        assert_eq!(wrapped(ErrorCode::Timeout), UNREACHABLE);
        assert_eq!(wrapped(ErrorCode::StorageFailed), FAILED);
        assert_eq!(code_of(&usage("--to and --follow")), USAGE);
        assert_eq!(code_of(&anyhow::anyhow!("anything")), FAILED);
    }
}
