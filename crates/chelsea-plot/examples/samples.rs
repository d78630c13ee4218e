//! Writes one chart of each kind with made-up values, to look at after a change of the drawing:
//! `cargo run -p chelsea-plot --example samples FOLDER`.

use chelsea_plot::{Axis, BarChart, BarSeries, HeatMap, Layout, Level, LineChart, Look, Point, Series, Unit};
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("name a folder to write to")?);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("lines-log.svg"), lines(Axis::log("ms per token", Unit::Number)).to_svg()?)?;
    std::fs::write(folder.join("lines.svg"), lines(Axis::linear("ms per token", Unit::Number)).to_svg()?)?;
    std::fs::write(folder.join("grouped.svg"), bars(Layout::Grouped).to_svg()?)?;
    std::fs::write(folder.join("stacked.svg"), bars(Layout::Stacked).to_svg()?)?;
    std::fs::write(folder.join("heat.svg"), heat().to_svg()?)?;
    Ok(())
}

fn lines(y: Axis) -> LineChart {
    let series = [("full cache", 1.0), ("half kept", 0.5), ("a fifth kept", 0.2), ("8,192 entries", 0.0)]
        .iter()
        .enumerate()
        .map(|(i, &(name, keep))| Series {
            name: name.into(),
            look: if i == 1 { Look::Grey } else { Look::Colour(i) },
            points: (9..=17)
                .map(|e| {
                    let depth = f64::from(1 << e);
                    let entries = if keep > 0.0 { keep * depth } else { depth.min(8192.0) };
                    let ms = 11.0 + entries / 400.0;
                    Point::between(depth, ms, 0.93 * ms, 1.12 * ms)
                })
                .collect(),
        })
        .collect();
    LineChart {
        title: "Decode time against depth".into(),
        note: "Made-up values, 2 threads, medians of 5 trials, bands from the fastest to the slowest".into(),
        x: Axis::log("tokens in the cache", Unit::Tokens),
        y,
        series,
        levels: vec![Level { name: "a plain read".into(), y: 40.0 }],
    }
}

fn bars(layout: Layout) -> BarChart {
    let series = |name: &str, values: [f64; 4]| BarSeries { name: name.into(), values: values.map(Some).to_vec() };
    BarChart {
        title: "Where a decode step spends its time".into(),
        note: "Made-up values".into(),
        y: Axis::linear("ms per token", Unit::Number),
        groups: ["depth 0", "depth 2,048", "depth 8,000, full", "depth 8,000, a fifth kept"].map(String::from).to_vec(),
        series: vec![
            series("products", [9.1, 9.2, 9.15, 9.2]),
            series("attention", [0.2, 4.1, 16.0, 3.4]),
            series("clustering", [0.0, 0.0, 0.0, 0.6]),
            series("rest", [1.2, 1.2, 1.3, 1.2]),
        ],
        layout,
    }
}

fn heat() -> HeatMap {
    let depths = ["1K", "2K", "4K", "8K", "16K", "32K"];
    let places = ["0%", "25%", "50%", "75%", "100%"];
    HeatMap {
        title: "Answers found".into(),
        note: "Made-up values, a fifth kept".into(),
        x_label: "tokens of the document".into(),
        y_label: "place of the needle".into(),
        columns: depths.map(String::from).to_vec(),
        rows: places.map(String::from).to_vec(),
        values: (0..5)
            .map(|r| (0..6).map(|c| (r + c != 7).then_some(1.0 - f64::from(c * (4 - r)) / 22.0)).collect())
            .collect(),
        colour: Axis::linear("found", Unit::Percent).between(0.0, 1.0),
    }
}
