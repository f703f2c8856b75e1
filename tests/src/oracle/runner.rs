//! Playing many cases, and making what is found small.

use std::{
    fmt::Write as _,
    panic,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use super::{
    description::{Case, Topology},
    generator, shrink,
    stage::{Finding, QUICK, SURE, Stage},
};

/// For how long a found case is made smaller.
const SHRINK_LIMIT: Duration = Duration::from_secs(90);

/// What to play.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Number of cases.
    pub cases: u64,
    /// Of the first; the next has the next number.
    pub seed: u64,
    /// Pairs of labs at one time. A case waits most of its time.
    pub stages: u64,
    /// Topology as weft is told it.
    pub told: fn(&Topology) -> Topology,
    /// Ends with so many finds.
    pub finds: usize,
    /// Cases of both families, or of IPv4 alone.
    pub is_dual: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Cases played.
    pub cases: u64,
    /// Configurations, one for each step.
    pub configurations: u64,
    /// Actions compared.
    pub actions: usize,
    /// Actions that differed at first only, in words.
    pub unsteady: Vec<String>,
    /// Cases that differ.
    pub found: Vec<Found>,
}

/// A case that differs.
#[derive(Debug)]
pub struct Found {
    /// Of the generator.
    pub seed: u64,
    /// The smallest case that still differs.
    pub smallest: Case,
    /// What differs, in words.
    pub what: String,
}

/// The case with this seed.
pub fn case(seed: u64, is_dual: bool) -> Result<Case> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let tree =
        generator::cases(is_dual).new_tree(&mut runner).map_err(|reason| anyhow!("case {seed}: {reason}"))?;
    Ok(tree.current())
}

/// Plays all cases of a plan.
pub fn run(plan: &Plan) -> Result<Report> {
    let next = AtomicU64::new(0);
    let enough = AtomicBool::new(false);
    let report = Mutex::new(Report::default());
    let worker = || -> Result<()> {
        let mut stage = Stage::build(plan.told)?;
        while !enough.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= plan.cases {
                break;
            }
            let is_enough =
                play(&mut stage, plan.seed.wrapping_add(index), plan, &report).inspect_err(|_| {
                    enough.store(true, Ordering::Relaxed);
                })?;
            if is_enough {
                enough.store(true, Ordering::Relaxed);
            }
        }
        stage.finish()
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..plan.stages).map(|_| scope.spawn(worker)).collect();
        let ends =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|it| panic::resume_unwind(it)));
        ends.collect::<Vec<_>>().into_iter().collect::<Result<()>>()
    })?;
    Ok(report.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// How to see it again.
fn replay_with(seed: u64, smallest: &Case) -> String {
    format!(
        "WEFT_ORACLE_SEED={seed} WEFT_ORACLE_CASES=1 finds this; the smallest such case is\nWEFT_ORACLE_CASE='{smallest}'"
    )
}

/// Plays one case, and makes it smaller if its sides differ. Whether enough have been found.
fn play(stage: &mut Stage, seed: u64, plan: &Plan, report: &Mutex<Report>) -> Result<bool> {
    let first = case(seed, plan.is_dual)?;
    let outcome = stage.play(&first, SURE).map_err(|error| error.context(format!("case {seed}: {first}")))?;
    let words = |findings: &[Finding]| findings.iter().map(|it| describe(it, seed)).collect::<Vec<_>>();
    {
        let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
        report.cases += 1;
        report.configurations += first.steps.len() as u64;
        report.actions += outcome.actions;
        report.unsteady.extend(words(&outcome.unsteady));
    }
    if outcome.findings.is_empty() {
        return Ok(false);
    }
    let (mut smallest, mut what) = (first, words(&outcome.findings).concat());
    eprintln!("found, and made smaller now: {what}");
    let until = Instant::now() + SHRINK_LIMIT;
    'smaller: loop {
        for candidate in shrink::candidates(&smallest) {
            if Instant::now() > until {
                break 'smaller;
            }
            let outcome = stage.play(&candidate, QUICK)?;
            if !outcome.findings.is_empty() {
                (smallest, what) = (candidate, words(&outcome.findings).concat());
                continue 'smaller;
            }
        }
        break;
    }
    eprintln!("{}\n{what}", replay_with(seed, &smallest));
    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
    report.found.push(Found { seed, smallest, what });
    Ok(report.found.len() >= plan.finds)
}

fn describe(finding: &Finding, seed: u64) -> String {
    let mut text = format!("seed {seed}, step {}: {:?}\n", finding.step, finding.action);
    for difference in &finding.differences {
        // Writing to a string does not fail.
        let _ = writeln!(text, "    {difference}");
    }
    let _ = writeln!(text, "  kernel: {:?}\n  weft:   {:?}", finding.kernel, finding.weft);
    text
}

/// Plays one given case.
pub fn replay(case: &Case, told: fn(&Topology) -> Topology) -> Result<Vec<String>> {
    let mut stage = Stage::build(told)?;
    let outcome = stage.play(case, SURE)?;
    stage.finish()?;
    Ok(outcome.findings.iter().map(|finding| describe(finding, 0)).collect())
}
