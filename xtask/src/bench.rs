//! `cargo xtask bench`: side-by-side measurements.

use std::{
    env, fs,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
};

use ::tests::{
    Lab, Tools,
    bench::{
        self, Variant, check,
        measure::{Effort, Kind},
        plot,
        report::Report,
        scale::{self, Part},
        xdp,
    },
};
use anyhow::{Context, Result, ensure};

use crate::{
    build,
    command::{cargo, is_root, privileged, replace, root, run as run_command, target_directory},
    setup, test,
};

/// Options of `bench`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Two short rounds: to see that everything works, not for figures
    #[arg(long)]
    quick: bool,
    /// Measure only this path (can be given several times)
    #[arg(long)]
    path: Vec<bench::Path>,
    /// Measure only this variant (can be given several times)
    #[arg(long)]
    variant: Vec<Variant>,
    /// Make only this kind of measurement (can be given several times)
    #[arg(long)]
    measure: Vec<Kind>,
    /// Rounds; the default is 5, or 2 with --quick
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Measure instead what many ports, flows and containers cost
    #[arg(long, conflicts_with_all = ["path", "variant", "measure", "check"])]
    scale: bool,
    /// Measure instead packets per second of a published UDP port, by XDP and otherwise
    #[arg(long, conflicts_with_all = ["path", "variant", "measure", "check", "scale"])]
    xdp: bool,
    /// With --scale: only this part (can be given several times)
    #[arg(long, requires = "scale")]
    part: Vec<Part>,
    /// With --scale: at how many containers one more is added (can be given several times)
    #[arg(long, requires = "scale")]
    containers: Vec<usize>,
    /// Compare the ratios to the cable with the recorded ones, and fail if one is clearly worse; records nothing unless
    /// --output says where
    #[arg(long)]
    check: bool,
    /// Where the figures go, with a plot beside it; the default is bench/results/paths.json, scale.json or xdp.json
    #[arg(long)]
    output: Option<PathBuf>,
    /// Everything is built: what the run as root is told
    #[arg(long, hide = true)]
    built: bool,
}

/// Builds, measures, prints and writes.
pub fn run(options: &Options) -> Result<()> {
    if !options.built {
        setup::run(&setup::Options {})?;
        build::run(&build::Options {})?;
        run_command(cargo().args(["build", "--release", "--package", "tests", "--bins"]))?;
    }
    if !is_root() {
        // Only this part is root's; what was built stays the user's.
        let mut again = privileged(env::current_exe()?)?;
        return replace(again.args(env::args_os().skip(1)).arg("--built"));
    }
    test::mount_bpffs()?;
    let release = target_directory()?.join("release");
    let program = |variable, name| env::var_os(variable).map_or_else(|| release.join(name), PathBuf::from);
    let tools = Tools { weft: program("WEFT_BIN", "weft"), labtool: program("LABTOOL_BIN", "labtool") };
    let rounds = options.rounds.unwrap_or(if options.quick { 2 } else { 5 });
    if options.scale {
        return run_scale(options, &scale_plan(options, rounds), &tools);
    }
    if options.xdp {
        return run_xdp(options, rounds, tools);
    }
    run_paths(options, rounds, tools)
}

fn run_paths(options: &Options, rounds: u32, tools: Tools) -> Result<()> {
    let plan = bench::Plan {
        paths: chosen(&options.path, &bench::Path::ALL),
        variants: chosen(&options.variant, &Variant::ALL),
        kinds: chosen(&options.measure, &Kind::ALL),
        rounds,
        effort: if options.quick { Effort::QUICK } else { Effort::FULL },
    };
    let lab = Lab::with_tools("bench", tools)?;
    let measured = bench::run(&lab, &plan);
    if !measured.as_ref().is_ok_and(|report| report.failures.is_empty()) {
        lab.print_logs();
    }
    let finished = lab.finish();
    let report = measured?;
    println!("{}", report.markdown());
    if !options.check || options.output.is_some() {
        let output = output(options, "paths.json");
        write(&output, &report.json()?)?;
        write(&output.with_extension("svg"), &plot::svg(&report))?;
    }
    for failure in &report.failures {
        let (path, variant) = (failure.path.name(), failure.variant.name());
        let (round, kind, reason) = (failure.round, failure.kind, &failure.reason);
        eprintln!("failed: {path} with {variant}, round {round}, {kind:?}: {reason}");
    }
    finished?;
    ensure!(report.failures.is_empty(), "{} measurements failed", report.failures.len());
    if options.check { compare_with_recorded(&report) } else { Ok(()) }
}

fn compare_with_recorded(report: &Report) -> Result<()> {
    let path = root().join("bench/results/paths.json");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let outcome = check::compare(&check::Recorded::parse(&text)?, report);
    ensure!(outcome.compared > 0, "nothing of what was measured is recorded");
    let lines = outcome.regressions.iter().map(check::Regression::describe).collect::<Vec<_>>();
    ensure!(
        lines.is_empty(),
        "{} of {} figures are worse than recorded:\n{}",
        lines.len(),
        outcome.compared,
        lines.join("\n")
    );
    println!("\nNone of {} figures is clearly worse than recorded.", outcome.compared);
    Ok(())
}

fn scale_plan(options: &Options, rounds: u32) -> scale::Plan {
    let containers = match options.containers.as_slice() {
        [] if options.quick => vec![10, 50],
        [] => vec![10, 100, 1000],
        chosen => chosen.to_vec(),
    };
    let parts = chosen(&options.part, &Part::ALL);
    if options.quick {
        let (published, flows, remotes) = (vec![1, 1000], vec![1000, 10_000], vec![10, 1000]);
        return scale::Plan { parts, rounds, published, flows, remotes, containers };
    }
    scale::Plan {
        parts,
        rounds,
        published: vec![1, 1000, 10_000, 60_000],
        flows: vec![1000, 100_000, 1_000_000],
        remotes: vec![10, 10_000, 100_000],
        containers,
    }
}

fn run_scale(options: &Options, plan: &scale::Plan, tools: &Tools) -> Result<()> {
    let report = scale::run(plan, |title| Lab::with_tools(title, tools.clone()))?;
    println!("{}", report.markdown());
    let output = output(options, "scale.json");
    write(&output, &report.json()?)?;
    write(&output.with_extension("svg"), &report.svg())
}

fn run_xdp(options: &Options, rounds: u32, tools: Tools) -> Result<()> {
    let lab = Lab::with_tools("bench-xdp", tools)?;
    let measured = xdp::run(&lab, rounds, if options.quick { 200_000 } else { 5_000_000 });
    if measured.is_err() {
        lab.print_logs();
    }
    let finished = lab.finish();
    let report = measured?;
    println!("{}", report.markdown());
    write(&output(options, "xdp.json"), &report.json()?)?;
    finished
}

/// Each of the given ones once, in the order of `all`; all of them if none is given.
fn chosen<T: Copy + PartialEq>(given: &[T], all: &[T]) -> Vec<T> {
    all.iter().copied().filter(|it| given.is_empty() || given.contains(it)).collect()
}

fn output(options: &Options, name: &str) -> PathBuf {
    options.output.clone().unwrap_or_else(|| root().join("bench/results").join(name))
}

/// Writes as the directory's owner: under sudo the results are still the user's.
fn write(path: &Path, text: &str) -> Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let writing = || format!("writing {}", path.display());
    fs::create_dir_all(directory).with_context(writing)?;
    fs::write(path, text).with_context(writing)?;
    let owner = fs::metadata(directory)?;
    chown(path, Some(owner.uid()), Some(owner.gid())).with_context(writing)?;
    eprintln!("written: {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_or_the_given_ones_in_order() {
        assert_eq!(chosen(&[], &[1, 2, 3]), [1, 2, 3]);
        assert_eq!(chosen(&[3, 1, 3], &[1, 2, 3]), [1, 3]);
    }
}
