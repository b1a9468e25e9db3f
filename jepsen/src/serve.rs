//! Runs as pages: a list of all that are kept, and the report of each.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    extract::{Path as UrlPath, State},
    http::StatusCode,
    response::Html,
    routing::get,
};
use levada_checkers::verdict::Verdict;

use crate::{results::Results, shrink};

/// How deep below the store a run may be: a suite keeps those of each scenario in a directory.
const DEPTH_MAX: u32 = 2;

/// Serves what a store keeps until it is interrupted.
///
/// # Errors
/// The address cannot be had.
#[allow(clippy::print_stdout, reason = "this is a command's output")]
pub fn serve(store: &Path, listen: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener =
            tokio::net::TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
        println!("http://{}/", listener.local_addr()?);
        let until = async { drop(tokio::signal::ctrl_c().await) };
        Ok(axum::serve(listener, pages(store)).with_graceful_shutdown(until).await?)
    })
}

fn pages(store: &Path) -> Router {
    let list = |State(store): State<Arc<PathBuf>>| async move { Html(list_page(&runs(&store))) };
    let router = Router::new().route("/", get(list)).route("/{run}/", get(report));
    let router = router.route("/{run}/minimal.txt", get(story)).route("/{run}/minimal.jsonl.zst", get(minimal));
    router.with_state(Arc::new(store.to_owned()))
}

type Store = State<Arc<PathBuf>>;

/// The report of a run.
async fn report(State(store): Store, UrlPath(id): UrlPath<String>) -> Result<Html<Vec<u8>>, StatusCode> {
    read(&store, &id, "report.html").map(Html)
}

/// What it was shrunk to, to be read,
async fn story(State(store): Store, UrlPath(id): UrlPath<String>) -> Result<String, StatusCode> {
    read(&store, &id, shrink::STORY).map(|text| String::from_utf8_lossy(&text).into_owned())
}

/// and to be judged.
async fn minimal(State(store): Store, UrlPath(id): UrlPath<String>) -> Result<Vec<u8>, StatusCode> {
    read(&store, &id, shrink::HISTORY)
}

/// A file of a run. Its id is looked up among those that are there: no path comes from outside.
fn read(store: &Path, id: &str, file: &str) -> Result<Vec<u8>, StatusCode> {
    let (dir, _) = runs(store).into_iter().find(|(_, run)| run.id == id).ok_or(StatusCode::NOT_FOUND)?;
    fs::read(dir.join(file)).map_err(|_| StatusCode::NOT_FOUND)
}

/// All runs, the latest first.
pub(crate) fn runs(store: &Path) -> Vec<(PathBuf, Results)> {
    let mut runs = Vec::new();
    find(store, DEPTH_MAX, &mut runs);
    runs.sort_by(|(_, a), (_, b)| b.began.cmp(&a.began));
    runs
}

fn find(dir: &Path, depth: u32, runs: &mut Vec<(PathBuf, Results)>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let text = fs::read_to_string(path.join("results.json")).unwrap_or_default();
        match serde_json::from_str(&text) {
            Ok(results) => runs.push((path, results)),
            // One that still runs, or a scenario's directory.
            Err(_) if depth > 1 && path.is_dir() => find(&path, depth - 1, runs),
            Err(_) => {}
        }
    }
}

fn list_page(runs: &[(PathBuf, Results)]) -> String {
    let mut rows = String::new();
    for (_, run) in runs {
        let colour = match run.verdict {
            Verdict::Valid => "#1a7f37",
            Verdict::Inconclusive => "#9a6700",
            Verdict::Invalid => "#cf222e",
        };
        let acked = run.checks.iter().find_map(|check| check.figures.get("acked")).copied().unwrap_or(0.0);
        let cells = [&run.plan.workload, &run.plan.nemeses.join(", "), &run.began].map(|text| escape(text));
        let _ = writeln!(
            rows,
            "<tr><td style=\"color:{colour};font-weight:600\">{}</td><td><a href=\"/{id}/\">{id}</a></td><td>{}</td>\
             <td>{}</td><td>{} s</td><td align=right>{acked:.0}</td><td>{}</td></tr>",
            run.verdict,
            cells[0],
            cells[1],
            run.plan.time_s,
            cells[2],
            id = escape(&run.id),
        );
    }
    let none = if runs.is_empty() { "<p>No run is kept here yet: <code>jepsen run</code></p>" } else { "" };
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Levada fault runs</title>\
         <meta name=viewport content=\"width=device-width\"><style>:root{{color-scheme:light dark}}\
         body{{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}}\
         td,th{{padding:.3rem .8rem .3rem 0;text-align:left;vertical-align:top}}</style><h1>Fault runs</h1>{none}\
         <table><tr><th>verdict<th>run<th>workload<th>faults<th>time<th>acknowledged<th>began</tr>\n{rows}</table></html>"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn runs_are_found_wherever_a_suite_keeps_them_and_nothing_else_is_served() {
        let store = tempfile::tempdir().unwrap();
        for (dir, (results, _)) in [("one", sample::valid(1)), ("scenario/two", sample::invalid(2))] {
            let dir = store.path().join(dir);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("results.json"), serde_json::to_string(&results).unwrap()).unwrap();
        }
        fs::create_dir_all(store.path().join("still-runs/nodes")).unwrap();
        let found = runs(store.path());
        assert_eq!(found.len(), 2);
        let page = list_page(&found);
        assert!(page.contains("INVALID") && page.contains("valid") && page.contains(&found[0].1.id));
        fs::write(store.path().join("scenario/two").join(shrink::STORY), "told").unwrap();
        assert_eq!(read(store.path(), &sample::invalid(2).0.id, shrink::STORY).unwrap(), b"told");
        assert!(read(store.path(), "../scenario/two", shrink::STORY).is_err());
    }
}
