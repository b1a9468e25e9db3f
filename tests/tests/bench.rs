//! What scripts may rely on in the answers of `levada bench`.

use anyhow::{Context as _, Result};
use levada_tests::{dev::Dev, tools};
use serde_json::Value;

#[test]
fn benchmarks_give_their_figures_and_the_conditions() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let dev = Dev::start(tools::levada(), directory.path(), &["--nodes", "1", "--port-base", "0"])?;
    for arguments in [
        &["bench", "produce", "--duration", "1s", "--warmup", "0s", "--rate", "1"][..],
        &["bench", "e2e", "--duration", "1s", "--warmup", "0s", "--records-per-s", "200"],
        &["bench", "consume", "--duration", "1s", "--bytes", "4MiB"],
        &["bench", "consume", "--duration", "1s", "--bytes", "4MiB", "--typed"],
    ] {
        let command = [arguments, &["--partitions", "2", "--output", "json"]].concat();
        let told: Value = serde_json::from_str(&dev.ok(&command, b"")?).with_context(|| format!("{command:?}"))?;
        for key in ["records_per_s", "mb_per_s", "p50_ms", "p99_ms", "p999_ms", "max_ms", "records", "elapsed_s"] {
            assert!(told[key].as_f64().is_some_and(|figure| figure > 0.0), "{key} in {told}");
        }
        assert_eq!(told["conditions"]["partitions"], 2, "{told}");
        assert!(told["failed"].as_u64().unwrap_or(0) == 0, "{told}");
    }
    let topics: Value = serde_json::from_str(&dev.ok(&["topic", "list", "--output", "json"], b"")?)?;
    assert_eq!(topics["topics"].as_array().map(Vec::len), Some(0), "each deletes its topic: {topics}");
    assert!(dev.stop()?.success());
    Ok(())
}
