//! The chart: CPU time per request of each peer, per scenario.

use std::fmt::Write;

use crate::{
    peer::Kind,
    scenario::{Samples, Scenario},
    stats::{Spread, spread},
};

const PANEL: (f64, f64) = (470.0, 236.0);
const LABELS: f64 = 138.0;
const BARS: f64 = 250.0;
const ROW: f64 = 23.0;

/// Draws all scenarios as an SVG. The line on a bar spans the lowest to the highest round.
pub(crate) fn draw(samples: &Samples) -> String {
    let (width, height) = (2.0 * PANEL.0, 3.0 * PANEL.1 + 44.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"600\" fill=\"#1f2937\">\
         CPU time per request, µs (lower is better)</text>\n"
    );
    for (index, scenario) in Scenario::ALL.into_iter().enumerate() {
        let x = (index % 2) as f64 * PANEL.0 + 16.0;
        let y = (index / 2) as f64 * PANEL.1 + 52.0;
        panel(&mut svg, samples, scenario, (x, y)).expect("writing to a string cannot fail");
    }
    svg + "</svg>\n"
}

fn panel(
    svg: &mut String,
    samples: &Samples,
    scenario: Scenario,
    (x, y): (f64, f64),
) -> std::fmt::Result {
    let costs: Vec<(Kind, Spread)> = Kind::ALL
        .into_iter()
        .filter_map(|kind| {
            let samples = samples.get(&(scenario, kind))?;
            Some((kind, spread(samples.iter().map(|sample| sample.cost))?))
        })
        .collect();
    let most = costs.iter().map(|(_, cost)| cost.greatest).fold(1.0, f64::max);
    writeln!(
        svg,
        "<text x=\"{x}\" y=\"{y}\" font-weight=\"600\" fill=\"#1f2937\">{}</text>",
        scenario.title()
    )?;
    for (row, (kind, cost)) in costs.into_iter().enumerate() {
        let top = y + 10.0 + row as f64 * ROW;
        let middle = top + ROW / 2.0;
        let length = |value: f64| value / most * BARS;
        let bar = x + LABELS;
        let colour = match kind {
            Kind::Sealgate => "#0f766e",
            Kind::Bare | Kind::BareHash | Kind::Nginx | Kind::Haproxy => "#cbd5e1",
            Kind::NginxLua | Kind::HaproxySmall | Kind::HaproxyLarge => "#d97706",
        };
        writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#374151\">{}</text>\
             <rect x=\"{bar}\" y=\"{}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/>\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"#6b7280\"/>\
             <text x=\"{:.1}\" y=\"{}\" fill=\"#1f2937\">{:.0}</text>",
            bar - 8.0,
            middle + 4.0,
            kind.word(),
            top + 3.0,
            length(cost.median),
            ROW - 6.0,
            bar + length(cost.least),
            bar + length(cost.greatest),
            bar + length(cost.greatest) + 6.0,
            middle + 4.0,
            cost.median,
        )?;
    }
    Ok(())
}
