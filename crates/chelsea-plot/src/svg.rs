//! Shapes and text as elements of an SVG document: the few that charts are made of.

use std::fmt::Write as _;

/// Red, green and blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Colour(pub u8, pub u8, pub u8);

/// Which part of a text lies at the given place, from left to right.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Across {
    Left,
    Center,
    Right,
}

/// Which part of a text lies at the given place, from top to bottom.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Along {
    Top,
    Center,
    Bottom,
}

/// How a text is set.
#[derive(Clone, Copy)]
pub(crate) struct Face {
    pub size: f64,
    pub colour: Colour,
    pub bold: bool,
    /// Read from the bottom to the top.
    pub turned: bool,
    pub across: Across,
    pub along: Along,
}

impl Face {
    pub const fn new(size: f64, colour: Colour, across: Across, along: Along) -> Self {
        Self { size, colour, bold: false, turned: false, across, along }
    }
}

/// A document in the making; places are pixels from the top left.
pub(crate) struct Svg {
    text: String,
}

impl Svg {
    pub fn new(width: i32, height: i32) -> Self {
        let text = format!(
            "<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             xmlns=\"http://www.w3.org/2000/svg\">\n"
        );
        Self { text }
    }

    /// Rules of style, which must hold no markup.
    pub fn style(&mut self, rules: &str) {
        self.element(format_args!("<style>{rules}</style>"));
    }

    /// The whole document.
    pub fn finish(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }

    /// One element; writing to a string cannot fail.
    fn element(&mut self, element: std::fmt::Arguments<'_>) {
        let _ = self.text.write_fmt(element);
        self.text.push('\n');
    }

    /// A filled box between two corners.
    pub fn rect(&mut self, (left, top): (i32, i32), (right, bottom): (i32, i32), fill: Colour) {
        let (width, height, fill) = (right - left, bottom - top, hex(fill));
        self.element(format_args!(
            "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"{fill}\"/>"
        ));
    }

    /// An open line through all points.
    pub fn line(&mut self, points: &[(i32, i32)], stroke: Colour, width: u32) {
        let (points, stroke) = (joined(points), hex(stroke));
        self.element(format_args!(
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"{width}\"/>"
        ));
    }

    /// The same line in dashes.
    pub fn dashed(&mut self, points: &[(i32, i32)], stroke: Colour, width: u32) {
        let (points, stroke) = (joined(points), hex(stroke));
        self.element(format_args!(
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{stroke}\" stroke-width=\"{width}\" \
             stroke-dasharray=\"7 4\"/>"
        ));
    }

    /// A filled shape with these corners.
    pub fn polygon(&mut self, points: &[(i32, i32)], fill: Colour, opacity: f64) {
        let (points, fill) = (joined(points), hex(fill));
        self.element(format_args!("<polygon points=\"{points}\" fill=\"{fill}\" opacity=\"{opacity}\"/>"));
    }

    /// A filled circle.
    pub fn circle(&mut self, (x, y): (i32, i32), radius: u32, fill: Colour) {
        let fill = hex(fill);
        self.element(format_args!("<circle cx=\"{x}\" cy=\"{y}\" r=\"{radius}\" fill=\"{fill}\"/>"));
    }

    /// One line of text.
    pub fn text(&mut self, (x, y): (i32, i32), text: &str, face: Face) {
        let anchor = match face.across {
            Across::Left => "start",
            Across::Center => "middle",
            Across::Right => "end",
        };
        // By the font's own measures, since nobody knows here which font will be there.
        let dy = match face.along {
            Along::Top => "0.76em",
            Along::Center => "0.5ex",
            Along::Bottom => "-0.5ex",
        };
        let (size, fill, text) = (face.size, hex(face.colour), escaped(text));
        let bold = if face.bold { " font-weight=\"bold\"" } else { "" };
        let turned = if face.turned { format!(" transform=\"rotate(270, {x}, {y})\"") } else { String::new() };
        self.element(format_args!(
            "<text x=\"{x}\" y=\"{y}\" dy=\"{dy}\" text-anchor=\"{anchor}\" \
             font-family=\"Helvetica, Arial, sans-serif\" font-size=\"{size}\" fill=\"{fill}\"{bold}{turned}>{text}</text>"
        ));
    }
}

/// A colour as attributes have it.
pub(crate) fn hex(Colour(r, g, b): Colour) -> String {
    format!("#{r:02X}{g:02X}{b:02X}")
}

fn joined(points: &[(i32, i32)]) -> String {
    points.iter().map(|(x, y)| format!("{x},{y}")).collect::<Vec<_>>().join(" ")
}

/// Text as the content of an element. Control characters, and the two code points that are no characters at all,
/// have no place in XML.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\u{fffe}' | '\u{ffff}' => out.push(' '),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_makes_well_formed_xml_and_is_read_back() {
        let every: String = ('\u{0}'..='\u{2fff}').chain('\u{d7f0}'..='\u{10010}').collect();
        let mut svg = Svg::new(10, 10);
        svg.text((1, 2), &every, Face::new(12.5, Colour(1, 2, 255), Across::Left, Along::Top));
        let document = svg.finish();
        let document = roxmltree::Document::parse(&document).expect("well-formed XML");
        let text = document.descendants().find(|n| n.tag_name().name() == "text").expect("the text");
        assert_eq!(text.attribute("fill"), Some("#0102FF"));
        let kept = |c: char| if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') { ' ' } else { c };
        assert_eq!(text.text(), Some(&*every.chars().map(kept).collect::<String>()));
    }

    #[test]
    fn turned_text_turns_about_its_own_place() {
        let mut svg = Svg::new(10, 10);
        let face = Face { turned: true, ..Face::new(12.0, Colour(0, 0, 0), Across::Center, Along::Top) };
        svg.text((3, 7), "up", face);
        assert!(svg.finish().contains("transform=\"rotate(270, 3, 7)\""));
    }
}
