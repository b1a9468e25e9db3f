//! The configuration, through the loader that the server uses.

use std::path::PathBuf;

use figment::Figment;
use levada_broker::config::ServerConfig;

use super::Finding;
use crate::server::{environment, flags::ConfigFlags};

/// A configuration that the server would take.
pub(crate) struct Configuration {
    pub(crate) config: ServerConfig,
    /// Whether it says which node this is and where; else it is the defaults of any node.
    pub(crate) is_of_a_node: bool,
    /// Whether it names a data directory.
    pub(crate) names_directory: bool,
}

const CHECK: &str = "config";

impl Configuration {
    /// Loads it, and says how that went.
    pub(crate) fn load(file: Option<PathBuf>, flags: ConfigFlags) -> (Option<Self>, Finding) {
        let mut given: Vec<(String, String)> = flags.over(environment()).collect();
        let has = |name: &str, given: &[(String, String)]| given.iter().any(|(variable, _)| variable == name);
        let is_of_a_node = file.is_some() || has("LEVADA_NODE_ID", &given);
        let names_directory = file.is_some() || has("LEVADA_DATA_DIR", &given);
        // Without these there is no configuration; which they are does not matter to what is looked at then.
        if !is_of_a_node {
            given.push(("LEVADA_NODE_ID".to_owned(), "1".to_owned()));
        }
        if !names_directory {
            given.push(("LEVADA_DATA_DIR".to_owned(), ".".to_owned()));
        }
        match ServerConfig::load(file.as_deref(), given, Figment::new()) {
            Err(error) => {
                let todo = "mend it: `levada server --help` lists every key, and the server stops at the same place";
                (None, Finding::wrong(CHECK, error.to_string(), todo))
            }
            Ok(config) if is_of_a_node => {
                let saw = match &file {
                    Some(file) => format!("{} and what is set beside it are in order", file.display()),
                    None => "what is set is in order".to_owned(),
                };
                (Some(Self { config, is_of_a_node, names_directory }), Finding::ok(CHECK, saw))
            }
            Ok(config) => {
                let todo = "name the node's file with --config, or set node_id";
                let saw = "no node's configuration was given: the defaults are looked at";
                (Some(Self { config, is_of_a_node, names_directory }), Finding::skipped(CHECK, saw, todo))
            }
        }
    }
}
