//! What a binary asks of the system that it will run on.
//!
//! Lambda's `provided.al2023` has glibc 2.34. A binary that was linked on a newer system may ask for symbols
//! that are not there, and would die at its start with nothing but a line in the log; so it is looked at
//! before it is packed. What it asks for stands in its section of needed versions.

use std::fmt;

use object::{
    Endianness, FileKind, elf,
    read::{
        Error,
        elf::{ElfFile64, FileHeader as _, Sym as _},
    },
};

use crate::Arch;

/// A version of the GNU C library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Glibc {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl Glibc {
    /// What Lambda's `provided.al2023` has (AWS: "Lambda runtimes", Amazon Linux 2023).
    pub const LAMBDA: Self = Self { major: 2, minor: 34 };

    /// Reads `GLIBC_2.34` or `GLIBC_2.2.5`; none where it is no number, as `GLIBC_PRIVATE`.
    fn parse(version: &str) -> Option<Self> {
        let mut numbers = version.strip_prefix("GLIBC_")?.split('.').map(str::parse);
        match (numbers.next()?, numbers.next()?) {
            (Ok(major), Ok(minor)) => Some(Self { major, minor }),
            _ => None,
        }
    }
}

impl fmt::Display for Glibc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Why a binary cannot run on Lambda.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// No Linux binary of 64 bits, or a damaged one.
    #[error("it is no Linux binary (ELF, 64 bits): {0}")]
    NoBinary(String),
    /// For another processor.
    #[error("it is built for another processor than {wanted}: build it with --target {}", wanted.target())]
    WrongArch {
        /// What it should be for.
        wanted: Arch,
    },
    /// It asks for more than the system has.
    #[error(
        "it needs {}{version}, and Lambda's provided.al2023 has glibc {}: link for that one with cargo-zigbuild \
         (pip install cargo-zigbuild, which brings zig along; in the PATH or in .venv it is then used), or build on \
         a system with glibc {} or older",
        symbol.as_ref().map(|symbol| format!("the symbol `{symbol}` of ")).unwrap_or_default(),
        Glibc::LAMBDA, Glibc::LAMBDA,
    )]
    TooNew {
        /// The version that it asks for, such as `GLIBC_2.38`.
        version: String,
        /// A symbol that it wants of that version.
        symbol: Option<String>,
    },
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::NoBinary(error.to_string())
    }
}

/// Checks that Lambda can run a binary.
///
/// # Errors
///
/// It is no binary, one for another processor, or one that needs a newer glibc.
pub fn check(binary: &[u8], arch: Arch) -> Result<(), Refused> {
    let file = parse(binary)?;
    if arch_of_file(&file) != Some(arch) {
        return Err(Refused::WrongArch { wanted: arch });
    }
    match too_new(&file)? {
        Some((version, symbol)) => Err(Refused::TooNew { version, symbol }),
        None => Ok(()),
    }
}

/// The processor that a binary is for; none where Lambda has no such one.
///
/// # Errors
///
/// It is no binary.
pub fn arch_of(binary: &[u8]) -> Result<Option<Arch>, Refused> {
    Ok(arch_of_file(&parse(binary)?))
}

fn parse(binary: &[u8]) -> Result<ElfFile64<'_, Endianness>, Refused> {
    match FileKind::parse(binary)? {
        FileKind::Elf64 => Ok(ElfFile64::parse(binary)?),
        _ => Err(Refused::NoBinary("it has another format".into())),
    }
}

fn arch_of_file(file: &ElfFile64<'_, Endianness>) -> Option<Arch> {
    match file.elf_header().e_machine(file.endian()) {
        elf::EM_X86_64 => Some(Arch::X86_64),
        elf::EM_AARCH64 => Some(Arch::Arm64),
        _ => None,
    }
}

/// The newest version that is over what Lambda has, and one symbol that asks for it.
fn too_new(file: &ElfFile64<'_, Endianness>) -> Result<Option<(String, Option<String>)>, Error> {
    let (endian, data, sections) = (file.endian(), file.data(), file.elf_section_table());
    let Some((mut needed, link)) = sections.gnu_verneed(endian, data)? else { return Ok(None) };
    let strings = sections.strings(endian, data, link)?;
    let mut newest: Option<(Option<Glibc>, String)> = None;
    while let Some((_, mut versions)) = needed.next()? {
        while let Some(version) = versions.next()? {
            // The loader goes on without a weak one, and so does who asked for it.
            let weak = version.vna_flags.get(endian).contains(elf::VER_FLG_WEAK);
            let name = String::from_utf8_lossy(version.name(endian, strings)?).into_owned();
            if weak || !is_too_new(&name) {
                continue;
            }
            let found = (Glibc::parse(&name), name);
            newest = newest.max(Some(found));
        }
    }
    let Some((_, version)) = newest else { return Ok(None) };
    let symbol = symbol_of(file, &version)?;
    Ok(Some((version, symbol)))
}

/// The versions without a number (`GLIBC_ABI_DT_RELR`, …) all came after 2.34.
fn is_too_new(version: &str) -> bool {
    Glibc::parse(version).map_or_else(|| version.starts_with("GLIBC_ABI_"), |version| version > Glibc::LAMBDA)
}

/// The first symbol that is wanted of a version.
fn symbol_of(file: &ElfFile64<'_, Endianness>, version: &str) -> Result<Option<String>, Error> {
    let (endian, data, sections) = (file.endian(), file.data(), file.elf_section_table());
    let symbols = sections.symbols(endian, data, elf::SHT_DYNSYM)?;
    let Some(versions) = sections.versions(endian, data)? else { return Ok(None) };
    for (index, symbol) in symbols.enumerate() {
        let of = versions.version(versions.version_index(endian, index).into())?;
        if of.is_some_and(|of| of.name() == version.as_bytes()) {
            let name = symbol.name(endian, symbols.strings())?;
            return Ok(Some(String::from_utf8_lossy(name).into_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Arch = if cfg!(target_arch = "aarch64") { Arch::Arm64 } else { Arch::X86_64 };
    const ELSEWHERE: Arch = if cfg!(target_arch = "aarch64") { Arch::X86_64 } else { Arch::Arm64 };

    /// This test's own binary, which asks for the glibc `2.minor` (two digits) wherever it asked for one of
    /// two digits.
    fn asking_for(minor: &[u8; 2]) -> Vec<u8> {
        let mut binary = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let place =
            |part: &[u8]| part.starts_with(b"GLIBC_2.") && part[8..10].iter().all(u8::is_ascii_digit) && part[10] == 0;
        let places: Vec<usize> =
            binary.windows(11).enumerate().filter(|(_, part)| place(part)).map(|(at, _)| at).collect();
        assert!(!places.is_empty(), "linked against glibc");
        for at in places {
            binary[at + 8..at + 10].copy_from_slice(minor);
        }
        binary
    }

    #[test]
    fn a_binary_that_needs_no_more_than_lambda_has_is_fine() {
        check(&asking_for(b"34"), HERE).unwrap();
    }

    #[test]
    fn a_newer_symbol_is_refused_by_name_with_the_way_out() {
        let told = check(&asking_for(b"35"), HERE).unwrap_err().to_string();
        let symbol = told.split('`').nth(1).unwrap();
        assert!(symbol.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !symbol.is_empty(), "{told}");
        for part in ["of GLIBC_2.35", "has glibc 2.34", "pip install cargo-zigbuild"] {
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn a_binary_for_another_processor_is_refused() {
        let told = check(&asking_for(b"34"), ELSEWHERE).unwrap_err().to_string();
        assert!(told.contains(ELSEWHERE.target()), "{told}");
        assert_eq!(arch_of(&asking_for(b"99")).unwrap(), Some(HERE));
    }

    #[test]
    fn what_is_no_binary_is_refused() {
        let whole = asking_for(b"34");
        for bytes in [b"#!/bin/sh\n".as_slice(), b"", b"\x7fELF", &whole[..100]] {
            assert!(matches!(check(bytes, HERE), Err(Refused::NoBinary(_))), "{} bytes", bytes.len());
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        for (version, refused) in [
            ("GLIBC_2.2.5", false),
            ("GLIBC_2.9", false),
            ("GLIBC_2.34", false),
            ("GLIBC_2.35", true),
            ("GLIBC_3.0", true),
            ("GLIBC_ABI_DT_RELR", true),
            ("GLIBC_PRIVATE", false),
            ("GCC_14.0.0", false),
        ] {
            assert_eq!(is_too_new(version), refused, "{version}");
        }
    }
}
