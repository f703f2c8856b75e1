//! The verifier budget: how many instructions the kernel goes through to verify each program, of at most a million.
//!
//! The counts are recorded in verifier-budget.json. A change that makes one grow by more than a tenth fails here: make
//! it smaller, or record the new counts with `WEFT_WRITE_VERIFIER_BUDGET=1` and say why in the commit. Counts differ a
//! little from kernel to kernel, and shrink as verifiers get better.

use std::{collections::BTreeMap, env, fs};

use aya::{EbpfLoader, programs::Program};
use weft::dataplane::object_bytes;

use crate::Result;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/packets/verifier-budget.json");
/// Growth that is tolerated, in per cent.
const TOLERANCE: u64 = 10;

fn verified() -> Result<BTreeMap<String, u32>> {
    let mut ebpf = EbpfLoader::new().load(object_bytes())?;
    let mut counts = BTreeMap::new();
    for (name, program) in ebpf.programs_mut() {
        match program {
            Program::SchedClassifier(program) => program.load()?,
            Program::CgroupSockAddr(program) => program.load()?,
            Program::Xdp(program) => program.load()?,
            other => return Err(format!("{name} is an unexpected {:?}", other.prog_type()).into()),
        }
        let count = program.info()?.verified_instruction_count();
        counts.insert(name.to_owned(), count.ok_or("the kernel does not tell (it does since 5.16)")?);
    }
    Ok(counts)
}

/// A line for each program, and what is wrong.
fn compare(budget: &BTreeMap<String, u32>, counts: &BTreeMap<String, u32>) -> (String, Vec<String>) {
    let mut table = format!("{:<16}{:>10}{:>10}\n", "program", "verified", "budget");
    let mut wrong = Vec::new();
    let mut names: Vec<&String> = budget.keys().chain(counts.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let show = |count: Option<&u32>| count.map_or("-".to_owned(), u32::to_string);
        let (recorded, count) = (budget.get(name), counts.get(name));
        table += &format!("{name:<16}{:>10}{:>10}\n", show(count), show(recorded));
        match (recorded, count) {
            (Some(&recorded), Some(&count)) => {
                if u64::from(count) * 100 > u64::from(recorded) * (100 + TOLERANCE) {
                    wrong.push(format!("{name} has grown from {recorded} to {count} instructions"));
                }
            }
            (Some(_), None) => wrong.push(format!("{name} is recorded, but there is no such program")),
            (None, _) => wrong.push(format!("{name} is not recorded")),
        }
    }
    (table, wrong)
}

#[test]
fn programs_stay_within_their_budget() -> Result {
    let counts = verified()?;
    if env::var_os("WEFT_WRITE_VERIFIER_BUDGET").is_some() {
        fs::write(FILE, serde_json::to_string_pretty(&counts)? + "\n")?;
    }
    let text = fs::read_to_string(FILE).map_err(|error| format!("{FILE}: {error}"))?;
    let (table, wrong) = compare(&serde_json::from_str(&text)?, &counts);
    println!("{table}");
    assert!(wrong.is_empty(), "{table}\n{}\nSee the page of this test.", wrong.join("\n"));
    Ok(())
}

#[test]
fn the_comparison_finds_what_is_wrong() {
    let counts = |list: &[(&str, u32)]| list.iter().map(|&(name, count)| (name.to_owned(), count)).collect();
    let budget = counts(&[("gone", 10), ("grown", 1000), ("kept", 1000), ("shrunk", 1000)]);
    let now = counts(&[("grown", 1101), ("kept", 1100), ("new", 5), ("shrunk", 1)]);
    let (table, wrong) = compare(&budget, &now);
    assert_eq!(table.lines().count(), 6);
    let names: Vec<_> = wrong.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names, ["gone", "grown", "new"]);
}
