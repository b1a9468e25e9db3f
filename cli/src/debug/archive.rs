//! A .tar.gz of a few small files.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use flate2::{Compression, write::GzEncoder};
use tar::{Builder, Header};

/// A file of the archive: its name and its bytes.
pub(super) type Entry = (String, Vec<u8>);

/// Says no if the file is there already, or the directory that it is to be in is not.
pub(super) fn check_free(path: &Path) -> Result<()> {
    ensure!(path.symlink_metadata().is_err(), "{} is there already: name another with --file", path.display());
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(directory.is_dir(), "there is no directory {}", directory.display());
    Ok(())
}

/// Makes the file, which must not be there yet. It names machines and topics: nobody else may read it.
pub(super) fn create(path: &Path) -> Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.with_context(|| format!("cannot make {}", path.display()))
}

/// Writes all entries below one directory; how long the archive is.
pub(super) fn write(file: File, directory: &str, entries: &[Entry], made_s: i64) -> io::Result<u64> {
    let mut archive = Builder::new(GzEncoder::new(file, Compression::default()));
    for (name, bytes) in entries {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(made_s).unwrap_or(0));
        archive.append_data(&mut header, format!("{directory}/{name}"), bytes.as_slice())?;
    }
    let file = archive.into_inner()?.finish()?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read as _};

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        let path = std::env::temp_dir().join(format!("levada-archive-{}.tar.gz", std::process::id()));
        let entries = [("a.txt".to_owned(), b"one".to_vec()), ("nodes/1/b".to_owned(), vec![7; 100_000])];
        let bytes = write(create(&path).unwrap(), "top", &entries, 1_700_000_000).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), bytes);
        assert!(check_free(&path).is_err() && create(&path).is_err(), "what is there is not overwritten");
        assert!(check_free(&path.join("x")).is_err() && check_free(&path.with_extension("none")).is_ok());
        assert!(check_free(Path::new("no-such-bundle.tar.gz")).is_ok(), "here");
        let mut archive = tar::Archive::new(GzDecoder::new(File::open(&path).unwrap()));
        let read: Vec<Entry> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                (entry.path().unwrap().display().to_string(), bytes)
            })
            .collect();
        fs::remove_file(&path).unwrap();
        let names: Vec<&str> = read.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["top/a.txt", "top/nodes/1/b"]);
        assert!(read.iter().zip(&entries).all(|(read, written)| read.1 == written.1));
    }
}
