//! `rhubarb package`: a zip for each function that runs on Lambda.
//!
//! A zip holds the host (`bootstrap`), the function beside it, and `rhubarb.toml`, by which the host knows
//! its queue's policy and where the tasks go that the function enqueues. Each file is replaced whole: a
//! command that is killed leaves the old zip or the new one.

mod lambda;
mod linker;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use rhubarb_core::{
    config::{Config, FunctionConfig, Program, QueueClass},
    ids::{FunctionName, QueueName},
};
use rhubarb_deploy::{Arch, Entry, Refused, arch_of, check, zip};
use serde::Serialize;

use self::{lambda::Builder, linker::Linker};
use crate::{
    exit::{CliError, Result, chain},
    project::{self, FILE, Project, shown},
    session::{Session, here},
};

/// The host's file in a zip: what Lambda's `provided` runtimes start.
const BOOTSTRAP: &str = "bootstrap";
/// Lambda takes no more, unpacked (AWS: "Lambda quotas", deployment package).
const UNPACKED_BYTES_MAX: usize = 250 * 1024 * 1024;

/// Pack the functions of the queues of class lambda for AWS Lambda
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  rhubarb package
  rhubarb package --queue maintenance --output /tmp/zips
  rhubarb package --arch arm64
  aws s3 cp --recursive dist/ s3://BUCKET/v1/       # then: aws cloudformation deploy, with CodePrefix=v1/

The zips for arm64 lie in the folder arm64 below: deploy those with CodePrefix=v1/arm64/ Architecture=arm64.

With cargo-zigbuild in the PATH or in .venv (pip install cargo-zigbuild) the binaries are linked for the
glibc of Lambda, also where this system has a newer one.")]
pub(crate) struct Package {
    /// The folder for the zips
    #[arg(long, value_name = "FOLDER", default_value = "dist")]
    output: PathBuf,
    /// Only the function of this queue; may be given several times
    #[arg(long, value_name = "QUEUE")]
    queue: Vec<QueueName>,
    /// The processor; may be given twice [default: x86_64, and arm64 where Rust's target for it is installed]
    #[arg(long, value_name = "ARCH")]
    arch: Vec<ArchName>,
    /// The cargo profile; `dev` builds quickly what is only tried on an emulator
    #[arg(long, value_name = "NAME", default_value = "dist")]
    profile: String,
    /// A built bootstrap, rather than one that is built here
    #[arg(long, value_name = "FILE")]
    bootstrap: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ArchName {
    #[value(name = "x86_64")]
    X86_64,
    #[value(name = "arm64")]
    Arm64,
}

impl From<ArchName> for Arch {
    fn from(name: ArchName) -> Self {
        match name {
            ArchName::X86_64 => Self::X86_64,
            ArchName::Arm64 => Self::Arm64,
        }
    }
}

/// A function that runs on Lambda.
struct Light {
    function: FunctionName,
    package: String,
    queues: Vec<QueueName>,
}

/// A zip that was written.
#[derive(Serialize)]
struct Packed {
    function: FunctionName,
    queues: Vec<QueueName>,
    architecture: &'static str,
    path: PathBuf,
    bytes: usize,
    unpacked_bytes: usize,
}

impl Package {
    /// Builds, checks and packs.
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let file = match &session.global.config {
            Some(file) => file.clone(),
            None => project::find(&here()?)?,
        };
        let configuration = Project::text(&file)?;
        let project = session.project()?;
        project.warn();
        let lights = lights(&project.config, &self.queue)?;
        let linker = Linker::find(&project.root, session);
        let mut packed = Vec::new();
        for arch in self.archs(&project, &linker, session).await? {
            let builder = Builder { project: &project, session, linker: &linker, profile: &self.profile, arch };
            let bootstrap = match &self.bootstrap {
                Some(path) => path.clone(),
                None => builder.bootstrap().await?,
            };
            // Before the functions are built: what is wrong with this one is wrong with every zip.
            let bootstrap = read_checked(&bootstrap, arch)?;
            let binaries = builder.functions(lights.iter().map(|light| light.package.as_str())).await?;
            for light in &lights {
                let binary = binaries.get(&light.package).cloned().unwrap_or_default();
                let binary = read_checked(&binary, arch)?;
                packed.push(self.pack(light, arch, &bootstrap, &binary, &configuration)?);
            }
        }
        let header = ["function", "queues", "processor", "zip", "size", "unpacked"];
        session.screen.rows(&packed, &header, row, "nothing to pack")
    }

    /// The processors to pack for.
    async fn archs(&self, project: &Project, linker: &Linker, session: &Session) -> Result<Vec<Arch>> {
        if !self.arch.is_empty() {
            let mut archs: Vec<Arch> = self.arch.iter().map(|name| Arch::from(*name)).collect();
            archs.sort_unstable();
            archs.dedup();
            return Ok(archs);
        }
        if let Some(path) = &self.bootstrap {
            let arch = arch_of(&read(path)?).map_err(|refused| no_binary(path, &refused))?;
            return Ok(vec![arch.unwrap_or(Arch::X86_64)]);
        }
        let mut archs = Vec::new();
        for arch in Arch::ALL {
            if !lambda::is_installed(arch, project, session).await {
                continue;
            }
            match linker.links_for(arch) {
                true => archs.push(arch),
                false => session.screen.note(format!(
                    "{arch} is left out: Rust's target {} is installed, but nothing here links for it; pip install cargo-zigbuild, or set up a linker and give --arch {arch}",
                    arch.target(),
                )),
            }
        }
        Ok(archs)
    }

    fn pack(&self, light: &Light, arch: Arch, bootstrap: &[u8], binary: &[u8], configuration: &str) -> Result<Packed> {
        let unpacked_bytes = bootstrap.len() + binary.len() + configuration.len();
        if unpacked_bytes > UNPACKED_BYTES_MAX {
            return Err(CliError::Configuration(format!(
                "functions.{}: its zip would unpack to {unpacked_bytes} bytes, and Lambda takes {UNPACKED_BYTES_MAX}: make it smaller, or deploy it as a container image",
                light.function,
            )));
        }
        let entries = [
            Entry { name: BOOTSTRAP, content: bootstrap, executable: true },
            Entry { name: &light.package, content: binary, executable: true },
            Entry { name: FILE, content: configuration.as_bytes(), executable: false },
        ];
        let bytes = zip(&entries).map_err(|error| CliError::Configuration(chain(&error)))?;
        let path = self.path(light, arch);
        write(&path, &bytes)?;
        Ok(Packed {
            function: light.function.clone(),
            queues: light.queues.clone(),
            architecture: arch.as_str(),
            path,
            bytes: bytes.len(),
            unpacked_bytes,
        })
    }

    /// The template asks for the name; which processor's zip it is, the prefix says.
    fn path(&self, light: &Light, arch: Arch) -> PathBuf {
        let folder = match arch {
            Arch::X86_64 => self.output.clone(),
            Arch::Arm64 => self.output.join(arch.as_str()),
        };
        folder.join(format!("{}.zip", light.function))
    }
}

/// The functions of the queues of class `lambda`, or of these of them.
fn lights(config: &Config, asked: &[QueueName]) -> Result<Vec<Light>> {
    project::know(config, asked)?;
    let mut lights: BTreeMap<&FunctionName, Light> = BTreeMap::new();
    for queue in config.queues.values().filter(|queue| asked.is_empty() || asked.contains(&queue.name)) {
        if queue.class != QueueClass::Lambda {
            if asked.is_empty() {
                continue;
            }
            let what =
                format!("queue `{}` has class {}: only those of class lambda run on Lambda", queue.name, queue.class);
            return Err(CliError::Usage(what));
        }
        for function in queue.functions.iter().filter_map(|name| config.functions.get(name)) {
            let package = match &function.program {
                Program::Package(package) => package_of(function, package)?,
                Program::Command(_) => return Err(foreign(&function.name)),
            };
            let light = Light { function: function.name.clone(), package, queues: Vec::new() };
            lights.entry(&function.name).or_insert(light).queues.push(queue.name.clone());
        }
    }
    if lights.is_empty() {
        return Err(CliError::Configuration("no queue has class = \"lambda\": there is nothing to pack".into()));
    }
    Ok(lights.into_values().collect())
}

fn package_of(function: &FunctionConfig, package: &str) -> Result<String> {
    let name = &function.name;
    if package == BOOTSTRAP {
        return Err(CliError::Configuration(format!(
            "functions.{name}.package: `{BOOTSTRAP}` is the host's own name in the zip; give the package another",
        )));
    }
    if function.working_dir.is_some() {
        return Err(CliError::Configuration(format!(
            "functions.{name}.working_dir: a zip holds no folders; leave it out, or deploy a container image as in infra/lambda-image of Rhubarb's repository",
        )));
    }
    Ok(package.to_owned())
}

fn foreign(function: &FunctionName) -> CliError {
    CliError::Configuration(format!(
        "functions.{function}: a `command` needs more than a zip can hold (its language, its libraries): put it into a container image with the same bootstrap as entry point, as in infra/lambda-image of Rhubarb's repository, and give the template its URI; with --queue the functions of other queues are packed",
    ))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| CliError::io(format_args!("read {}", shown(path)), &error))
}

/// Reads a program that Lambda can run.
fn read_checked(path: &Path, arch: Arch) -> Result<Vec<u8>> {
    let content = read(path)?;
    check(&content, arch).map_err(|refused| no_binary(path, &refused))?;
    Ok(content)
}

fn no_binary(path: &Path, refused: &Refused) -> CliError {
    CliError::Configuration(format!("{}: {refused}", shown(path)))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let unfinished = path.with_extension("new");
    let folder = path.parent().unwrap_or(Path::new("."));
    let written = fs::create_dir_all(folder)
        .and_then(|()| fs::write(&unfinished, bytes))
        .and_then(|()| fs::rename(&unfinished, path));
    written.map_err(|error| CliError::io(format_args!("write {}", shown(path)), &error))
}

fn row(packed: &Packed) -> Vec<String> {
    let mib = |bytes: usize| format!("{}.{:02} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 100) >> 20);
    let queues: Vec<&str> = packed.queues.iter().map(QueueName::as_str).collect();
    vec![
        packed.function.to_string(),
        queues.join(", "),
        packed.architecture.to_owned(),
        packed.path.display().to_string(),
        mib(packed.bytes),
        mib(packed.unpacked_bytes),
    ]
}

#[cfg(test)]
mod tests {
    use rhubarb_core::config::{NoVars, Overrides};

    use super::*;

    const FILE: &str = r#"
[app]
name = "shop"
[queues.small]
class = "lambda"
functions = ["one"]
[queues.other]
class = "lambda"
functions = ["one"]
[queues.reports]
class = "lambda"
functions = ["python"]
[queues.odd]
class = "lambda"
functions = ["odd"]
[queues.heavy]
functions = ["one"]
[functions.one]
package = "one-crate"
[functions.odd]
package = "odd-crate"
working_dir = "data"
[functions.python]
command = ["python3", "-m", "awslambdaric", "app.handler"]
"#;

    fn chosen(queues: &[&str]) -> Result<Vec<(String, String, usize)>, String> {
        let config = Config::parse(FILE, &NoVars, &Overrides::default()).unwrap();
        let asked: Vec<QueueName> = queues.iter().map(|name| name.parse().unwrap()).collect();
        let lights = lights(&config, &asked).map_err(|error| error.text().unwrap_or_default().to_owned())?;
        Ok(lights.into_iter().map(|light| (light.function.to_string(), light.package, light.queues.len())).collect())
    }

    #[test]
    fn queues_that_share_a_function_share_its_zip() {
        assert_eq!(chosen(&["small", "other"]), Ok(vec![("one".into(), "one-crate".into(), 2)]));
    }

    #[test]
    fn what_cannot_be_packed_says_why_and_what_to_do() {
        for (queues, told) in [
            (&["reports"][..], "functions.python: a `command` needs more"),
            (&["odd"][..], "functions.odd.working_dir: a zip holds no folders"),
            (&["small", "reports"][..], "with --queue the functions of other queues are packed"),
            (&["heavy"][..], "queue `heavy` has class ecs"),
            (&["smal"][..], "there is no queue `smal`"),
        ] {
            let error = chosen(queues).unwrap_err();
            assert!(error.contains(told), "{queues:?}: {error}");
        }
    }
}
