//! The plot of a run: for each measure the ratios to the cable, drawn as SVG.

use std::fmt::Write;

use super::{Path, Variant, measure::Measure, report::Report};

const PANEL: (f64, f64) = (640.0, 230.0);
const COLUMNS: usize = 2;
const TOP: f64 = 70.0;
/// Room in a panel for its title above, the names of the paths below, and the numbers left of the bars.
const MARGIN: (f64, f64, f64) = (34.0, 34.0, 44.0);
const BAR: f64 = 26.0;
/// Told apart by lightness, too.
pub(super) const COLOURS: [(Variant, &str); 4] = [
    (Variant::Kernel, "#9aa5b1"),
    (Variant::Nftables, "#5b6770"),
    (Variant::Redirect, "#d9a441"),
    (Variant::Weft, "#1f6f8b"),
];

/// Bars are medians, lines reach from the smallest to the largest round.
pub fn svg(report: &Report) -> String {
    let measures =
        Measure::ALL.into_iter().filter(|measure| report.summary.iter().any(|row| row.measure == *measure));
    let measures = measures.collect::<Vec<_>>();
    let rows = measures.len().div_ceil(COLUMNS);
    let (width, height) = (PANEL.0 * COLUMNS as f64, TOP + PANEL.1 * rows as f64);
    let mut out = begin((width, height));
    text(&mut out, (16.0, 24.0), "start", 16, "Ratio to the cable (1.0 = one veth pair, nothing in between)");
    text(&mut out, (16.0, 44.0), "start", 11, &report.machine.describe());
    for (index, (variant, colour)) in COLOURS.iter().enumerate() {
        let x = width - 90.0 * (COLOURS.len() - index) as f64;
        rect(&mut out, (x, 14.0), (12.0, 12.0), colour);
        text(&mut out, (x + 17.0, 24.0), "start", 12, variant.name());
    }
    for (index, measure) in measures.into_iter().enumerate() {
        let corner = (PANEL.0 * (index % COLUMNS) as f64, TOP + PANEL.1 * (index / COLUMNS) as f64);
        panel(&mut out, report, measure, corner);
    }
    out.push_str("</svg>\n");
    out
}

fn panel(out: &mut String, report: &Report, measure: Measure, (left, top): (f64, f64)) {
    let direction = if measure.more_is_better() { "more is better" } else { "less is better" };
    text(out, (left + 16.0, top + 18.0), "start", 13, &format!("{} ({direction})", measure.name()));
    let paths = report.paths();
    let ratio = |path: Path, variant: Variant| report.row(path, measure, variant).and_then(|row| row.ratio);
    let ratios = || paths.iter().flat_map(|path| COLOURS.iter().filter_map(|(it, _)| ratio(*path, *it)));
    let highest = ratios().map(|ratio| ratio.max).fold(1.0, f64::max) * 1.1;
    let (bottom, height) = (top + PANEL.1 - MARGIN.1, PANEL.1 - MARGIN.0 - MARGIN.1);
    let y = |ratio: f64| bottom - height * ratio / highest;
    let (start, end) = (left + MARGIN.2, left + PANEL.0 - 16.0);
    line(out, (start, bottom), (end, bottom), "#333333");
    line(out, (start, y(1.0)), (end, y(1.0)), "#c0392b");
    text(out, (start - 6.0, y(1.0) + 4.0), "end", 11, "1.0");
    let step = (end - start) / paths.len().max(1) as f64;
    for (index, path) in paths.iter().enumerate() {
        let middle = start + step * (index as f64 + 0.5);
        text(out, (middle, bottom + 16.0), "middle", 11, path.name());
        let bars = COLOURS.iter().filter_map(|(variant, colour)| Some((colour, ratio(*path, *variant)?)));
        let bars = bars.collect::<Vec<_>>();
        for (index, (colour, ratio)) in bars.iter().enumerate() {
            let x = middle + (BAR + 3.0) * (index as f64 - bars.len() as f64 / 2.0) + 1.5;
            rect(out, (x, y(ratio.median)), (BAR, bottom - y(ratio.median)), colour);
            line(out, (x + BAR / 2.0, y(ratio.min)), (x + BAR / 2.0, y(ratio.max)), "#000000");
            text(out, (x + BAR / 2.0, y(ratio.max) - 4.0), "middle", 10, &format!("{:.2}", ratio.median));
        }
    }
}

/// The beginning of a drawing of this size, on white.
pub(super) fn begin((width, height): (f64, f64)) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    )
}

// Writing to a String cannot fail.

pub(super) fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, size: u32, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{words}</text>"
    );
}

pub(super) fn rect(out: &mut String, (x, y): (f64, f64), (width, height): (f64, f64), colour: &str) {
    let _ = writeln!(
        out,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
    );
}

pub(super) fn line(out: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str) {
    let _ = writeln!(
        out,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
    );
}
