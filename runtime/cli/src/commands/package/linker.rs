//! What links the binaries: cargo-zigbuild where it is there, which can link for an older glibc than this
//! system's and for the other processor, else what cargo itself uses.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use rhubarb_core::config::Vars as _;
use rhubarb_deploy::{Arch, Glibc};
use tokio::process::Command;

use crate::session::Session;

const ZIGBUILD: &str = "cargo-zigbuild";

/// What links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Linker {
    /// cargo-zigbuild, and the `PATH` on which it finds its zig.
    Zig { program: PathBuf, path: OsString },
    /// cargo alone.
    Cargo { program: String },
}

impl Linker {
    /// Looks for cargo-zigbuild in the project's `.venv`, then in the `PATH`.
    pub(super) fn find(root: &Path, session: &Session) -> Self {
        let path = session.vars.os("PATH").cloned().unwrap_or_default();
        let cargo = session.vars.get("CARGO").unwrap_or_else(|| "cargo".to_owned());
        Self::find_in(root, &path, cargo)
    }

    fn find_in(root: &Path, path: &OsString, cargo: String) -> Self {
        let venv = root.join(".venv").join("bin");
        let folders = std::iter::once(venv).chain(env::split_paths(path));
        let found = folders.map(|folder| folder.join(ZIGBUILD)).find(|program| program.is_file());
        let Some(program) = found else { return Self::Cargo { program: cargo } };
        // pip puts the Python that knows zig beside it.
        let beside = program.parent().map(Path::to_owned);
        let path = env::join_paths(beside.into_iter().chain(env::split_paths(path))).unwrap_or_else(|_| path.clone());
        Self::Zig { program, path }
    }

    /// Whether binaries for this processor can be expected to link.
    pub(super) fn links_for(&self, arch: Arch) -> bool {
        matches!(self, Self::Zig { .. }) || is_of_this_machine(arch)
    }

    /// The command that builds for this processor, with nothing said yet of what.
    pub(super) fn build(&self, arch: Arch) -> Command {
        match self {
            Self::Zig { program, path } => {
                let mut command = Command::new(program);
                command.env("PATH", path).args(["zigbuild", "--target"]);
                command.arg(format!("{}.{}", arch.target(), Glibc::LAMBDA));
                command
            }
            Self::Cargo { program } => {
                let mut command = Command::new(program);
                command.arg("build");
                // Without a target cargo takes what it has built for this machine already.
                if !is_of_this_machine(arch) {
                    command.args(["--target", arch.target()]);
                }
                command
            }
        }
    }
}

fn is_of_this_machine(arch: Arch) -> bool {
    cfg!(target_env = "gnu") && arch.target().starts_with(env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn words(linker: &Linker, arch: Arch) -> Vec<String> {
        let command = linker.build(arch);
        command.as_std().get_args().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn zig_links_for_lambdas_glibc_and_is_found_in_the_projects_venv_first() {
        let folder = tempfile::tempdir().unwrap();
        let (venv, elsewhere) = (folder.path().join(".venv/bin"), folder.path().join("elsewhere"));
        let find = || Linker::find_in(folder.path(), &elsewhere.clone().into(), "cargo".into());
        assert_eq!(find(), Linker::Cargo { program: "cargo".into() });
        for place in [&elsewhere, &venv] {
            fs::create_dir_all(place).unwrap();
            fs::write(place.join(ZIGBUILD), "").unwrap();
            let Linker::Zig { program, path } = find() else { panic!("not found in {}", place.display()) };
            assert_eq!(program, place.join(ZIGBUILD));
            assert_eq!(env::split_paths(&path).next().as_ref(), Some(place), "its Python comes first");
        }
        assert_eq!(words(&find(), Arch::Arm64), ["zigbuild", "--target", "aarch64-unknown-linux-gnu.2.34"]);
        assert!(find().links_for(Arch::Arm64) && find().links_for(Arch::X86_64));
    }

    #[test]
    fn cargo_alone_links_for_this_machines_processor() {
        let linker = Linker::Cargo { program: "cargo".into() };
        let (here, elsewhere): (Vec<Arch>, Vec<Arch>) = Arch::ALL.iter().partition(|arch| linker.links_for(**arch));
        assert_eq!(words(&linker, here[0]), ["build"]);
        assert_eq!(words(&linker, elsewhere[0]), ["build", "--target", elsewhere[0].target()]);
    }
}
