//! A QR code in a terminal.

use qrcode::{Color, EcLevel, QrCode};

/// Light modules around the code, which scanners require (ISO/IEC 18004).
const MARGIN: usize = 4;

/// Black on white, regardless of the colors of the terminal.
const COLORS: &str = "\x1b[30;107m";
const RESET: &str = "\x1b[0m";

/// Returns a QR code of `text`, two rows of modules per line. With `colored`, the colors are set
/// explicitly; otherwise the background must be dark. Returns a note if the text is too long for a code.
pub fn draw(text: &str, colored: bool) -> String {
    // Screens are clean: the least redundancy makes the largest modules.
    let Ok(code) = QrCode::with_error_correction_level(text, EcLevel::L) else {
        return "(The URL is too long for a QR code.)\n".to_owned();
    };
    let (width, colors) = (code.width(), code.to_colors());
    let is_dark = |x: usize, y: usize| {
        let inside = (MARGIN..MARGIN + width).contains(&x) && (MARGIN..MARGIN + width).contains(&y);
        inside && colors[(y - MARGIN) * width + x - MARGIN] == Color::Dark
    };
    let total = width + 2 * MARGIN;
    let mut drawing = String::new();
    for y in (0..total).step_by(2) {
        if colored {
            drawing.push_str(COLORS);
        }
        for x in 0..total {
            // The ink is dark with colors, and light without.
            drawing.push(match (is_dark(x, y) == colored, is_dark(x, y + 1) == colored) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
        drawing.push_str(if colored { RESET } else { "" });
        drawing.push('\n');
    }
    drawing
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the modules of a drawing: true for dark ones.
    fn modules(drawing: &str, colored: bool) -> Vec<Vec<bool>> {
        let mut rows = Vec::new();
        for line in drawing.lines() {
            let line = line.trim_start_matches(COLORS).trim_end_matches(RESET);
            let half = |full: char| {
                line.chars().map(|it| (it == '█' || it == full) == colored).collect::<Vec<_>>()
            };
            rows.extend([half('▀'), half('▄')]);
        }
        rows
    }

    #[test]
    fn the_drawing_has_every_module_of_the_code_and_a_margin() {
        let text = "https://herd.example:5055/t/AbCdEfGhIjKlMnOpQrStUvWx";
        let code = QrCode::with_error_correction_level(text, EcLevel::L).unwrap();
        for colored in [false, true] {
            let rows = modules(&draw(text, colored), colored);
            let total = code.width() + 2 * MARGIN;
            assert!(rows.iter().all(|row| row.len() == total));
            // An odd number of rows leaves half a line.
            assert!(rows.len() == total || rows.len() == total + 1);
            for (y, row) in rows.iter().enumerate() {
                for (x, &dark) in row.iter().enumerate() {
                    let inside = |at: usize| (MARGIN..MARGIN + code.width()).contains(&at);
                    let expected =
                        inside(x) && inside(y) && code[(x - MARGIN, y - MARGIN)] == Color::Dark;
                    assert_eq!(dark, expected, "{x}, {y}, colored: {colored}");
                }
            }
        }
    }

    #[test]
    fn a_text_that_is_too_long_is_no_error() {
        assert!(draw(&"x".repeat(3000), true).starts_with("(The URL is too long"));
    }
}
