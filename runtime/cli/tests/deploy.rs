//! The commands that make what a deployment needs, as processes.

#![expect(clippy::unwrap_used, reason = "a test cannot go on without what its helpers set up")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

const FILE: &str = r#"
[app]
name = "shop"
[queues.small]
class = "lambda"
functions = ["hello"]
[queues.reports]
class = "lambda"
functions = ["reports"]
[functions.hello]
package = "hello"
[functions.reports]
command = ["python3", "-m", "awslambdaric", "app.handler"]
"#;

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rhubarb"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    let ours = |name: &str| name.starts_with("RHUBARB_") || name == "RUST_LOG" || name == "CARGO_TARGET_DIR";
    for (name, _) in std::env::vars_os().filter(|(name, _)| ours(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command.output().unwrap()
}

fn succeed(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refuse(folder: &Path, arguments: &[&str], code: i32) -> String {
    let output = run(folder, arguments);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
    told
}

/// A project with one function that needs no crates.
fn project() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("rhubarb.toml", FILE);
    write("Cargo.toml", "[package]\nname = \"hello\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
    write("src/main.rs", "fn main() {}\n");
    folder
}

/// The least ELF file: a header for this machine's processor, or for one that Lambda does not have.
fn elf(folder: &Path, name: &str, of_lambda: bool) -> PathBuf {
    let mut bytes = [0_u8; 64];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    bytes[16] = 2;
    bytes[18] = match of_lambda {
        true if cfg!(target_arch = "aarch64") => 183,
        true => 62,
        false => 243,
    };
    bytes[20] = 1;
    bytes[52] = 64;
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn the_schema_is_printed_as_it_is_and_as_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let printed = succeed(folder.path(), &["schema"]);
    let schema: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let line = succeed(folder.path(), &["schema", "--json"]);
    assert_eq!((line.lines().count(), serde_json::from_str::<Value>(&line).unwrap()), (1, schema));
}

#[test]
fn the_template_goes_to_a_file_or_to_standard_output() {
    let folder = project();
    let printed = succeed(folder.path(), &["deploy", "template", "--stage", "prod"]);
    assert!(printed.contains("QueueName: shop-prod-small\n"), "{printed}");
    succeed(folder.path(), &["deploy", "template", "--stage", "prod", "--output", "template.yaml"]);
    assert_eq!(fs::read_to_string(folder.path().join("template.yaml")).unwrap(), printed);
    let told = succeed(folder.path(), &["deploy", "template", "--json", "--output", "template.yaml"]);
    assert!(told.starts_with(r#"{"path":"template.yaml","bytes":"#), "{told}");
}

#[test]
fn what_cannot_be_deployed_is_a_matter_of_configuration() {
    let folder = project();
    fs::write(
        folder.path().join("rhubarb.toml"),
        FILE.replace("package = \"hello\"", "package = \"hello\"\nenv = { AWS_REGION = \"x\" }"),
    )
    .unwrap();
    let told = refuse(folder.path(), &["deploy", "template", "--output", "template.yaml"], 64);
    assert!(told.contains("functions.hello.env.AWS_REGION"), "{told}");
    assert!(!folder.path().join("template.yaml").exists());
}

#[test]
fn a_zip_holds_the_bootstrap_the_function_and_the_configuration_and_is_the_same_each_time() {
    let folder = project();
    elf(folder.path(), "host", true);
    let pack = ["package", "--queue", "small", "--bootstrap", "host", "--json"];
    let told: Value = serde_json::from_str(&succeed(folder.path(), &pack)).unwrap();
    assert_eq!((told["function"].as_str(), told["queues"][0].as_str()), (Some("hello"), Some("small")));
    let path = folder.path().join(told["path"].as_str().unwrap());
    let first = fs::read(&path).unwrap();
    assert_eq!(told["bytes"].as_u64(), u64::try_from(first.len()).ok());
    let contents = zipped(&path);
    assert_eq!(
        contents.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(),
        ["bootstrap", "hello", "rhubarb.toml"]
    );
    assert_eq!(contents.iter().map(|(_, mode, _)| mode & 0o777).collect::<Vec<_>>(), [0o755, 0o755, 0o644]);
    assert_eq!(contents[2].2, FILE.as_bytes());
    fs::remove_file(&path).unwrap();
    succeed(folder.path(), &pack);
    assert_eq!(fs::read(&path).unwrap(), first);

    // The function as one that was linked on a newer system.
    let mut newer = contents[1].2.clone();
    let asks = |part: &[u8]| part.starts_with(b"GLIBC_2.") && part[8..10].iter().all(u8::is_ascii_digit);
    for at in (0..newer.len() - 10).filter(|at| asks(&contents[1].2[*at..])) {
        newer[at + 8..at + 10].copy_from_slice(b"99");
    }
    fs::write(folder.path().join("host"), newer).unwrap();
    let told = refuse(folder.path(), &pack, 64);
    assert!(told.contains("host: it needs the symbol `") && told.contains("of GLIBC_2.99"), "{told}");
    assert!(told.contains("pip install cargo-zigbuild"), "{told}");
}

/// The name, mode and content of each file of a zip.
fn zipped(path: &Path) -> Vec<(String, u32, Vec<u8>)> {
    use std::io::Read as _;
    let mut archive = zip::ZipArchive::new(fs::File::open(path).unwrap()).unwrap();
    let mut contents = Vec::new();
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).unwrap();
        let mut content = Vec::new();
        file.read_to_end(&mut content).unwrap();
        contents.push((file.name().unwrap().into_owned(), file.unix_mode().unwrap(), content));
    }
    contents
}

#[test]
fn what_cannot_be_packed_is_refused_before_anything_is_built() {
    let folder = project();
    elf(folder.path(), "host", true);
    elf(folder.path(), "other", false);
    fs::write(folder.path().join("script"), "#!/bin/sh\n").unwrap();
    for (arguments, told) in [
        (&["--bootstrap", "host"][..], "functions.reports: a `command` needs more than a zip can hold"),
        (&["--queue", "small", "--bootstrap", "other"][..], "other: it is built for another processor"),
        (&["--queue", "small", "--bootstrap", "script"][..], "script: it is no Linux binary"),
        (&["--queue", "small", "--bootstrap", "gone"][..], "cannot read gone"),
        (&["--queue", "smal"][..], "there is no queue `smal`"),
    ] {
        let all: Vec<&str> = std::iter::once("package").chain(arguments.iter().copied()).collect();
        let said = refuse(folder.path(), &all, 64);
        assert!(said.contains(told), "{arguments:?}: {said}");
    }
    assert!(!folder.path().join("target").exists() && !folder.path().join("dist").exists());
}
