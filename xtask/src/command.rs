//! Running programs: cargo, apt, sudo.

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

/// Where programs are that only root needs.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The workspace's root.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The cargo that runs us, in the workspace's root.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// cargo's target directory: this program is `<target directory>/<profile>/xtask`.
pub fn target_directory() -> Result<PathBuf> {
    let program = env::current_exe()?;
    let directory = program.parent().and_then(Path::parent);
    directory.map(Path::to_owned).context("xtask is not in cargo's target directory")
}

/// The command as one would type it.
pub fn words(command: &Command) -> String {
    let all = std::iter::once(command.get_program()).chain(command.get_args());
    all.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Shows the command, runs it, and fails if it fails.
pub fn run(command: &mut Command) -> Result<()> {
    eprintln!("$ {}", words(command));
    let status = command.status().with_context(|| format!("starting `{}`", words(command)))?;
    ensure!(status.success(), "`{}` ended with {status}", words(command));
    Ok(())
}

/// Standard output of a command; `None` if it is not there or fails.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Where a program is; looks where system programs are, too, for `PATH` of a user often lacks them.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = SYSTEM_DIRECTORIES.map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// Whether this process is root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// `program` as root: itself, or through sudo with the environment kept.
pub fn privileged(program: impl AsRef<OsStr>) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    let Some(sudo) = find_program("sudo") else {
        bail!("{} needs root, and there is no sudo: run this as root", program.as_ref().to_string_lossy())
    };
    let mut command = Command::new(sudo);
    // sudo replaces PATH by its secure_path even with --preserve-env. A user's PATH does not have what only root needs.
    let mut path = OsString::from("PATH=");
    path.push(env::var_os("PATH").unwrap_or_default());
    for directory in SYSTEM_DIRECTORIES {
        path.push(":");
        path.push(directory);
    }
    command.arg("--preserve-env").arg("env").arg(path).arg(program);
    Ok(command)
}

/// Becomes this command.
pub fn replace(command: &mut Command) -> Result<()> {
    Err(command.exec()).with_context(|| format!("starting `{}`", words(command)))
}
