//! What README.md and docs/architecture.md tell: figures are those that are recorded, and the tree names every module.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path as FilePath, PathBuf},
};

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
    let cell = |path, measure, variant: Variant| {
        let row = summary.iter().find(|row| (row.path, row.measure, row.variant) == (path, measure, variant));
        if row.is_none() && !variant.takes(path) {
            return Ok("–".to_owned());
        }
        let row = row.with_context(|| format!("no figure of {path:?} {measure:?} {variant:?}"))?;
        Ok::<_, anyhow::Error>(report::cell(variant, &row.value, row.ratio.as_ref()))
    };
    let mut expected = Vec::new();
    for path in Path::ALL.into_iter().filter(|path| summary.iter().any(|row| row.path == *path)) {
        let measures = [
            Measure::TcpRoundTripP50,
            Measure::TcpThroughput,
            Measure::UdpPacketRate,
            Measure::ConnectionRate,
        ];
        for measure in measures {
            let mut row = vec![path.name().to_owned(), format!("{}, {}", measure.name(), measure.unit())];
            for variant in [Variant::Cable, Variant::Kernel, Variant::Redirect, Variant::Weft] {
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

/// All modules in a folder and its folders, but for `mod.rs` and tests.
fn modules(folder: &FilePath, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        match path.file_name().and_then(|name| name.to_str()) {
            Some("mod.rs" | "tests.rs" | "tests") => {}
            Some(_) if path.is_dir() => modules(&path, into)?,
            _ => into.push(path),
        }
    }
    Ok(())
}

/// The part of the tree that begins with this line, up to the next one that is not deeper.
fn subtree<'a>(tree: &'a str, first: &str) -> Result<HashSet<&'a str>> {
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut lines = tree.lines().skip_while(|line| !line.starts_with(first));
    let head = lines.next().with_context(|| format!("{first} is not in the tree"))?;
    let below = lines.take_while(|line| depth(line) > depth(first));
    let between = |letter: char| letter.is_whitespace() || "/,;()".contains(letter);
    Ok(std::iter::once(head).chain(below).flat_map(|line| line.split(between)).collect())
}

#[test]
fn the_tree_names_every_module() -> Result<()> {
    let text = read("docs/architecture.md")?;
    let tree = text.split("```").nth(1).context("no tree")?;
    let root = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders = vec![("dataplane-ebpf/src".to_owned(), "dataplane-ebpf/".to_owned())];
    for entry in fs::read_dir(root.join("userspace/src"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // The command line has a file for each subcommand, which needs no list.
        if entry.file_type()?.is_dir() && name != "cli" {
            folders.push((format!("userspace/src/{name}"), format!("  src/{name}/")));
        }
    }
    for (folder, first) in folders {
        let named = subtree(tree, &first)?;
        let mut found = Vec::new();
        modules(&root.join(&folder), &mut found)?;
        ensure!(!found.is_empty(), "{folder} is empty");
        for module in
            found.iter().filter(|module| !module.components().any(|part| part.as_os_str() == "hooks"))
        {
            let name = module.file_name().and_then(|name| name.to_str()).context("no name")?;
            ensure!(named.contains(name), "the tree of docs/architecture.md lacks {}", module.display());
        }
    }
    Ok(())
}
