//! The figures that README.md and docs/architecture.md tell are those that are recorded.

use std::{collections::BTreeMap, fs, path::Path as FilePath};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use tests::bench::{Path, Variant, measure::Measure, report, statistics::Spread};

fn read(path: &str) -> Result<String> {
    let path = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn json(path: &str) -> Result<Value> {
    serde_json::from_str(&read(path)?).with_context(|| path.to_owned())
}

/// The rows of the table with this first column of its header, as cells.
fn table(text: &str, header: &str) -> Result<Vec<Vec<String>>> {
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    let lines: Vec<&str> = text.lines().collect();
    let is_header = |line: &&str| line.strip_prefix("| ").is_some_and(|line| line.starts_with(header));
    let at = lines.iter().position(is_header).with_context(|| format!("no table of {header}"))?;
    Ok(lines[at + 2..].iter().take_while(|line| line.starts_with('|')).map(|line| cells(line)).collect())
}

/// A row of the summary in paths.json.
#[derive(Deserialize)]
struct Row {
    path: Path,
    measure: Measure,
    variant: Variant,
    value: Spread,
    ratio: Option<Spread>,
}

#[test]
fn the_table_of_paths_is_the_recorded_one() -> Result<()> {
    let summary: Vec<Row> = serde_json::from_value(json("bench/results/paths.json")?["summary"].take())?;
    let cell = |path, measure, variant| {
        let row = summary.iter().find(|row| (row.path, row.measure, row.variant) == (path, measure, variant));
        let row = row.with_context(|| format!("no figure of {path:?} {measure:?} {variant:?}"))?;
        Ok::<_, anyhow::Error>(report::cell(variant, &row.value, row.ratio.as_ref()))
    };
    let mut expected = Vec::new();
    for path in Path::ALL.into_iter().filter(|path| summary.iter().any(|row| row.path == *path)) {
        for measure in [Measure::TcpRoundTripP50, Measure::TcpThroughput, Measure::ConnectionRate] {
            let mut row = vec![path.name().to_owned(), format!("{}, {}", measure.name(), measure.unit())];
            for variant in [Variant::Cable, Variant::Kernel, Variant::Weft] {
                row.push(cell(path, measure, variant)?);
            }
            expected.push(row);
        }
    }
    let told = table(&read("README.md")?, "path ")?;
    ensure!(told == expected, "README tells\n{told:#?}\nand recorded is\n{expected:#?}");
    Ok(())
}

/// Whether a text like `3.4 ms` is this figure, rounded to as many decimals as it has.
fn is_rounded(text: &str, figure: &Value) -> bool {
    let number = text.split(' ').next().unwrap_or_default();
    let decimals = number.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    figure.as_f64().is_some_and(|figure| format!("{figure:.decimals$}") == number)
}

#[test]
fn the_table_of_growth_is_the_recorded_one() -> Result<()> {
    let recorded = [json("bench/results/scale.json")?, json("bench/results/scale-4000.json")?];
    let rows: Vec<&Value> =
        recorded.iter().flat_map(|file| file["containers"].as_array().into_iter().flatten()).collect();
    let told = table(&read("README.md")?, "containers ")?;
    ensure!(told.len() == rows.len(), "README tells of {} numbers, {} are recorded", told.len(), rows.len());
    for (told, row) in told.iter().zip(rows) {
        let count: u64 = told[0].replace(',', "").parse()?;
        ensure!(row["containers"] == count, "{count} containers, not {}", row["containers"]);
        let mut figures = vec![&row["ready_s"]];
        for how in ["in_one_file", "as_a_file", "by_apply"] {
            figures.extend(["answers_ms", "apply_cpu_ms"].map(|what| &row[how][what]["median"]));
        }
        figures.push(&row["teardown_s"]);
        ensure!(told.len() == 1 + figures.len(), "{told:?}");
        for (text, figure) in told[1..].iter().zip(figures) {
            ensure!(
                is_rounded(text, figure),
                "of {count} containers README tells {text}, recorded is {figure}"
            );
        }
    }
    Ok(())
}

/// Where the architecture tells how many instructions of a program the verifier goes through, it is the budget in
/// thousands.
#[test]
fn instruction_counts_are_the_recorded_ones() -> Result<()> {
    let budget: BTreeMap<String, u32> =
        serde_json::from_value(json("userspace/tests/packets/verifier-budget.json")?)?;
    let text = read("docs/architecture.md")?;
    let told: Vec<(&str, &str)> = text
        .split("`: ")
        .zip(text.split("`: ").skip(1))
        .filter_map(|(before, after)| {
            let (number, rest) = after.split_once(' ')?;
            let program = before.rsplit('`').next()?;
            rest.starts_with("instructions").then_some((program, number))
        })
        .collect();
    ensure!(!told.is_empty(), "it tells of none");
    for (program, number) in told {
        let recorded = budget.get(program).with_context(|| format!("no program {program}"))?;
        let thousands = format!("{},000", (recorded + 500) / 1000);
        ensure!(number == thousands, "{program} has {recorded} instructions, not {number}");
    }
    Ok(())
}
