//! From `rhubarb.toml` to AWS: the CloudFormation template, and the zips of Lambda functions.
//!
//! Everything here is a function of values: the configuration in, text or bytes out. Nothing reads a file,
//! runs a program or calls AWS, so nothing is lost by a crash: the same input gives the same output to the
//! byte, which is what lets a template be committed and compared, and a zip be uploaded only when it changed.

mod arch;
mod binary;
mod template;
mod zip;

pub use self::{
    arch::Arch,
    binary::{Glibc, Refused, arch_of, check},
    template::{Unfit, code_files, template},
    zip::{Entry, ZipError, zip},
};
