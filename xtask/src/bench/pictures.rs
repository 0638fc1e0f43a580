//! Pictures of what was measured, as SVG.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::data::{Data, Row, Side};
use super::metric::{Metric, P50, P99, P99_9};
use super::stats::{median, range};
use super::table::{grouped, loads, metrics, short};
use crate::Outcome;

const WIDTH: u32 = 760;
const FONT: (&str, u32) = ("sans-serif", 13);
const TITLE: (&str, u32) = ("sans-serif", 16);
const INK: RGBColor = RGBColor(40, 40, 40);

/// Colours that differ for everybody.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const fn colour(side: Side) -> RGBColor {
    match side {
        Side::Ours => COLOURS[0],
        Side::Theirs => COLOURS[1],
        Side::Limit => RGBColor(150, 150, 150),
    }
}

/// Draws on a white ground.
fn draw(
    height: u32,
    paint: impl FnOnce(&Area<'_>) -> Result<(), Box<dyn std::error::Error>>,
) -> Outcome<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        let failed = |error: &dyn std::fmt::Display| format!("cannot draw: {error}");
        area.fill(&WHITE).map_err(|error| failed(&error))?;
        paint(&area).map_err(|error| failed(&error))?;
        area.present().map_err(|error| failed(&error))?;
    }
    if !svg.ends_with('\n') {
        svg.push('\n');
    }
    Ok(svg)
}

/// A bar for each contender of a load: its median, and a line from its lowest round to its
/// highest.
pub(super) fn bars(title: &str, rows: &[&Row]) -> Outcome<Option<String>> {
    const NAMES: i32 = 190;
    const BAR: i32 = 24;
    let Some(metric) = metrics(rows).first() else { return Ok(None) };
    let values: Vec<(&Row, f64, (f64, f64))> = rows
        .iter()
        .filter_map(|row| {
            let values = metric.of(row);
            Some((*row, median(&values)?, range(&values)?))
        })
        .collect();
    let most = values.iter().map(|(.., (_, high))| *high).fold(0.0, f64::max);
    if most <= 0.0 {
        return Ok(None);
    }
    let height = u32::try_from(44 + BAR * values.len() as i32 + 10).unwrap_or(WIDTH);
    let room = f64::from(WIDTH) - f64::from(NAMES) - 80.0;
    let place = |value: f64| NAMES + (value / most * room) as i32;
    let svg = draw(height, |area| {
        let text = |size: (&'static str, u32)| TextStyle::from(size.into_font()).color(&INK);
        area.draw_text(&format!("{title}: {}", metric.heading), &text(TITLE), (10, 10))?;
        for (number, (row, middle, (low, high))) in values.iter().enumerate() {
            let top = 44 + BAR * number as i32;
            area.draw_text(&row.contender, &text(FONT), (10, top + 2))?;
            let corners = [(NAMES, top), (place(*middle), top + BAR - 6)];
            area.draw(&Rectangle::new(corners, colour(row.side).filled()))?;
            let middle_line = top + (BAR - 6) / 2;
            let whisker = vec![(place(*low), middle_line), (place(*high), middle_line)];
            area.draw(&PathElement::new(whisker, INK))?;
            area.draw_text(&short(*middle), &text(FONT), (place(*high) + 6, top + 2))?;
        }
        Ok(())
    })?;
    Ok(Some(svg))
}

/// Half, all but a hundredth and all but a thousandth of the requests of each contender.
pub(super) fn latencies(title: &str, rows: &[&Row]) -> Outcome<Option<String>> {
    const QUANTILES: [&Metric; 3] = [&P50, &P99, &P99_9];
    let points: Vec<(&Row, Vec<f64>)> = rows
        .iter()
        .map(|row| (*row, QUANTILES.iter().filter_map(|q| median(&q.of(row))).collect()))
        .filter(|(_, points): &(_, Vec<f64>)| points.len() == QUANTILES.len())
        .collect();
    let all = || points.iter().flat_map(|(_, points)| points.iter().copied());
    let Some((low, high)) = range(&all().collect::<Vec<_>>()) else { return Ok(None) };
    let names: Vec<&str> = points.iter().map(|(row, _)| row.contender.as_str()).collect();
    let svg = draw(360, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title, TITLE)
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(170)
            .build_cartesian_2d(
                (low.max(1.0) * 0.8..high * 1.3).log_scale(),
                -0.5..points.len() as f64 - 0.5,
            )?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .x_desc("µs: p50, p99, p99.9")
            .x_label_formatter(&|value| grouped(*value))
            .y_labels(0)
            .label_style(FONT)
            .draw()?;
        for (number, (row, points)) in points.iter().enumerate() {
            let y = names.len() as f64 - 1.0 - number as f64;
            let colour = colour(row.side);
            chart.draw_series([PathElement::new(
                points.iter().map(|x| (*x, y)).collect::<Vec<_>>(),
                colour,
            )])?;
            chart.draw_series(points.iter().map(|x| Circle::new((*x, y), 4, colour.filled())))?;
            let (_, height) = chart.backend_coord(&(points[0], y));
            let style = TextStyle::from(FONT.into_font()).color(&INK);
            area.draw_text(&row.contender, &style, (10, height - 7))?;
        }
        Ok(())
    })?;
    Ok(Some(svg))
}

/// Throughput over what a part goes through.
pub(super) fn curves(data: &Data, part: &str, title: &str, over: &str) -> Outcome<Option<String>> {
    let loads = loads(data, part);
    let Some((_, first)) = loads.first() else { return Ok(None) };
    let Some(metric) = metrics(first).first() else { return Ok(None) };
    let mut curves: Vec<(&str, Vec<(f64, f64)>)> = Vec::new();
    for row in loads.iter().flat_map(|(_, rows)| rows) {
        let (Some(at), Some(middle)) = (row.at, median(&metric.of(row))) else { continue };
        let point = (at as f64, middle);
        match curves.iter_mut().find(|(name, _)| *name == row.contender) {
            Some((_, points)) => points.push(point),
            None => curves.push((&row.contender, vec![point])),
        }
    }
    let all = || curves.iter().flat_map(|(_, points)| points.iter());
    let xs: Vec<f64> = all().map(|point| point.0).collect();
    let (Some((low, high)), Some((_, most))) =
        (range(&xs), range(&all().map(|point| point.1).collect::<Vec<_>>()))
    else {
        return Ok(None);
    };
    let svg = draw(400, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(format!("{title}: {}", metric.heading), TITLE)
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d((low * 0.9..high * 1.2).log_scale(), 0.0..most * 1.1)?;
        chart
            .configure_mesh()
            .x_desc(over)
            .x_label_formatter(&|value| grouped(*value))
            .y_label_formatter(&|value| grouped(*value))
            .label_style(FONT)
            .light_line_style(WHITE)
            .draw()?;
        for (number, (name, points)) in curves.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
                .label(*name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
                });
            chart.draw_series(points.iter().map(|at| Circle::new(*at, 3, colour.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .label_font(FONT)
            .background_style(WHITE.mix(0.8))
            .border_style(INK)
            .draw()?;
        Ok(())
    })?;
    Ok(Some(svg))
}
