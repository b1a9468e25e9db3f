use figment::providers::{Format, Serialized, Toml};

use super::*;

fn load(
    file: &str,
    environment: &[(&str, &str)],
    flags: &[(&str, figment::value::Value)],
) -> Result<ServerConfig, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("levada.toml");
    std::fs::write(&path, file).unwrap();
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let flags: figment::value::Dict = flags.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    ServerConfig::load(Some(&path), environment, Serialized::defaults(flags))
}

const SMALLEST: &str = "node_id = 1\ndata_dir = '/d'\n";

#[test]
fn what_comes_later_wins() {
    let file = format!("{SMALLEST}rack = 'file'\n[listen]\nnative = '127.0.0.1:1'\nflight = '127.0.0.1:2'\n");
    let env =
        [("LEVADA_LISTEN_NATIVE", "127.0.0.1:11"), ("LEVADA_RACK", "env"), ("PATH", "/bin"), ("LEVADA_BOOTSTRAP", "x")];
    let config = load(&file, &env, &[("rack", "flag".into())]).unwrap();
    assert_eq!(config.rack, "flag");
    assert_eq!(config.listen.native, "127.0.0.1:11");
    assert_eq!(config.listen.flight, "127.0.0.1:2");
    assert_eq!(config.listen.http, "127.0.0.1:9172");
    assert_eq!(config.limits.connections_max, 4096);
}

#[test]
fn every_key_has_a_field_and_can_come_from_the_environment() {
    let environment: Vec<(String, String)> = KEYS
        .iter()
        .map(|key| {
            let value = match key.name {
                "node_id" => "1".to_owned(),
                "data_dir" => "/d".to_owned(),
                "seed_nodes" | "segment.dirs" => String::new(),
                _ => key.default.trim_matches('"').to_owned(),
            };
            (key.variable(), value)
        })
        .collect();
    let from_environment = ServerConfig::load(None, environment, Toml::string("")).unwrap();
    let from_defaults = load(SMALLEST, &[], &[]).unwrap();
    assert_eq!(from_environment, from_defaults);
    let lines = from_defaults.lines();
    assert_eq!(lines.len(), KEYS.len());
    assert!(lines.iter().all(|line| !line.ends_with("= ")), "{lines:?}");
    assert!(lines.contains(&"listen.native = \"127.0.0.1:9170\"".to_owned()), "{lines:?}");
}

#[test]
fn lists_are_lists_or_one_string() {
    let list = format!("{SMALLEST}seed_nodes = ['1@a:1', '2@b:2']");
    let config = load(&list, &[], &[]).unwrap();
    assert_eq!(config.seed_nodes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["1@a:1", "2@b:2"]);
    assert_eq!(load(SMALLEST, &[("LEVADA_SEED_NODES", "1@a:1, 2@b:2")], &[]).unwrap(), config);
    let config = load(&format!("{SMALLEST}[segment]\ndirs = ['/a', '/b, c']"), &[], &[]).unwrap();
    assert_eq!(config.segment.dirs, ["/a", "/b, c"].map(std::path::PathBuf::from));
    assert_eq!(load(SMALLEST, &[("LEVADA_SEGMENT_DIRS", "/a, /b")], &[]).unwrap().segment.dirs.len(), 2);
}

#[test]
fn the_message_names_the_key() {
    let wrong = |more: &str| load(&format!("{SMALLEST}{more}"), &[], &[]).unwrap_err();
    for (more, key, says) in [
        ("colour = 'red'", "colour", "no such key"),
        ("[listen]\nnativ = '127.0.0.1:1'", "listen.nativ", "did you mean listen.native?"),
        ("[nonsense.deep]\nx = 1", "nonsense.deep.x", "no such key"),
        ("[listen]\nnative = '127.0.0.1'", "listen.native", "host:port"),
        ("[listen]\nflight = '0.0.0.0:1'", "listen.flight", "insecure"),
        ("[listen]\nhttp = 'example.org:1'", "listen.http", "authentication"),
        ("insecure = true\n[listen]\nhttp = '0.0.0.0:1'", "advertised.http", "must be set"),
        ("[advertised]\nnative = '0.0.0.0:1'", "advertised.native", "connect"),
        ("seed_nodes = ['1@a:1', '1@b:1']", "seed_nodes", "twice"),
        ("seed_nodes = ['1-a:1']", "seed_nodes", "id@host:port"),
        ("default_replicas = 0", "default_replicas", "1 to 9"),
        ("default_replicas = 'three'", "default_replicas", "three"),
        ("[segment]\ndirs = ['/a', '/b', '/a']", "segment.dirs", "/a is listed twice"),
        ("[segment]\ndirs = ['/d']", "segment.dirs", "data directory"),
        ("[segment]\ndirs = ['']", "segment.dirs", "empty"),
        ("[log]\nformat = 'xml'", "log.format", "text or json"),
        ("[log]\nfilter = '\u{420}=info'", "log.filter", "letters"),
        ("[tracing]\notlp_endpoint = 'collector:4317'", "tracing.otlp_endpoint", "http://host:port"),
        ("[tracing]\nsamples_per_million = 1000001", "tracing.samples_per_million", "from 0 to 1000000"),
        ("[limits]\nrequest_bytes_max = 5", "limits.request_bytes_max", "a number from"),
        ("[tail]\nkeep_bytes = 201326592", "tail.keep_bytes", "a number from"),
    ] {
        let error = wrong(more);
        assert_eq!(error.key, key, "{error}");
        assert!(error.why.contains(says), "{error}");
    }
    assert_eq!(load("data_dir = '/d'", &[], &[]).unwrap_err(), ConfigError::new("node_id", "must be set"));
    let error = load(SMALLEST, &[("LEVADA_LISTEN_NATIV", "x")], &[]).unwrap_err();
    assert_eq!(error.key, "LEVADA_LISTEN_NATIV");
    assert!(load("node_id = = 1", &[], &[]).is_err());
    assert_eq!(
        ServerConfig::load(Some("/nowhere/levada.toml".as_ref()), [], Toml::string("")).unwrap_err().key,
        "levada.toml"
    );
}

#[test]
fn insecure_allows_other_addresses() {
    let more = "insecure = true\n[listen]\nnative = '0.0.0.0:9170'\n[advertised]\nnative = 'node1:9170'";
    let config = load(&format!("{SMALLEST}{more}"), &[], &[]).unwrap();
    let bound = Doors { native: "0.0.0.0:9170".into(), flight: "127.0.0.1:5".into(), http: "127.0.0.1:6".into() };
    let addresses = config.addresses(&bound);
    assert_eq!((addresses.native.as_str(), addresses.flight.as_str()), ("node1:9170", "127.0.0.1:5"));
}

#[test]
fn the_defaults_of_storage_are_storages_own() {
    let (ours, theirs) = (load(SMALLEST, &[], &[]).unwrap().store(), StoreConfig::default());
    assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
}

#[test]
fn the_example_of_the_systemd_unit_loads_and_shows_defaults() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/systemd/levada.toml");
    let example = std::fs::read_to_string(path).unwrap();
    let config = load(&example, &[], &[]).unwrap();
    assert_eq!(config.data_dir, std::path::Path::new("/var/lib/levada"), "the unit's StateDirectory=");
    assert!(config.seed_nodes.iter().any(|seed| seed.native == config.listen.native), "it is the file of a founder");
    // `#key = value` shows a default; `# words` are words.
    let uncomment = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    let all: String = example.lines().map(uncomment).collect();
    assert_ne!(all, example);
    assert_eq!(load(&all, &[], &[]).unwrap(), config);
}
