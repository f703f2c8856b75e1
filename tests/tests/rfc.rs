//! docs/rfc.md has every requirement, and names the tests that are there.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, ensure};

fn read(path: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The tests of a suite, as `suite::name`.
fn tests_of(suite: &str) -> Result<Vec<String>> {
    let text = read(&format!("tests/{suite}.rs"))?;
    let mut parts = text.split("#[test]\n");
    parts.next();
    let name = |part: &str| Some(format!("{suite}::{}", part.strip_prefix("fn ")?.split('(').next()?));
    parts.map(|part| name(part).with_context(|| format!("what is a test of {suite}: {part:.80}"))).collect()
}

/// The rows of the tables of requirements.
fn rows(text: &str) -> impl Iterator<Item = &str> {
    let tables = text.split("\n## ").skip(1);
    tables.flat_map(|section| {
        section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Requirement"))
    })
}

#[test]
fn no_requirement_is_left_out() -> Result<()> {
    let text = read("../docs/rfc.md")?;
    let letters = |number: u32, letters: &str| -> Vec<String> {
        letters.chars().map(|letter| format!("REQ-{number}{letter}")).collect()
    };
    let with_letters = [
        (
            "RFC 4787",
            14,
            [(3, "a"), (5, "abc"), (6, "a"), (8, "a"), (9, "a"), (10, "a"), (12, "ab"), (13, "a"), (14, "a")]
                .as_slice(),
        ),
        ("RFC 5382", 10, &[(2, "a"), (3, "ab"), (4, "a"), (5, "a"), (6, "a"), (8, "a")]),
        ("RFC 5508", 11, &[(1, "a"), (2, "a"), (3, "abcd"), (7, "a"), (10, "abcdef")]),
    ];
    for (rfc, last, parts) in with_letters {
        let section = text.split("\n## ").find(|section| section.starts_with(rfc)).context(rfc)?;
        let has = |requirement: &str| section.contains(&format!("\n| {requirement} |"));
        for number in 1..=last {
            // The tenth of RFC 5508 has parts only.
            let whole = format!("REQ-{number}");
            ensure!(has(&whole) || has(&format!("{whole}a")), "{rfc} {whole} is left out");
        }
        for part in parts.iter().flat_map(|(number, parts)| letters(*number, parts)) {
            ensure!(has(&part), "{rfc} {part} is left out");
        }
    }
    Ok(())
}

#[test]
fn the_document_names_the_tests() -> Result<()> {
    let text = read("../docs/rfc.md")?;
    let mut named = BTreeSet::new();
    for row in rows(&text) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [_, _, status, evidence] = cells[..] else { anyhow::bail!("a row of four cells: {row}") };
        let tests: Vec<&str> =
            evidence.split('`').skip(1).step_by(2).filter(|word| word.contains("::")).collect();
        let known = ["met", "met by option", "not applicable", "not met"];
        ensure!(known.contains(&status), "the status {status}: {row}");
        ensure!(!status.starts_with("met") || !tests.is_empty(), "no test: {row}");
        named.extend(tests.into_iter().map(str::to_owned));
    }
    ensure!(named.len() > 40, "only {} tests are named", named.len());
    let suites: BTreeSet<&str> = named.iter().filter_map(|name| name.split("::").next()).collect();
    let mut there = BTreeSet::new();
    for suite in &suites {
        there.extend(tests_of(suite)?);
    }
    let missing: Vec<_> = named.difference(&there).collect();
    ensure!(missing.is_empty(), "docs/rfc.md names tests that are not there: {missing:?}");
    let all = ["rfc4787", "rfc5382", "rfc5508", "rfc7348", "external_ports"];
    for suite in all {
        let unnamed: Vec<_> = tests_of(suite)?.into_iter().filter(|name| !named.contains(name)).collect();
        ensure!(unnamed.is_empty(), "docs/rfc.md does not name {unnamed:?}");
    }
    Ok(())
}
