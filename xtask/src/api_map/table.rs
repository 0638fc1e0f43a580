//! The map itself: as much of TOML as it is written in.

use crate::Outcome;

/// One call.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    /// As libnbd calls it, without `nbd_`.
    pub(super) name: String,
    /// The alias of the items that do its job, where that is not `nbd_` and the name.
    pub(super) alias: String,
    /// The heading it is under.
    pub(super) group: String,
    /// `crate::file::test`, with modules in between.
    pub(super) tests: Vec<String>,
    /// Where our form differs, and why.
    pub(super) note: String,
}

/// Reads rows of `key = "text"` and `key = ["text", ...]` under `[[call]]`.
///
/// # Errors
///
/// With the number of the line that is not understood, or of the row that lacks something.
pub(super) fn parse(text: &str) -> Outcome<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let fault = |what: &str| format!("line {}: {what}", number + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line == "[[call]]" {
            rows.push(Row::default());
            continue;
        }
        let (key, value) = line.split_once(" = ").ok_or_else(|| fault("not `key = value`"))?;
        let mut value = value.to_owned();
        while value.starts_with('[') && !value.ends_with(']') {
            let (_, more) = lines.next().ok_or_else(|| fault("a list without an end"))?;
            value.push_str(more.trim());
        }
        let row = rows.last_mut().ok_or_else(|| fault("a value before the first `[[call]]`"))?;
        let texts = strings(&value).ok_or_else(|| fault("not a text or a list of texts"))?;
        match (key, texts.as_slice()) {
            ("name", [text]) => row.name.clone_from(text),
            ("alias", [text]) => row.alias.clone_from(text),
            ("group", [text]) => row.group.clone_from(text),
            ("note", [text]) => row.note.clone_from(text),
            ("tests", _) => row.tests = texts,
            _ => return Err(fault("an unknown key, or a list for a text")),
        }
    }
    for row in &mut rows {
        if row.alias.is_empty() {
            row.alias = format!("nbd_{}", row.name);
        }
    }
    let poor =
        rows.iter().find(|row| row.name.is_empty() || row.group.is_empty() || row.tests.is_empty());
    match poor {
        Some(row) => Err(format!("the row of {:?} lacks something", row.name)),
        None => Ok(rows),
    }
}

/// The texts in quotes, or `None` if there is anything else but commas and brackets.
fn strings(value: &str) -> Option<Vec<String>> {
    let mut texts = Vec::new();
    let mut chars = value.trim_start_matches('[').trim_end_matches(']').chars();
    while let Some(c) = chars.next() {
        match c {
            ',' | ' ' => {}
            '"' => {
                let mut text = String::new();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => text.push(chars.next()?),
                        c => text.push(c),
                    }
                }
                texts.push(text);
            }
            _ => return None,
        }
    }
    Some(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read() {
        let text = "# words\n\n[[call]]\nname = \"one\"\ngroup = \"g\"\n\
                    tests = [\n    \"t\",\n    \"u\",\n]\nnote = \"say \\\"x\\\" [1]\"\n";
        let rows = parse(text).expect("it is sound");
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].alias, "nbd_one");
        assert_eq!(rows[0].tests, ["t", "u"]);
        assert_eq!(rows[0].note, "say \"x\" [1]");
    }

    #[test]
    fn faults_are_told_with_their_line() {
        for (text, words) in [
            ("name = \"x\"\n", "before the first"),
            ("[[call]]\nname\n", "line 2: not `key = value`"),
            ("[[call]]\nname = x\n", "line 2: not a text"),
            ("[[call]]\ncolour = \"x\"\n", "unknown key"),
            ("[[call]]\ntests = [\n", "without an end"),
            ("[[call]]\nname = \"x\"\n", "\"x\" lacks something"),
        ] {
            let error = parse(text).expect_err("it is not sound");
            assert!(error.contains(words), "{error}");
        }
    }
}
