//! The plot of growth: a curve for each contender over the number of what grows, which is drawn logarithmically.

use super::{Report, speed::Speed};
use crate::bench::{
    Variant,
    plot::{COLOURS, begin, line, rect, text},
    statistics::short,
};

const PANEL: (f64, f64) = (480.0, 230.0);
const COLUMNS: usize = 2;
const TOP: f64 = 70.0;
/// Room in a panel for its title above, the numbers of what grows below, and the values left of the curves.
const MARGIN: (f64, f64, f64) = (34.0, 34.0, 60.0);
const DOT: f64 = 5.0;

/// Some contenders' values over what grows.
struct Panel {
    title: &'static str,
    curves: Vec<(Variant, Vec<(f64, f64)>)>,
}

impl Report {
    /// Of what was measured; dots are medians.
    pub fn svg(&self) -> String {
        let panels = self.panels();
        let rows = panels.len().div_ceil(COLUMNS);
        let (width, height) = (PANEL.0 * COLUMNS as f64, TOP + PANEL.1 * rows as f64);
        let mut out = begin((width, height));
        text(&mut out, (16.0, 24.0), "start", 16, "Growth");
        text(&mut out, (16.0, 44.0), "start", 11, &self.machine.describe());
        let shown = COLOURS.iter().filter(|(variant, _)| {
            panels.iter().any(|panel| panel.curves.iter().any(|(it, _)| it == variant))
        });
        for (index, (variant, colour)) in shown.enumerate() {
            let x = width - 270.0 + 90.0 * index as f64;
            rect(&mut out, (x, 14.0), (12.0, 12.0), colour);
            text(&mut out, (x + 17.0, 24.0), "start", 12, variant.name());
        }
        for (index, panel) in panels.iter().enumerate() {
            let corner = (PANEL.0 * (index % COLUMNS) as f64, TOP + PANEL.1 * (index / COLUMNS) as f64);
            panel.draw(&mut out, corner);
        }
        out.push_str("</svg>\n");
        out
    }

    fn panels(&self) -> Vec<Panel> {
        let published = |value: fn(&Speed) -> f64| {
            let of = |variant| {
                let rows = self.published.iter().filter(move |row| row.variant == variant);
                rows.map(|row| (f64::from(row.ports), value(&row.speed))).collect()
            };
            [Variant::Kernel, Variant::Nftables, Variant::Weft].map(|variant| (variant, of(variant))).to_vec()
        };
        let weft = |points: Vec<(f64, f64)>| vec![(Variant::Weft, points)];
        let remotes = |value: fn(&Speed) -> f64| {
            weft(self.remotes.iter().map(|row| (row.remotes as f64, value(&row.speed))).collect())
        };
        let flows = |value: fn(&super::flows::Figures) -> f64| {
            weft(self.flows.iter().map(|row| (f64::from(row.flows), value(row))).collect())
        };
        let answers =
            |row: &super::containers::Figures| (row.containers as f64, row.by_apply.answers_ms.median);
        let panels = [
            ("connections, 1/s, by published ports", published(|speed| speed.connection_rate.median)),
            ("TCP round trip, µs, by published ports", published(|speed| speed.round_trip_us.median)),
            ("connections, 1/s, by remote containers", remotes(|speed| speed.connection_rate.median)),
            ("TCP round trip, µs, by remote containers", remotes(|speed| speed.round_trip_us.median)),
            ("from_container for a packet, ns, by flows, to all in turn", flows(|row| row.established_ns)),
            ("from_container for a packet, ns, by flows, to a thousand", flows(|row| row.busy_ns)),
            (
                "one more container answers, ms, by containers",
                weft(self.containers.iter().map(answers).collect()),
            ),
        ];
        panels
            .into_iter()
            .filter(|(_, curves)| curves.iter().any(|(_, points)| !points.is_empty()))
            .map(|(title, curves)| Panel { title, curves })
            .collect()
    }
}

impl Panel {
    fn draw(&self, out: &mut String, (left, top): (f64, f64)) {
        text(out, (left + 16.0, top + 18.0), "start", 13, self.title);
        let points = || self.curves.iter().flat_map(|(_, points)| points.iter().copied());
        let highest = points().map(|(_, value)| value).fold(0.0, f64::max) * 1.1;
        let most = points().map(|(number, _)| number).fold(10.0, f64::max).log10();
        let (bottom, height) = (top + PANEL.1 - MARGIN.1, PANEL.1 - MARGIN.0 - MARGIN.1);
        let (start, end) = (left + MARGIN.2, left + PANEL.0 - 40.0);
        let place = |(number, value): (f64, f64)| {
            let x = start + (end - start) * number.max(1.0).log10() / most;
            (x, bottom - height * value / highest.max(f64::MIN_POSITIVE))
        };
        line(out, (start, bottom), (end, bottom), "#333333");
        let mut numbers = points().map(|(number, _)| number).collect::<Vec<_>>();
        numbers.sort_by(f64::total_cmp);
        numbers.dedup();
        for number in numbers {
            text(out, (place((number, 0.0)).0, bottom + 16.0), "middle", 11, &number.to_string());
        }
        for (variant, points) in &self.curves {
            let colour = COLOURS.iter().find(|(it, _)| it == variant).map_or("#000000", |(_, colour)| colour);
            for pair in points.windows(2) {
                line(out, place(pair[0]), place(pair[1]), colour);
            }
            for &point in points {
                let (x, y) = place(point);
                rect(out, (x - DOT / 2.0, y - DOT / 2.0), (DOT, DOT), colour);
                text(out, (x, y - 6.0), "middle", 10, &short(point.1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_higher_and_further_right() {
        let panel = Panel { title: "a", curves: vec![(Variant::Weft, vec![(1.0, 5.0), (100.0, 10.0)])] };
        let mut out = String::new();
        panel.draw(&mut out, (0.0, 0.0));
        let rects = out.lines().filter(|line| line.starts_with("<rect")).collect::<Vec<_>>();
        let number = |text: &str, name: &str| {
            let after = text.split(&format!(" {name}=\"")).nth(1)?;
            after.split('"').next()?.parse::<f64>().ok()
        };
        let [few, many] = rects[..] else { panic!("two dots: {out}") };
        assert!(number(few, "x") < number(many, "x"), "{out}");
        assert!(number(few, "y") > number(many, "y"), "SVG counts from the top: {out}");
    }
}
