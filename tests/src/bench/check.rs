//! Whether a run is worse than the recorded one. Only ratios to the cable are compared, for the machine is another one or has other
//! work; and only what is beyond the spread of both runs is called worse.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{Path, Variant, measure::Measure, report::Report, statistics::Spread};

/// What a figure may be worse than the worst recorded round.
const TOLERANCE: f64 = 0.05;
/// Rounds from which on figures are compared that tell of all that the machine does.
const ROUNDS: usize = 3;

/// A recorded run, as far as it is compared.
#[derive(Debug, Clone, Deserialize)]
pub struct Recorded {
    summary: Vec<RecordedRow>,
}

#[derive(Debug, Clone, Deserialize)]
struct RecordedRow {
    path: Path,
    measure: Measure,
    variant: Variant,
    ratio: Option<Spread>,
}

/// A figure that is worse.
#[derive(Debug, Clone, PartialEq)]
pub struct Regression {
    path: Path,
    measure: Measure,
    recorded: Spread,
    now: Spread,
}

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// How many figures of weft are in both runs.
    pub compared: usize,
    /// Those of them that are worse.
    pub regressions: Vec<Regression>,
}

impl Recorded {
    /// From the JSON of a report.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).context("these are no recorded results of `cargo xtask bench`")
    }
}

/// Compares weft's ratios.
pub fn compare(recorded: &Recorded, now: &Report) -> Outcome {
    let mut outcome = Outcome::default();
    for row in now.summary.iter().filter(|row| row.variant == Variant::Weft) {
        let same =
            |it: &&RecordedRow| (it.path, it.measure, it.variant) == (row.path, row.measure, row.variant);
        let before = recorded.summary.iter().find(same).and_then(|before| before.ratio);
        let (Some(recorded), Some(now)) = (before, row.ratio) else { continue };
        if row.measure.is_of_machine() && now.count < ROUNDS {
            continue;
        }
        outcome.compared += 1;
        if is_worse(row.measure, &recorded, &now) {
            outcome.regressions.push(Regression { path: row.path, measure: row.measure, recorded, now });
        }
    }
    outcome
}

/// Even the best round is worse than the worst recorded one.
fn is_worse(measure: Measure, recorded: &Spread, now: &Spread) -> bool {
    if measure.more_is_better() {
        now.max < recorded.min * (1.0 - TOLERANCE)
    } else {
        now.min > recorded.max * (1.0 + TOLERANCE)
    }
}

impl Regression {
    /// One line for people.
    pub fn describe(&self) -> String {
        let text = |it: &Spread| format!("{:.2} ({:.2}–{:.2})", it.median, it.min, it.max);
        format!(
            "{}, {}: the ratio to the cable is {}, recorded is {}",
            self.path.name(),
            self.measure.name(),
            text(&self.now),
            text(&self.recorded)
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bench::{
        Plan,
        machine::Machine,
        measure::{Effort, Kind, Sample},
    };

    #[test]
    fn only_what_is_beyond_the_spread_is_worse() {
        let spread = |min, max| Spread { median: f64::midpoint(min, max), min, max, count: 5 };
        let time = Measure::TcpRoundTripP50;
        assert!(!is_worse(time, &spread(1.0, 1.1), &spread(1.1, 1.3)), "they overlap");
        assert!(!is_worse(time, &spread(1.0, 1.1), &spread(1.12, 1.3)), "within the tolerance");
        assert!(is_worse(time, &spread(1.0, 1.1), &spread(1.2, 1.3)));
        assert!(!is_worse(time, &spread(1.2, 1.3), &spread(0.8, 0.9)), "better");
        let rate = Measure::ConnectionRate;
        assert!(is_worse(rate, &spread(0.9, 1.0), &spread(0.7, 0.8)));
        assert!(!is_worse(rate, &spread(0.7, 0.8), &spread(0.9, 1.0)));
    }

    #[test]
    fn figures_of_weft_that_are_in_both_runs_are_compared() -> Result<()> {
        let ratio = json!({ "median": 1.05, "min": 1.0, "max": 1.1, "count": 5 });
        let row = |variant, measure| json!({ "path": "bridge", "measure": measure, "variant": variant, "ratio": ratio });
        let (median, tail) = ("tcp_round_trip_p50", "tcp_round_trip_p99");
        let rows = [row("kernel", median), row("weft", median), row("weft", tail)];
        let recorded = Recorded::parse(&json!({ "summary": rows }).to_string())?;
        let plan = Plan {
            paths: vec![Path::Bridge, Path::Overlay],
            variants: Variant::ALL.to_vec(),
            kinds: Kind::ALL.to_vec(),
            rounds: 1,
            effort: Effort::QUICK,
        };
        let sample = |path, variant, value| Sample {
            round: 1,
            path,
            variant,
            measure: Measure::TcpRoundTripP50,
            value,
        };
        let tail = |round, variant, value| Sample {
            round,
            measure: Measure::TcpRoundTripP99,
            ..sample(Path::Bridge, variant, value)
        };
        let report = |value, rounds| {
            let mut samples = vec![
                sample(Path::Bridge, Variant::Cable, 10.0),
                sample(Path::Bridge, Variant::Kernel, 90.0),
                sample(Path::Bridge, Variant::Weft, value),
                sample(Path::Overlay, Variant::Cable, 10.0),
                sample(Path::Overlay, Variant::Weft, 90.0),
            ];
            samples.extend((1..=rounds).map(|round| tail(round, Variant::Cable, 10.0)));
            samples.extend((1..=rounds).map(|round| tail(round, Variant::Weft, 90.0)));
            Ok::<_, anyhow::Error>(Report::new(Machine::now()?, &plan, samples, Vec::new()))
        };
        assert_eq!(compare(&recorded, &report(10.8, 1)?), Outcome { compared: 1, regressions: Vec::new() });
        let worse = compare(&recorded, &report(13.0, 1)?);
        assert_eq!((worse.compared, worse.regressions.len()), (1, 1));
        let with_tail = compare(&recorded, &report(10.8, 3)?);
        assert_eq!(
            (with_tail.compared, with_tail.regressions.len()),
            (2, 1),
            "the tail is told by three rounds"
        );
        let told = worse.regressions[0].describe();
        assert!(told.starts_with("bridge, TCP round trip p50: the ratio to the cable is 1.30"), "{told}");
        assert!(Recorded::parse("{}").is_err());
        Ok(())
    }
}
