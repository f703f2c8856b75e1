//! What a run found: data, and a table for people.

use anyhow::Result;
use comfy_table::{Table, presets::ASCII_MARKDOWN};
use serde::Serialize;

use super::{
    Path, Plan, Variant,
    machine::Machine,
    measure::{Effort, Kind, Measure, Sample},
    statistics::{Spread, short},
};

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// How often each measurement was made.
    pub rounds: u32,
    /// How long each was.
    pub effort: Effort,
    /// By path, measure and variant.
    pub summary: Vec<Row>,
    /// Measurements without a figure.
    pub failures: Vec<Failure>,
    /// Every figure of every round.
    pub samples: Vec<Sample>,
}

/// What all rounds together say.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The path.
    pub path: Path,
    /// The figure's kind.
    pub measure: Measure,
    /// Its unit.
    pub unit: &'static str,
    /// The variant.
    pub variant: Variant,
    /// Of the figures.
    pub value: Spread,
    /// Of each round's figure against the cable's of the same round; absent when the cable was not measured.
    pub ratio: Option<Spread>,
    /// The same against the redirection of the same round.
    pub ratio_to_redirect: Option<Spread>,
}

/// A measurement that failed.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// From 1.
    pub round: u32,
    /// The path.
    pub path: Path,
    /// The variant.
    pub variant: Variant,
    /// What was being measured.
    pub kind: Kind,
    /// Why there is no figure.
    pub reason: String,
}

impl Report {
    /// Of these samples.
    pub fn new(machine: Machine, plan: &Plan, samples: Vec<Sample>, failures: Vec<Failure>) -> Self {
        let mut summary = Vec::new();
        for &path in &plan.paths {
            for measure in Measure::ALL {
                for &variant in &plan.variants {
                    let of = |variant| {
                        samples
                            .iter()
                            .filter(move |it| (it.path, it.measure, it.variant) == (path, measure, variant))
                    };
                    let against = |base| {
                        let base = |round| of(base).find(|it| it.round == round);
                        let ratios = of(variant).filter_map(|it| Some(it.value / base(it.round)?.value));
                        Spread::of(ratios.collect())
                    };
                    let (ratio, ratio_to_redirect) = (against(Variant::Cable), against(Variant::Redirect));
                    if let Some(value) = Spread::of(of(variant).map(|it| it.value).collect()) {
                        summary.push(Row {
                            path,
                            measure,
                            unit: measure.unit(),
                            variant,
                            value,
                            ratio,
                            ratio_to_redirect,
                        });
                    }
                }
            }
        }
        Self { machine, rounds: plan.rounds, effort: plan.effort, summary, failures, samples }
    }

    /// The row of these.
    pub fn row(&self, path: Path, measure: Measure, variant: Variant) -> Option<&Row> {
        self.summary.iter().find(|row| (row.path, row.measure, row.variant) == (path, measure, variant))
    }

    /// The paths that have figures.
    pub fn paths(&self) -> Vec<Path> {
        Path::ALL.into_iter().filter(|path| self.summary.iter().any(|row| row.path == *path)).collect()
    }

    /// As a Markdown table: medians, with the ratio to the cable and its smallest and largest round.
    pub fn markdown(&self) -> String {
        let mut table = Table::new();
        let ratio_of = |variant: &Variant| match variant {
            Variant::Cable => "cable".to_owned(),
            other => format!("{} (ratio to the cable)", other.name()),
        };
        let heads = ["path", "measure"].map(str::to_owned).into_iter();
        table.load_preset(ASCII_MARKDOWN).set_header(heads.chain(Variant::ALL.iter().map(ratio_of)));
        for path in self.paths() {
            for measure in Measure::ALL {
                let cell = |variant| {
                    let row = self.row(path, measure, variant);
                    row.map_or("–".to_owned(), |row| cell(variant, &row.value, row.ratio.as_ref()))
                };
                let name = format!("{}, {}", measure.name(), measure.unit());
                if Variant::ALL.iter().any(|variant| self.row(path, measure, *variant).is_some()) {
                    let heads = [path.name().to_owned(), name].into_iter();
                    table.add_row(heads.chain(Variant::ALL.map(cell)));
                }
            }
        }
        let bar = self.row(Path::Overlay, Measure::TcpRoundTripP50, Variant::Weft);
        let bar = bar.and_then(|row| row.ratio_to_redirect).map_or(String::new(), |ratio| {
            format!(
                "\n\nOverlay, TCP round trip p50: weft takes {:.2} ({:.2}–{:.2}) of the time of the same frames redirected \
                 without encapsulation.",
                ratio.median, ratio.min, ratio.max
            )
        });
        format!(
            "{}\n\nMedian of {} rounds; in brackets the median ratio to the cable of the same round, with the \
             smallest and largest. For times less is better, for throughput and connections more.\n\n{table}{bar}",
            self.machine.describe(),
            self.rounds
        )
    }

    /// As JSON for the record.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

/// A figure in a table, with its ratio to the cable if it is not the cable's own.
pub fn cell(variant: Variant, value: &Spread, ratio: Option<&Spread>) -> String {
    let median = short(value.median);
    match ratio {
        Some(ratio) if variant != Variant::Cable => {
            format!("{median} ({:.2}, {:.2}–{:.2})", ratio.median, ratio.min, ratio.max)
        }
        _ => format!("{median} ({}–{})", short(value.min), short(value.max)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::measure::Effort;

    #[test]
    fn ratios_are_those_of_the_same_round() -> Result<()> {
        let sample = |round, variant, value| Sample {
            round,
            path: Path::Bridge,
            variant,
            measure: Measure::TcpRoundTripP50,
            value,
        };
        // The machine was twice as slow in round 2.
        let samples = vec![
            sample(1, Variant::Cable, 10.0),
            sample(1, Variant::Weft, 11.0),
            sample(2, Variant::Cable, 20.0),
            sample(2, Variant::Weft, 22.0),
            sample(3, Variant::Weft, 100.0),
        ];
        let plan = Plan {
            paths: vec![Path::Bridge],
            variants: Variant::ALL.to_vec(),
            kinds: Kind::ALL.to_vec(),
            rounds: 3,
            effort: Effort::QUICK,
        };
        let report = Report::new(Machine::now()?, &plan, samples, Vec::new());
        let weft = report.row(Path::Bridge, Measure::TcpRoundTripP50, Variant::Weft);
        let ratio = weft.and_then(|row| row.ratio);
        assert_eq!(ratio, Some(Spread { median: 1.1, min: 1.1, max: 1.1, count: 2 }));
        assert!(report.row(Path::Bridge, Measure::TcpRoundTripP50, Variant::Kernel).is_none());
        assert!(report.markdown().contains("| bridge | TCP round trip p50, µs"), "{}", report.markdown());
        Ok(())
    }
}
