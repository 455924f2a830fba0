//! Charts as SVG, small enough to be part of a page.

use std::error::Error;
use std::path::Path;

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

/// What went wrong with a chart.
pub(crate) type Wrong = Box<dyn Error>;

/// What is written on a chart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Texts {
    pub(crate) title: &'static str,
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
}

/// A line and its name.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// The scale of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    Linear,
    Logarithmic,
}

/// Groups of bars: for each group, a bar for each name. A bar has a dark part up to its first value
/// and a light one up to its second; on a logarithmic scale, from `floor` on.
#[derive(Clone, Debug)]
pub(crate) struct Bars {
    pub(crate) names: Vec<&'static str>,
    pub(crate) groups: Vec<(&'static str, Vec<(f64, f64)>)>,
    pub(crate) floor: f64,
}

/// Draws bars.
pub(crate) fn draw_bars(file: &Path, texts: Texts, bars: &Bars) -> Result<(), Wrong> {
    let values = bars.groups.iter().flat_map(|(_, values)| values.iter().map(|value| value.1));
    let top = values.fold(bars.floor, f64::max) * 1.3;
    let legend = bars.names.iter().map(|name| (*name).to_owned());
    draw(file, texts, &legend.collect::<Vec<_>>(), |area| {
        let (x, y) = (0.0..bars.groups.len() as f64, (bars.floor..top).log_scale());
        let mut chart = context(area).build_cartesian_2d(x, y)?;
        let name = |at: &f64| bars.groups.get(*at as usize).map_or("", |group| group.0).to_owned();
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .x_labels(bars.groups.len() + 1)
            .x_label_formatter(&name)
            .x_label_offset(BAR_AREA.0 as i32 / bars.groups.len().max(1) as i32 / 2)
            .y_label_formatter(&number)
            .y_desc(texts.y)
            .label_style((FONT, SMALL))
            .draw()?;
        for (group, (_, values)) in bars.groups.iter().enumerate() {
            let width = 0.8 / values.len().max(1) as f64;
            for (i, (low, high)) in values.iter().enumerate() {
                let left = group as f64 + 0.1 + width * i as f64;
                let bar = |to: f64, style: ShapeStyle| {
                    Rectangle::new([(left, bars.floor), (left + width * 0.9, to)], style)
                };
                let light = bar(*high, colour(i).mix(0.35).filled());
                chart.draw_series([light, bar(*low, colour(i).filled())])?;
            }
        }
        Ok(())
    })
}

/// Draws lines. Values of zero are left out where a scale is logarithmic.
pub(crate) fn draw_lines(
    file: &Path,
    texts: Texts,
    lines: &[Line],
    (x_scale, y_scale): (Scale, Scale),
) -> Result<(), Wrong> {
    let all = || lines.iter().flat_map(|line| line.points.iter().copied());
    let x = limits(all().map(|point| point.0), x_scale, 1.0);
    let y = limits(all().map(|point| point.1), y_scale, 1.1);
    let legend: Vec<_> = lines.iter().map(|line| line.name.clone()).collect();
    draw(file, texts, &legend, |area| match (x_scale, y_scale) {
        (Scale::Linear, Scale::Linear) => plot(area, texts, lines, x, y),
        (Scale::Linear, Scale::Logarithmic) => plot(area, texts, lines, x, y.log_scale().base(2.0)),
        (Scale::Logarithmic, Scale::Linear) => plot(area, texts, lines, x.log_scale(), y),
        (Scale::Logarithmic, Scale::Logarithmic) => {
            plot(area, texts, lines, x.log_scale(), y.log_scale().base(2.0))
        }
    })
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn plot<X, Y>(area: &Area<'_>, texts: Texts, lines: &[Line], x: X, y: Y) -> Result<(), Wrong>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut chart = context(area).build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .y_labels(6)
        .x_desc(texts.x)
        .y_desc(texts.y)
        .label_style((FONT, SMALL))
        .draw()?;
    for (i, line) in lines.iter().enumerate() {
        let style = colour(i).stroke_width(2);
        chart.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
    }
    Ok(())
}

fn context<'a, 'b>(area: &'a Area<'b>) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder.margin(8).set_label_area_size(LabelAreaPosition::Left, 56);
    builder.set_label_area_size(LabelAreaPosition::Bottom, 40);
    builder
}

/// Writes a chart of a title, what `fill` draws, and a legend beside it.
fn draw(
    file: &Path,
    texts: Texts,
    legend: &[String],
    fill: impl FnOnce(&Area<'_>) -> Result<(), Wrong>,
) -> Result<(), Wrong> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        root.draw_text(texts.title, &(FONT, LARGE).into_text_style(&root), (56, 8))?;
        let (chart, names) = root.margin(28, 0, 0, 0).split_horizontally(BAR_AREA.1);
        fill(&chart)?;
        for (i, name) in legend.iter().enumerate() {
            let y = 12 + 20 * i as i32;
            names.draw(&Rectangle::new([(4, y), (16, y + 10)], colour(i).filled()))?;
            names.draw_text(name, &(FONT, SMALL).into_text_style(&names), (22, y - 1))?;
        }
        root.present()?;
    }
    std::fs::write(file, embedded(&svg))?;
    Ok(())
}

/// The picture as a page of documentation takes it: without what ends a block of HTML in Markdown,
/// and no wider than the page.
fn embedded(svg: &str) -> String {
    let lines: Vec<_> = svg.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    // The text of an element stands on a line of its own.
    let mut flat = lines.join("\n").replace(">\n", ">").replace("\n<", "<").replace('>', ">\n");
    for element in ["text", "svg"] {
        flat = flat.replace(&format!("\n</{element}>"), &format!("</{element}>"));
    }
    flat.replacen("<svg ", "<svg style=\"max-width:100%;height:auto\" ", 1)
}

fn limits(values: impl Iterator<Item = f64>, scale: Scale, more: f64) -> std::ops::Range<f64> {
    let usable = values.filter(|value| scale == Scale::Linear || *value > 0.0);
    let (least, most) =
        usable.fold((f64::MAX, f64::MIN), |(a, b), value| (a.min(value), b.max(value)));
    match scale {
        _ if least > most => 0.1..1.0,
        Scale::Linear if more > 1.0 => 0.0..(most * more).max(1.0),
        Scale::Linear => least..most,
        Scale::Logarithmic => least / more..most * more,
    }
}

fn number(value: &f64) -> String {
    match value.abs() {
        large if large >= 1_000.0 => format!("{:.0},000", value / 1_000.0),
        whole if whole >= 10.0 || value.fract() == 0.0 => format!("{value:.0}"),
        one if one >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Okabe and Ito's colours, which those who see few colours can tell apart, and two greys.
fn colour(i: usize) -> RGBColor {
    const COLOURS: [RGBColor; 10] = [
        RGBColor(0, 0, 0),
        RGBColor(230, 159, 0),
        RGBColor(86, 180, 233),
        RGBColor(0, 158, 115),
        RGBColor(204, 121, 167),
        RGBColor(0, 114, 178),
        RGBColor(213, 94, 0),
        RGBColor(200, 185, 30),
        RGBColor(110, 110, 110),
        RGBColor(175, 175, 175),
    ];
    COLOURS[i % COLOURS.len()]
}

const FONT: &str = "sans-serif";

/// Without the font itself, a size is that of its box: 12 pixels of text.
const SMALL: i32 = 15;

const LARGE: i32 = 19;

/// As wide as a page of rustdoc.
const SIZE: (u32, u32) = (760, 340);

/// Where bars are, without labels and margins, and where the legend begins.
const BAR_AREA: (u32, i32) = (544, 616);
