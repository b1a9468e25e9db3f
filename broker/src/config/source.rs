//! Where a configuration comes from: kept so that it can be read again, and asked where each value was set.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
};

use figment::{
    Metadata, Profile, Provider,
    providers::{Format as _, Toml},
    value::{Dict, Map},
};
use toml_edit::{ImDocument, Item};

use super::{
    ConfigError, ServerConfig, WHOLE_FILE,
    keys::{self, KEYS, Key},
};

/// What a server was started with: a file, its environment, its flags. The environment and the flags of a process do
/// not change; the file may.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables; those that are not `LEVADA_…` are passed over.
    pub environment: Vec<(String, String)>,
    /// Flags, under the names of the variables that set the same keys ([`Key::variable`]).
    pub flags: Vec<(String, String)>,
}

/// Where a value was set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it is the key's default.
    #[default]
    Default,
    /// In the file, in this line (from 1) if it can be told.
    File {
        /// The file.
        path: PathBuf,
        /// The line of the key.
        line: Option<usize>,
    },
    /// By its environment variable.
    Environment,
    /// By its flag.
    Flag,
}

impl Origin {
    /// In words, for a key: `/etc/levada/levada.toml, line 7`, `LEVADA_LISTEN_NATIVE`, `--listen-native`, `default`.
    #[must_use]
    pub fn of(&self, key: &Key) -> String {
        match self {
            Self::Default => "default".to_owned(),
            Self::File { path, line } => in_file(path, *line),
            Self::Environment => key.variable(),
            Self::Flag => key.flag(),
        }
    }
}

fn in_file(path: &Path, line: Option<usize>) -> String {
    line.map_or_else(|| path.display().to_string(), |line| format!("{}, line {line}", path.display()))
}

/// A configuration that was read and checked, and where its values were set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration.
    pub config: ServerConfig,
    /// Where each key was set that was set anywhere.
    pub origins: BTreeMap<&'static str, Origin>,
}

impl Source {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// The first thing that is wrong: the key, and where it was set.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let text = self.file.as_deref().map(read).transpose()?;
        self.load_text(text.as_deref())
    }

    /// The same with the text of the file.
    pub(crate) fn load_text(&self, text: Option<&str>) -> Result<Loaded, ConfigError> {
        let document = text.and_then(|text| ImDocument::parse(text).ok());
        let origins = self.origins(document.as_ref());
        let place = |error: ConfigError| match (&error.place, KEYS.iter().find(|key| key.name == error.key)) {
            (None, Some(key)) => match origins.get(key.name) {
                Some(origin) => ConfigError { place: Some(origin.of(key)), ..error },
                None => error,
            },
            _ => error,
        };
        let file = match (&self.file, text) {
            (Some(path), Some(text)) => Given { name: FILE, dict: parse(path, text)? },
            _ => Given { name: FILE, dict: Dict::new() },
        };
        let environment = Given::variables("environment", &self.environment)?;
        let flags = Given::variables("flags", &self.flags)?;
        let config = ServerConfig::of(&[&file, &environment, &flags]).map_err(|error| {
            // A key that is not known stands where nothing of ours can say, but in the file.
            match (place(error), &self.file, &document) {
                (error @ ConfigError { place: None, .. }, Some(path), Some(document)) => {
                    let line = line_of(document, &error.key);
                    ConfigError { place: line.map(|line| in_file(path, Some(line))), ..error }
                }
                (error, ..) => error,
            }
        })?;
        Ok(Loaded { config, origins })
    }

    /// Where keys are set: the last of file, environment and flags counts.
    fn origins(&self, document: Option<&ImDocument<&str>>) -> BTreeMap<&'static str, Origin> {
        let mut origins = BTreeMap::new();
        for key in KEYS {
            let variable = key.variable();
            let set = |all: &[(String, String)]| all.iter().any(|(name, _)| *name == variable);
            let line = document.and_then(|document| line_of(document, key.name));
            let origin = match (&self.file, line) {
                _ if set(&self.flags) => Origin::Flag,
                _ if set(&self.environment) => Origin::Environment,
                (Some(path), Some(line)) => Origin::File { path: path.clone(), line: Some(line) },
                _ => continue,
            };
            origins.insert(key.name, origin);
        }
        origins
    }
}

/// The provider's name of the file.
pub(super) const FILE: &str = "file";

/// The text of a configuration file.
pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(path).map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::NotFound => format!("there is no file {}", path.display()),
            _ => format!("{} cannot be read: {error}", path.display()),
        };
        ConfigError::new(WHOLE_FILE, why)
    })
}

/// The values in the text of a file.
pub(super) fn parse(path: &Path, text: &str) -> Result<Dict, ConfigError> {
    Toml::from_str::<Dict>(text).map_err(|error| {
        let line = error.span().map(|span| line_at(text, span.start));
        let place = Some(in_file(path, line));
        ConfigError { place, ..ConfigError::new(WHOLE_FILE, format!("this is not TOML: {}", error.message())) }
    })
}

/// The line, from 1, of the key with a dotted name.
fn line_of(document: &ImDocument<&str>, name: &str) -> Option<usize> {
    let mut table: &dyn toml_edit::TableLike = document.as_table();
    let mut parts = name.split('.').peekable();
    while let Some(part) = parts.next() {
        let (key, item) = table.get_key_value(part)?;
        if parts.peek().is_none() {
            return Some(line_at(document.raw(), key.span().or_else(|| item.span())?.start));
        }
        table = Item::as_table_like(item)?;
    }
    None
}

fn line_at(text: &str, position: usize) -> usize {
    text.bytes().take(position).filter(|byte| *byte == b'\n').count() + 1
}

/// Values with the name of where they come from.
pub(super) struct Given {
    name: &'static str,
    dict: Dict,
}

impl Given {
    /// The defaults of [`KEYS`].
    pub(super) fn defaults() -> Self {
        let mut dict = Dict::new();
        for key in KEYS.iter().filter(|key| !key.default.is_empty()) {
            insert(&mut dict, key.name, key.default.parse().expect("defaults are values"));
        }
        Self { name: "defaults", dict }
    }

    /// What a file says.
    pub(super) fn file(path: &Path) -> Result<Self, ConfigError> {
        Ok(Self { name: FILE, dict: parse(path, &read(path)?)? })
    }

    /// Environment variables, each as the key that it sets.
    pub(super) fn variables(name: &'static str, variables: &[(String, String)]) -> Result<Self, ConfigError> {
        let mut dict = Dict::new();
        for (variable, value) in variables {
            if !variable.starts_with("LEVADA_") || keys::FOREIGN_VARIABLES.contains(&variable.as_str()) {
                continue;
            }
            let Some(key) = KEYS.iter().find(|key| key.variable() == *variable) else {
                return Err(ConfigError::new(variable.as_str(), "this environment variable sets no configuration key"));
            };
            insert(&mut dict, key.name, typed(key, value));
        }
        Ok(Self { name, dict })
    }

    /// Values by their keys.
    pub(super) fn values(
        name: &'static str,
        values: impl IntoIterator<Item = (&'static str, figment::value::Value)>,
    ) -> Self {
        let mut dict = Dict::new();
        values.into_iter().for_each(|(key, value)| insert(&mut dict, key, value));
        Self { name, dict }
    }
}

impl Provider for Given {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.dict.clone())]))
    }
}

/// A variable's text as the kind of value that the key's default is.
fn typed(key: &Key, text: &str) -> figment::value::Value {
    let is_text = key.name == "data_dir" || key.default.starts_with(['"', '[']);
    if is_text { text.into() } else { text.parse().unwrap_or_else(|_| text.into()) }
}

/// Puts a value under a dotted name.
fn insert(dict: &mut Dict, name: &str, value: figment::value::Value) {
    match name.split_once('.') {
        None => drop(dict.insert(name.to_owned(), value)),
        Some((table, rest)) => {
            let entry = dict.entry(table.to_owned()).or_insert_with(|| Dict::new().into());
            if let figment::value::Value::Dict(_, inner) = entry {
                insert(inner, rest, value);
            }
        }
    }
}

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, line) in KEYS.iter().zip(self.config.lines()) {
            let origin = self.origins.get(key.name).cloned().unwrap_or_default();
            writeln!(f, "{line}  # {}", origin.of(key))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> (tempfile::TempDir, Source) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("levada.toml");
        fs::write(&file, text).unwrap();
        (dir, Source { file: Some(file), ..Source::default() })
    }

    #[test]
    fn every_value_says_where_it_was_set() {
        let text = "node_id = 1\ndata_dir = '/d'\n\n[limits]\nidle_ms = 500\nframe_ms = 600\nlimits = 1\n";
        let text = text.replace("limits = 1\n", "produce_ms = 700\n");
        let (_dir, mut source) = source(&text);
        source.environment = vec![("LEVADA_LIMITS_FRAME_MS".into(), "601".into()), ("PATH".into(), "/".into())];
        source.flags = vec![("LEVADA_LIMITS_PRODUCE_MS".into(), "701".into())];
        let loaded = source.load().unwrap();
        let limits = &loaded.config.limits;
        assert_eq!((limits.idle_ms, limits.frame_ms, limits.produce_ms), (500, 601, 701));
        let origin = |name: &str| {
            let key = keys::find(name).unwrap();
            loaded.origins.get(name).cloned().unwrap_or_default().of(key)
        };
        let path = source.file.as_ref().unwrap().display();
        assert_eq!(origin("node_id"), format!("{path}, line 1"));
        assert_eq!(origin("limits.idle_ms"), format!("{path}, line 5"));
        assert_eq!(origin("limits.frame_ms"), "LEVADA_LIMITS_FRAME_MS");
        assert_eq!(origin("limits.produce_ms"), "--limits-produce-ms");
        assert_eq!(origin("limits.handshake_ms"), "default");
        assert!(loaded.to_string().contains("limits.frame_ms = 601  # LEVADA_LIMITS_FRAME_MS\n"), "{loaded}");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let good = "node_id = 1\ndata_dir = '/d'\n";
        for (more, key, line, says) in [
            ("limits.idle_ms = 5", "limits.idle_ms", 3, "a number from 100 to"),
            ("\n[limits]\nidle_ms = 'long'", "limits.idle_ms", 5, "long"),
            ("[limits]\nidl_ms = 5000", "limits.idl_ms", 4, "did you mean limits.idle_ms?"),
            ("[log]\nfilter = 'levada=nonsense'", "log.filter", 4, "nonsense"),
            ("rack = = 'a'", "levada.toml", 3, "not TOML"),
            ("rack = 'a'\nrack = 'b'", "levada.toml", 4, "duplicate"),
        ] {
            let (_dir, source) = source(&format!("{good}{more}"));
            let error = source.load().unwrap_err();
            let path = source.file.as_ref().unwrap().display();
            assert_eq!((error.key.as_str(), error.place), (key, Some(format!("{path}, line {line}"))), "{more}");
            assert!(error.why.contains(says), "{more}: {}", error.why);
        }
        let (_dir, mut source) = source(good);
        source.environment = vec![("LEVADA_LIMITS_IDLE_MS".into(), "5".into())];
        let error = source.load().unwrap_err().to_string();
        assert!(error.starts_with("configuration key `limits.idle_ms` (LEVADA_LIMITS_IDLE_MS): a number"), "{error}");
        source.file = Some("/nowhere/levada.toml".into());
        let error = source.load().unwrap_err().to_string();
        assert_eq!(error, "configuration file: there is no file /nowhere/levada.toml");
    }
}
