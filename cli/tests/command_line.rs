//! The command without a cluster: what it says about itself, and how it ends when something is wrong.

use std::{
    path::Path,
    process::{Command, Output},
};

fn levada(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_levada"));
    command.args(arguments).env_remove("LEVADA_BOOTSTRAP").env("LANG", "C");
    command.output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_names_every_command_and_exit_code() {
    let help = text(&levada(&["--help"]).stdout);
    for word in [
        "server",
        "dev",
        "topic",
        "produce",
        "consume",
        "cluster",
        "top",
        "doctor",
        "bench",
        "completions",
        "Exit codes:",
    ] {
        assert!(help.contains(word), "{word} is not in:\n{help}");
    }
    let help = text(&levada(&["server", "--help"]).stdout);
    for word in ["--node-id", "--listen-native", "[default: 127.0.0.1:9170]", "LEVADA_LISTEN_NATIVE"] {
        assert!(help.contains(word), "{word} is not in:\n{help}");
    }
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    let cases: [&[&str]; 9] = [
        &[],
        &["flood"],
        &["produce"],
        &["consume", "t", "--from", "yesterday"],
        &["consume", "t", "--follow", "--to", "latest"],
        &["consume", "t", "--to", "earliest"],
        &["produce", "t", "--format", "lines", "--key", "k"],
        &["topic", "alter", "t"],
        &["--bootstrap", "nonsense", "topic", "list"],
    ];
    for arguments in cases {
        let output = levada(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty() && output.stdout.is_empty());
    }
}

#[test]
fn a_wrong_command_line_is_told_as_it_is_asked_for() {
    for arguments in [&["topic", "list", "--output", "json", "--wrong"][..], &["--output=json", "partition", "recover"]]
    {
        let output = levada(arguments);
        let said: serde_json::Value = serde_json::from_slice(&output.stderr).expect("one line of JSON");
        assert_eq!((output.status.code(), &said["error"]["exit"]), (Some(2), &2.into()), "{said}");
    }
    let said = text(&levada(&["partition", "recover"]).stderr);
    assert!(said.contains("name a topic, or say --all"), "{said}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_levada"));
    let output =
        command.args(["topic", "create"]).env("LEVADA_BOOTSTRAP", "127.0.0.1:1").output().expect("the binary runs");
    let said = text(&output.stderr);
    assert!(said.contains("Usage: levada topic create") && !said.contains("--bootstrap"), "{said}");
    let output = levada(&["--help"]);
    assert!(output.status.success() && text(&output.stdout).contains("LEVADA_BOOTSTRAP"), "{output:?}");
}

#[test]
fn no_cluster_ends_with_4_and_says_what_to_do() {
    let nobody = ["--bootstrap", "127.0.0.1:1", "--timeout", "300ms"];
    for command in
        [&["topic", "list"][..], &["produce", "t"], &["consume", "t"], &["cluster", "status"], &["top", "--once"]]
    {
        let output = levada(&[&nobody, command].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{command:?}: {said}");
        assert!(said.contains("127.0.0.1:1") && said.contains("LEVADA_BOOTSTRAP names others"), "{said}");
    }
    let output = levada(&[&nobody[..], &["topic", "list", "--output", "json"]].concat());
    let said: serde_json::Value = serde_json::from_slice(&output.stderr).expect("one line of JSON");
    assert_eq!(said["error"]["code"], "DISCONNECTED", "{said}");
}

#[test]
fn a_server_names_the_key_that_is_wrong() {
    let cases: [(&[&str], &str); 4] = [
        (&["server"], "node_id"),
        (&["server", "--node-id", "1", "--data-dir", "/nowhere", "--listen-native", "0.0.0.0:1"], "insecure"),
        (&["server", "--node-id", "x", "--data-dir", "/nowhere"], "node_id"),
        (
            &["server", "--config", "/nowhere/levada.toml"],
            "error: configuration file: there is no file /nowhere/levada.toml",
        ),
    ];
    for (arguments, says) in cases {
        let output = levada(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(says), "{said}");
    }
    assert!(!Path::new("/nowhere").exists());
}

#[test]
fn a_server_prints_its_configuration() {
    let output =
        levada(&["server", "--node-id", "7", "--data-dir", "/nowhere", "--log-format", "json", "--print-config"]);
    let printed = text(&output.stdout);
    assert!(printed.contains("node_id = 7\n") && printed.contains("log.format = \"json\""), "{printed}");
}

/// What `levada doctor` found, by check, and how it ended.
fn doctor(arguments: &[&str]) -> (std::collections::BTreeMap<String, serde_json::Value>, Option<i32>) {
    // Free ports, and no cluster.
    let fixed = ["doctor", "--output", "json", "--bootstrap", "127.0.0.1:1", "--timeout", "100ms"];
    let doors = ["--listen-native", "127.0.0.1:0", "--listen-flight", "127.0.0.1:0", "--listen-http", "127.0.0.1:0"];
    let output = levada(&[&fixed[..], &doors, arguments].concat());
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    let findings = said["findings"].as_array().expect("a list").clone();
    for finding in &findings {
        assert!(finding["state"] == "ok" || finding["todo"].as_str().is_some_and(|todo| !todo.is_empty()), "{finding}");
    }
    let of_check = |finding: serde_json::Value| (finding["check"].as_str().expect("a name").to_owned(), finding);
    (findings.into_iter().map(of_check).collect(), output.status.code())
}

#[test]
fn a_doctor_says_what_is_wrong_and_ends_with_1() {
    let (found, _) = doctor(&[]);
    for skipped in ["config", "data-dir", "cluster"] {
        assert_eq!(found[skipped]["state"], "skipped", "{found:?}");
    }
    let (found, _) = doctor(&["--node-id", "1", "--data-dir", env!("CARGO_TARGET_TMPDIR")]);
    assert_eq!((&found["config"]["state"], &found["listen.native"]["state"]), (&"ok".into(), &"ok".into()));
    assert!(found["disk.sync"]["saw"].as_str().is_some_and(|saw| saw.contains("written and synced in")), "{found:?}");

    assert_ne!(found["disk.direct"]["state"], "skipped", "{found:?}");

    let cases: [(&[&str], &str, &str); 4] = [
        (&["--node-id", "x"], "config", "node_id"),
        (&["--tail-bytes-max", "1"], "config", "tail.bytes_max"),
        (&["--data-dir", "/proc/version"], "data-dir", "/proc/version is no directory"),
        (&["--node-id", "1", "--data-dir", "/dev/shm"], "disk.sync", "this is memory"),
    ];
    for (arguments, check, says) in cases {
        let (found, code) = doctor(arguments);
        assert!(found[check]["state"] == "wrong" && code == Some(1), "{arguments:?}: {code:?}, {found:?}");
        assert!(found[check]["saw"].as_str().is_some_and(|saw| saw.contains(says)), "{arguments:?}: {found:?}");
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("an address").to_string();
    let output =
        levada(&["doctor", "--bootstrap", "127.0.0.1:1", "--listen-http", "127.0.0.1:0", "--listen-flight", &taken]);
    let shown = text(&output.stdout);
    assert!(
        output.status.code() == Some(1) && shown.contains(&format!("{taken} is in use, and not by a node")),
        "{shown}"
    );
    assert!(shown.contains("-> `ss -ltnp` shows who has it"), "{shown}");
}

#[test]
fn a_bundle_without_a_cluster_says_what_it_lacks() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bundle-{}.tar.gz", std::process::id()));
    let name = file.to_str().expect("a name");
    let output = levada(&["--bootstrap", "127.0.0.1:1", "--timeout", "100ms", "debug", "bundle", "--file", name]);
    let (shown, progress) = (text(&output.stdout), text(&output.stderr));
    std::fs::remove_file(&file).expect("it is there");
    assert!(output.status.success() && shown.contains("missing.txt"), "{shown}{progress}");
    for lack in ["cluster-status.json is missing", "--http names them", "config.txt is missing: --config FILE"] {
        assert!(progress.contains(lack), "{lack}: {progress}");
    }
    assert!(progress.contains("doctor.json (") && progress.contains("machine/proc-version ("), "{progress}");
}

#[test]
fn completions_are_for_a_shell() {
    let script = text(&levada(&["completions", "bash"]).stdout);
    assert!(script.contains("complete") && script.contains("--bootstrap"));
}
