//! The zip of a Lambda function.
//!
//! The same entries give the same bytes: no time of the build and no order of a folder gets in, so that a
//! zip differs if and only if the code does.

use std::io::{Cursor, Write as _};

use ::zip::{CompressionMethod, DateTime, ZipWriter, result::ZipError as Cause, write::SimpleFileOptions};

/// One file of a zip.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its name: a path below `/var/task`.
    pub name: &'a str,
    /// What it holds.
    pub content: &'a [u8],
    /// Whether it can be started.
    pub executable: bool,
}

/// The zip cannot be written; its entries have one name twice, or are too large.
#[derive(Debug, thiserror::Error)]
#[error("cannot write `{name}` into the zip")]
pub struct ZipError {
    name: String,
    source: Cause,
}

/// Writes a zip of these files, in the order of their names.
///
/// # Errors
///
/// Names the file that does not go in.
pub fn zip(entries: &[Entry<'_>]) -> Result<Vec<u8>, ZipError> {
    let mut sorted: Vec<&Entry<'_>> = entries.iter().collect();
    sorted.sort_by_key(|entry| entry.name);
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for entry in &sorted {
        let failed = |source| ZipError { name: entry.name.to_owned(), source };
        writer.start_file(entry.name, options(entry)).map_err(failed)?;
        writer.write_all(entry.content).map_err(|error| failed(error.into()))?;
    }
    let whole = |source| ZipError { name: "the end".to_owned(), source };
    Ok(writer.finish().map_err(whole)?.into_inner())
}

fn options(entry: &Entry<'_>) -> SimpleFileOptions {
    SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(9))
        // The first moment that a zip can name.
        .last_modified_time(DateTime::default())
        .unix_permissions(if entry.executable { 0o755 } else { 0o644 })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use ::zip::ZipArchive;

    use super::*;

    fn entry<'a>(name: &'a str, content: &'a [u8], executable: bool) -> Entry<'a> {
        Entry { name, content, executable }
    }

    #[test]
    fn the_order_of_the_files_makes_no_difference() {
        let (bootstrap, config) = (entry("bootstrap", b"elf", true), entry("rhubarb.toml", b"[app]", false));
        assert_eq!(zip(&[bootstrap, config]).unwrap(), zip(&[config, bootstrap]).unwrap());
        assert_ne!(zip(&[bootstrap]).unwrap(), zip(&[entry("bootstrap", b"elF", true)]).unwrap());
    }

    #[test]
    fn what_goes_in_comes_out_and_programs_can_be_started() {
        let bytes = zip(&[entry("bootstrap", &[7; 100_000], true), entry("rhubarb.toml", b"[app]", false)]).unwrap();
        assert!(bytes.len() < 2_000, "it is compressed");
        let mut archive = ZipArchive::new(Cursor::new(bytes)).unwrap();
        let mut read = |name: &str| {
            let mut file = archive.by_name(name).unwrap();
            let mut content = Vec::new();
            file.read_to_end(&mut content).unwrap();
            (content, file.unix_mode().unwrap() & 0o777, file.last_modified())
        };
        assert_eq!(read("bootstrap"), (vec![7; 100_000], 0o755, Some(DateTime::default())));
        assert_eq!(read("rhubarb.toml"), (b"[app]".to_vec(), 0o644, Some(DateTime::default())));
    }

    #[test]
    fn one_name_twice_is_refused_by_name() {
        let told = zip(&[entry("a", b"1", false), entry("a", b"2", false)]).unwrap_err().to_string();
        assert!(told.contains("`a`"), "{told}");
    }
}
