//! Line charts as SVG.

use std::path::Path;

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

/// Colors that remain distinguishable with any form of color blindness (Okabe and Ito 2008).
const COLORS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(110, 110, 110),
    RGBColor(0, 0, 0),
];

/// A line chart.
pub struct Chart<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub y: &'a str,
    pub series: Vec<(String, Vec<(f64, f64)>)>,
}

impl Chart<'_> {
    /// Writes the chart to `file`, with a marker at each point.
    pub fn draw<X, Y>(&self, file: &Path, x: X, y: Y)
    where
        X: AsRangedCoord<Value = f64>,
        Y: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let root = SVGBackend::new(file, (720, 440)).into_drawing_area();
        let filled = root.fill(&WHITE);
        let mut chart = ChartBuilder::on(&root)
            .caption(self.title, ("sans-serif", 17))
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(72)
            .build_cartesian_2d(x, y)
            .expect("the ranges are not empty");
        let number = |value: &f64| {
            if *value >= 1e6 { format!("{value:.0e}") } else { format!("{value}") }
        };
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(self.x).y_desc(self.y).light_line_style(WHITE);
        mesh.x_label_formatter(&number).y_label_formatter(&number);
        let mut drawn = filled.and(mesh.draw());
        for ((name, points), color) in self.series.iter().zip(COLORS) {
            let line = LineSeries::new(points.iter().copied(), color.stroke_width(2)).point_size(3);
            match chart.draw_series(line) {
                Ok(entry) => {
                    let key = move |(x, y)| {
                        PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2))
                    };
                    entry.label(name.as_str()).legend(key);
                }
                Err(error) => drawn = Err(error),
            }
        }
        let legend = chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw();
        drawn.and(legend).and(root.present()).expect("docs/ is writable");
    }
}
