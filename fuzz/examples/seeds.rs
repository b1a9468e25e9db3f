//! Writes the seeds of all targets into a directory, one directory for each target: `cargo run -p levada-fuzz --example
//! seeds -- DIRECTORY`. With `--targets` instead, lists each target and the longest input for it.
#![allow(clippy::print_stdout, reason = "it talks to a script")]

use std::{env, fs, io, path::Path};

use levada_fuzz::TARGETS;

fn main() -> io::Result<()> {
    let argument = env::args().nth(1).unwrap_or_else(|| "--targets".to_owned());
    for target in TARGETS {
        if argument == "--targets" {
            println!("{} {}", target.name, target.input_bytes_max);
            continue;
        }
        let directory = Path::new(&argument).join(target.name);
        fs::create_dir_all(&directory)?;
        for (number, seed) in (target.seeds)().into_iter().enumerate() {
            fs::write(directory.join(format!("seed-{number:02}")), seed)?;
        }
    }
    Ok(())
}
