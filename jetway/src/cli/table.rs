//! Columns for people: as wide as their widest cell, two spaces apart.

pub fn print(head: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    line(&widths, head.iter().copied());
    for row in rows {
        line(&widths, row.iter().map(String::as_str));
    }
}

fn line<'a>(widths: &[usize], cells: impl Iterator<Item = &'a str>) {
    let mut text = String::new();
    for (width, cell) in widths.iter().zip(cells) {
        text.push_str(&format!("{cell:<width$}  "));
    }
    println!("{}", text.trim_end());
}

/// Seconds as people say them: 42s, 7m, 3h, 2d.
pub fn age(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{}s", seconds.max(0)),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}
