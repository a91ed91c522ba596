//! Text for terminals: nothing that a sender chose moves the cursor, changes colors or hides other
//! text; columns; relative times.

use std::fmt::Write;

/// Returns a text in which characters that a terminal interprets are written as `\u{…}`: control
/// characters, line and paragraph separators, and those that change the direction of text.
pub(super) fn visible(text: &str) -> String {
    escaped(text, |out, c| {
        let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
    })
}

/// Returns lines of text with everything else escaped as by [`visible`].
pub(super) fn visible_lines(text: &str) -> String {
    text.lines().map(visible).collect::<Vec<_>>().join("\n")
}

/// Returns JSON in which the same characters are written as `\uXXXX`.
pub(super) fn visible_json(json: &str) -> String {
    escaped(json, |out, c| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    })
}

fn escaped(text: &str, escape: impl Fn(&mut String, char)) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_interpreted(c) {
            // Writing to a String cannot fail.
            escape(&mut shown, c);
        } else {
            shown.push(c);
        }
    }
    shown
}

fn is_interpreted(c: char) -> bool {
    let hides = matches!(
        c,
        '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    );
    c.is_control() || hides
}

/// Returns the number of columns of a character that is not interpreted.
fn columns(c: char) -> usize {
    let wide = matches!(
        c,
        '\u{1100}'..='\u{115f}'
            | '\u{2e80}'..='\u{a4cf}'
            | '\u{ac00}'..='\u{d7a3}'
            | '\u{f900}'..='\u{faff}'
            | '\u{fe30}'..='\u{fe6f}'
            | '\u{ff00}'..='\u{ff60}'
            | '\u{ffe0}'..='\u{ffe6}'
            | '\u{1f300}'..='\u{1faff}'
            | '\u{20000}'..='\u{3fffd}'
    );
    if wide { 2 } else { 1 }
}

fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

/// Returns a text of at most `most` columns, with `…` in place of what is cut off.
fn cut(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    let (mut shown, mut used) = (String::new(), 0);
    for c in text.chars() {
        if used + columns(c) + 1 > most {
            break;
        }
        used += columns(c);
        shown.push(c);
    }
    shown.push('…');
    shown
}

/// The most columns of a table.
const TABLE_WIDTH: usize = 80;
/// The fewest columns to which a column is cut.
const NARROWEST: usize = 8;

/// Returns a table. The cells are shown as by [`visible`]. If the table is too wide, the columns at
/// the positions in `flexible` are cut, the widest first.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>], flexible: &[usize]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| visible(cell)).collect()).collect();
    let longest = |at: usize| rows.iter().map(move |row| width(&row[at])).max().unwrap_or(0);
    let mut widths: Vec<usize> =
        heading.iter().enumerate().map(|(at, name)| width(name).max(longest(at))).collect();
    loop {
        let surplus =
            (widths.iter().sum::<usize>() + 2 * (widths.len() - 1)).saturating_sub(TABLE_WIDTH);
        let widest = flexible.iter().copied().max_by_key(|at| widths[*at]);
        match widest.filter(|at| surplus > 0 && widths[*at] > NARROWEST) {
            Some(at) => widths[at] -= 1,
            None => break,
        }
    }
    let mut text = String::new();
    let heading: Vec<String> = heading.iter().map(|name| (*name).to_owned()).collect();
    for row in [&heading].into_iter().chain(&rows) {
        let mut line = String::new();
        for (cell, most) in row.iter().zip(&widths) {
            let cell = cut(cell, *most);
            let padding = most - width(&cell) + 2;
            let _ = write!(line, "{cell}{:padding$}", "");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Returns a time span in its largest unit: `12s`, `3m`, `5h`, `9d`.
pub(super) fn span(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..86_400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_interprets_is_escaped() {
        for (text, shown) in [
            ("evt_1 한글 é", "evt_1 한글 é"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("a\r\nb\tc", "a\\u{d}\\u{a}b\\u{9}c"),
            ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
            ("a\u{202e}b\u{2066}", "a\\u{202e}b\\u{2066}"),
        ] {
            assert_eq!(visible(text), shown);
        }
        assert_eq!(visible_lines("a\u{7}\n\nb\n"), "a\\u{7}\n\nb");
        let json = serde_json::json!({ "a": "\u{1b}\u{9b}\u{202e}\u{e0001}\"" }).to_string();
        let shown = visible_json(&json);
        assert!(!shown.chars().any(is_interpreted), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap().to_string(), json);
    }

    #[test]
    fn a_table_fits_into_80_columns() {
        let row = |id: &str, event: &str| vec![id.to_owned(), "route".to_owned(), event.to_owned()];
        let rows = [row(&"0".repeat(26), &"가".repeat(90)), row("1", "e\u{1b}")];
        let text = table(&["ID", "ROUTE", "EVENT"], &rows, &[1, 2]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| width(line) <= TABLE_WIDTH), "{text}");
        assert!(lines[1].ends_with('…') && lines[2].ends_with("e\\u{1b}"), "{text}");
        assert_eq!(lines[0].find("ROUTE"), Some(28));
    }

    #[test]
    fn a_span_has_one_unit() {
        let spans = [-5, 0, 59, 60, 3599, 3600, 86_399, 86_400, 10 * 86_400].map(span);
        assert_eq!(spans, ["0s", "0s", "59s", "1m", "59m", "1h", "23h", "1d", "10d"]);
    }
}
