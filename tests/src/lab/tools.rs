//! The programs that a lab runs: weft itself and the lab's own traffic tool.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

/// Where the two programs are.
#[derive(Debug, Clone)]
pub struct Tools {
    /// The `weft` binary: `WEFT_BIN`, else beside this program in cargo's target directory.
    pub weft: PathBuf,
    /// The `labtool` binary: `LABTOOL_BIN`, else beside this program.
    pub labtool: PathBuf,
}

impl Tools {
    /// Looks in the environment, then in the directory of the running program (for a test: `target/<profile>`).
    pub fn find() -> Result<Self> {
        let program = env::current_exe()?;
        let directory = program.parent().unwrap_or(Path::new("."));
        let profile = match directory.file_name() {
            Some(name) if name == "deps" => directory.parent().unwrap_or(directory),
            _ => directory,
        };
        let of = |variable, name| env::var_os(variable).map_or_else(|| profile.join(name), PathBuf::from);
        Ok(Self { weft: of("WEFT_BIN", "weft"), labtool: of("LABTOOL_BIN", "labtool") })
    }

    pub(super) fn weft(&self) -> Result<&str> {
        existing(&self.weft, "WEFT_BIN", "cargo build -p weft")
    }

    pub(super) fn labtool(&self) -> Result<&str> {
        existing(&self.labtool, "LABTOOL_BIN", "cargo build -p tests --bins")
    }
}

fn existing<'path>(path: &'path Path, variable: &str, command: &str) -> Result<&'path str> {
    ensure!(
        path.is_file(),
        "{} does not exist: build it with `{command}`, or set {variable} to where it is",
        path.display()
    );
    path.to_str().ok_or_else(|| anyhow::anyhow!("{} is not UTF-8", path.display()))
}
