//! Scripts for the Python with pyarrow that all tests of the workspace share.

use std::process::Command;

use levada_tests::tools;

/// Runs a script with arguments; what it prints. Panics with its errors if it fails, or if there is no pyarrow.
pub async fn python(script: &str, arguments: &[&str]) -> String {
    let (script, arguments): (String, Vec<String>) =
        (script.to_owned(), arguments.iter().map(|&argument| argument.to_owned()).collect());
    let run = move || Command::new(tools::python()).arg("-c").arg(script).args(arguments).output().unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    out.into_owned()
}
