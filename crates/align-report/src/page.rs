//! The shell of a page and its tables.

use crate::escape;

pub(crate) const STYLE: &str = include_str!("page.css");

/// Writes a page that needs nothing else: no script, no font, no request.
///
/// `style` is added to the common style sheet; `body` is HTML already and stands inside `<main>`.
///
/// ```
/// let page = align_report::page("a < b", "", "<h1>a &lt; b</h1>\n");
/// assert!(page.contains("<title>a &lt; b</title>"));
/// ```
pub fn page(title: &str, style: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<style>\n{STYLE}{style}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// Writes a table whose cells carry their column's name, so that a narrow page can show each row as a card.
///
/// `class` is `wide` for a table that a narrow page cannot hold; the cells of `rows` are HTML already.
pub fn table(class: &str, head: &[String], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut text = format!("<table class=\"{}\">\n<thead><tr>", escape(class));
    head.iter().for_each(|cell| text += &format!("<th scope=\"col\">{}</th>", escape(cell)));
    text += "</tr></thead>\n<tbody>\n";
    for row in rows {
        text += "<tr>";
        for (name, cell) in head.iter().zip(row) {
            text += &format!("<td data-label=\"{}\">{cell}</td>", escape(name));
        }
        text += "</tr>\n";
    }
    text + "</tbody>\n</table>\n"
}

/// Writes a figure with its heading above and its explanation, which is HTML already, below.
pub fn figure_card(class: &str, title: &str, drawing: &str, note: &str) -> String {
    format!(
        "<figure class=\"{}\">\n<figcaption>{}</figcaption>\n{drawing}\n{note}</figure>\n",
        escape(class),
        escape(title)
    )
}
