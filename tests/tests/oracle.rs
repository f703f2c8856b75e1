//! The oracle: weft against the kernel's own way, on random topologies with random actions.
//!
//! `WEFT_ORACLE_CASES` is the number of cases (500), `WEFT_ORACLE_SEED` the seed of the first (1), `WEFT_ORACLE_STAGES` the
//! pairs of labs at one time (3). `WEFT_ORACLE_CASE` is the description of one case to replay.

use std::{env, time::Instant};

use anyhow::{Context, Result, ensure};
use tests::oracle::{
    description::{Case, Topology},
    rules::RULES,
    runner::{self, Plan},
};

fn number(variable: &str, default: u64) -> Result<u64> {
    match env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text} is not a number")),
        Err(_) => Ok(default),
    }
}

/// weft is told the truth.
fn truth(topology: &Topology) -> Topology {
    topology.clone()
}

/// A case is one topology with its actions, in up to three steps with changes of the configuration in between.
#[test]
fn weft_does_what_the_kernel_does() -> Result<()> {
    if let Ok(text) = env::var("WEFT_ORACLE_CASE") {
        let case: Case = serde_json::from_str(&text).context("WEFT_ORACLE_CASE")?;
        let findings = runner::replay(&case, truth)?;
        ensure!(findings.is_empty(), "{}", findings.concat());
        return Ok(());
    }
    let plan = Plan {
        cases: number("WEFT_ORACLE_CASES", 500)?,
        seed: number("WEFT_ORACLE_SEED", 1)?,
        stages: number("WEFT_ORACLE_STAGES", 3)?,
        told: truth,
        finds: 10,
    };
    let start = Instant::now();
    let report = runner::run(&plan)?;
    println!(
        "{} cases from seed {} with {} configurations and {} actions in {:.1?}",
        report.cases,
        plan.seed,
        report.configurations,
        report.actions,
        start.elapsed()
    );
    for rule in &RULES {
        println!("rule {} applied {} times", rule.name, rule.applied());
    }
    println!("{} actions differed at first only\n{}", report.unsteady.len(), report.unsteady.concat());
    ensure!(report.found.is_empty(), "{} cases differ", report.found.len());
    Ok(())
}
