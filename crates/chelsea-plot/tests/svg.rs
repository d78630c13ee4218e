//! What every chart holds: well-formed SVG, every name, and refusals of what cannot be drawn.

#![allow(clippy::unwrap_used)]

use chelsea_plot::{
    Axis, BarChart, BarSeries, Drawing, HeatMap, Ink, Layout, Level, LineChart, Look, PlotError, Point, Series, Side,
    Unit,
};

/// Texts of a document that an XML parser accepts.
fn texts(svg: &str) -> Vec<String> {
    let document = roxmltree::Document::parse(svg).expect("well-formed XML");
    assert_eq!(document.root_element().tag_name().name(), "svg");
    let texts = document.descendants().filter(|n| n.tag_name().name() == "text");
    texts.filter_map(|n| n.text()).map(|t| t.trim().to_owned()).collect()
}

/// Every coordinate of every shape lies on the sheet.
fn assert_on_the_sheet(svg: &str) {
    let document = roxmltree::Document::parse(svg).unwrap();
    let size = |name| document.root_element().attribute(name).unwrap().parse::<f64>().unwrap();
    let (width, height) = (size("width"), size("height"));
    for node in document.descendants() {
        for (name, limit) in [("x", width), ("cx", width), ("y", height), ("cy", height)] {
            let Some(v) = node.attribute(name) else { continue };
            let v: f64 = v.parse().unwrap();
            assert!((0.0..=limit).contains(&v), "{name}={v} of {node:?}");
        }
        for pair in node.attribute("points").unwrap_or_default().split_whitespace() {
            let (x, y) = pair.split_once(',').unwrap();
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!((0.0..=width).contains(&x) && (0.0..=height).contains(&y), "{pair} of {node:?}");
        }
    }
}

fn lines(series: Vec<Series>, y: Axis) -> LineChart {
    LineChart {
        title: "Decode <time> & \"more\"".into(),
        note: "a note\u{7} with a bell".into(),
        x: Axis::log("depth", Unit::Tokens),
        y,
        series,
        levels: Vec::new(),
    }
}

fn curve(name: &str, factor: f64) -> Series {
    let points = (0..9).map(|i| {
        let y = factor * f64::from(i + 1);
        Point::between(512.0 * f64::from(1 << i), y, 0.9 * y, 1.2 * y)
    });
    Series { name: name.into(), points: points.collect(), look: Look::Colour(0) }
}

fn bars(layout: Layout) -> BarChart {
    BarChart {
        title: "Split".into(),
        note: String::new(),
        y: Axis::linear("ms", Unit::Number),
        groups: vec!["decode at 0".into(), "decode at a depth of 32,768 tokens".into()],
        series: vec![
            BarSeries { name: "products".into(), values: vec![Some(3.0), Some(3.5)] },
            BarSeries { name: "attention".into(), values: vec![Some(0.5), None] },
        ],
        layout,
    }
}

fn heat(rows: usize, columns: usize) -> HeatMap {
    HeatMap {
        title: "Recall".into(),
        note: "by place".into(),
        x_label: "depth".into(),
        y_label: "place".into(),
        columns: (0..columns).map(|i| format!("c{i}")).collect(),
        rows: (0..rows).map(|i| format!("r{i}")).collect(),
        values: (0..rows).map(|r| (0..columns).map(|c| (r != c).then_some(0.1 * (r + c) as f64)).collect()).collect(),
        colour: Axis::linear("found", Unit::Percent).between(0.0, 1.0),
    }
}

#[test]
fn line_charts_are_well_formed_and_name_every_series() {
    for y in [Axis::linear("ms", Unit::Number), Axis::log("bytes", Unit::Bytes)] {
        let names: Vec<String> = (0..9).map(|i| format!("keep <{i}> & a rather long name")).collect();
        let chart = lines(names.iter().map(|n| curve(n, 2.0)).collect(), y);
        let svg = chart.to_svg().unwrap();
        let texts = texts(&svg);
        for wanted in names.iter().chain([&chart.title, &chart.x.label, &chart.y.label]) {
            assert!(texts.contains(wanted), "{wanted} is not in {texts:?}");
        }
        assert_on_the_sheet(&svg);
    }
}

#[test]
fn points_outside_a_given_range_stay_on_the_sheet() {
    let chart = lines(vec![curve("a", 100.0)], Axis::linear("ms", Unit::Number).between(0.0, 5.0));
    assert_on_the_sheet(&chart.to_svg().unwrap());
}

#[test]
fn names_at_the_ends_of_lines_do_not_cover_each_other() {
    let mut series: Vec<Series> = (0..16).map(|i| curve(&format!("policy {i}"), 2.0 + 0.01 * f64::from(i))).collect();
    series.iter_mut().skip(4).for_each(|s| s.look = Look::Grey);
    let mut chart = lines(series, Axis::linear("ms", Unit::Number));
    chart.levels = vec![Level { name: "full".into(), y: 18.0 }];
    let svg = chart.to_svg().unwrap();
    assert_on_the_sheet(&svg);
    let document = roxmltree::Document::parse(&svg).unwrap();
    let is_name = |text: &str| text.starts_with("policy") || text == "full";
    let mut names: Vec<(f64, f64)> = document
        .descendants()
        .filter(|n| n.tag_name().name() == "text" && n.text().is_some_and(is_name))
        .map(|n| ["y", "font-size"].map(|a| n.attribute(a).unwrap().parse().unwrap()).into())
        .collect();
    assert_eq!(names.len(), 17);
    names.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert!(names.windows(2).all(|w| w[1].0 - w[0].0 >= 0.9 * w[0].1), "{names:?}");
}

#[test]
fn a_drawing_follows_a_reader_who_prefers_dark_pages() {
    for svg in [heat(3, 3).to_svg(), bars(Layout::Grouped).to_svg()] {
        assert!(svg.unwrap().contains("<style>@media (prefers-color-scheme: dark){"));
    }
}

#[test]
fn a_single_point_is_drawn() {
    let one = Series { name: "one".into(), points: vec![Point::between(512.0, 3.0, 2.0, 4.0)], look: Look::Colour(0) };
    let svg = lines(vec![one], Axis::linear("ms", Unit::Number)).to_svg().unwrap();
    assert!(texts(&svg).contains(&"one".into()));
    assert!(svg.contains("<circle"));
    assert_on_the_sheet(&svg);
}

#[test]
fn bar_charts_are_well_formed_and_name_every_series() {
    for layout in [Layout::Grouped, Layout::Stacked] {
        let svg = bars(layout).to_svg().unwrap();
        let texts = texts(&svg);
        assert!(["products", "attention", "decode at 0"].iter().all(|n| texts.contains(&(*n).into())), "{texts:?}");
        assert_on_the_sheet(&svg);
    }
}

#[test]
fn stacked_bars_stand_on_each_other() {
    let chart = BarChart { groups: vec!["g".into()], ..bars(Layout::Stacked) };
    let values = |v| vec![Some(v)];
    let series =
        vec![BarSeries { name: "a".into(), values: values(1.0) }, BarSeries { name: "b".into(), values: values(2.0) }];
    let svg = BarChart { series, ..chart }.to_svg().unwrap();
    let document = roxmltree::Document::parse(&svg).unwrap();
    // The last two boxes are the bars: sheet and legend are drawn before.
    let boxes: Vec<(i64, i64)> = document
        .descendants()
        .filter(|n| n.tag_name().name() == "rect")
        .map(|n| (n.attribute("y").unwrap().parse().unwrap(), n.attribute("height").unwrap().parse().unwrap()))
        .collect();
    let [.., a, b] = boxes[..] else { panic!("{boxes:?}") };
    assert_eq!(b.0 + b.1, a.0, "the second stands on the first");
    assert!((b.1 - 2 * a.1).abs() <= 2, "and is twice as high: {a:?} {b:?}");
}

#[test]
fn heat_maps_are_well_formed_and_name_every_row_and_column() {
    for (rows, columns) in [(1, 1), (5, 8), (3, 24)] {
        let map = heat(rows, columns);
        let svg = map.to_svg();
        if rows == 1 && columns == 1 {
            assert!(matches!(svg, Err(PlotError::Empty { .. })), "its one cell is missing");
            continue;
        }
        let svg = svg.unwrap();
        let texts = texts(&svg);
        assert!(map.rows.iter().chain(&map.columns).all(|n| texts.contains(n)), "{texts:?}");
        assert_on_the_sheet(&svg);
    }
}

#[test]
fn long_names_of_columns_are_turned_and_stay_on_the_sheet() {
    let mut map = heat(4, 12);
    assert!(!turned(&map.to_svg().unwrap(), "c3"));
    map.columns = (0..12).map(|i| format!("expected-attention {i}%")).collect();
    let svg = map.to_svg().unwrap();
    assert_on_the_sheet(&svg);
    assert!(turned(&svg, "expected-attention 3%"));
}

fn turned(svg: &str, text: &str) -> bool {
    svg.lines().any(|line| line.contains("rotate(270") && line.ends_with(&format!(">{text}</text>")))
}

#[test]
fn the_same_values_give_the_same_bytes() {
    assert_eq!(heat(4, 4).to_svg().unwrap(), heat(4, 4).to_svg().unwrap());
}

#[test]
fn what_cannot_be_drawn_is_refused() {
    let linear = || Axis::linear("ms", Unit::Number);
    assert!(matches!(lines(vec![], linear()).to_svg(), Err(PlotError::Empty { .. })));
    let mut levels = lines(vec![curve("a", 1.0)], linear());
    levels.levels = vec![Level { name: "bad".into(), y: f64::INFINITY }];
    assert!(matches!(levels.to_svg(), Err(PlotError::NotFinite { .. })));
    let at = |y| Series { name: "bad".into(), points: vec![Point::new(1.0, y)], look: Look::Grey };
    assert!(matches!(lines(vec![at(f64::NAN)], linear()).to_svg(), Err(PlotError::NotFinite { .. })));
    let log = Axis::log("ms", Unit::Number);
    let refused = lines(vec![at(0.0)], log).to_svg().unwrap_err();
    assert!(refused.to_string().contains("\"bad\" holds the value 0"), "{refused}");
    let mut short = bars(Layout::Grouped);
    short.series[1].values.pop();
    assert!(matches!(short.to_svg(), Err(PlotError::Length { found: 1, expected: 2, .. })));
    let mut negative = bars(Layout::Stacked);
    negative.series[0].values[0] = Some(-1.0);
    assert!(matches!(negative.to_svg(), Err(PlotError::NotFinite { .. })));
    let mut ragged = heat(3, 3);
    ragged.values[2].pop();
    assert!(matches!(ragged.to_svg(), Err(PlotError::Length { found: 2, expected: 3, .. })));
}

#[test]
fn a_drawing_holds_its_words_and_is_refused_without_shapes() {
    let mut drawing = Drawing::new("Matching", "a note", 200);
    assert!(matches!(drawing.to_svg(), Err(PlotError::Empty { .. })));
    drawing.line(&[(10, 100), (200, 150)], Ink::Pale, 2);
    drawing.dot((10, 100), 6, Ink::Series(0));
    drawing.bar((20, 90), (40, 110), Ink::Series(1));
    drawing.text((200, 150), "n = 2", 12.0, Ink::Text, Side::Middle);
    let svg = drawing.to_svg().unwrap();
    assert_on_the_sheet(&svg);
    assert_eq!(texts(&svg), ["Matching", "a note", "n = 2"]);
    assert_eq!(drawing.to_svg().unwrap(), svg);
}
