//! Where settings are written: the line of the file for each path, so that whoever asks why can be
//! shown.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

/// The lines of one file.
#[derive(Clone, Debug, Default)]
pub struct Written {
    file: Option<PathBuf>,
    lines: HashMap<String, usize>,
}

impl Written {
    /// Of this text, which was read from `file`.
    #[must_use]
    pub fn of(text: &str, file: Option<&Path>) -> Self {
        let mut lines = HashMap::new();
        if let Ok(table) = DeTable::parse(text) {
            visit(table.get_ref(), "", text, &mut lines);
        }
        Self { file: file.map(Path::to_owned), lines }
    }

    /// Where a setting is written, like `/etc/octroi/octroi.toml:41`; none: it is not, so that the
    /// default holds, or it came by the environment.
    #[must_use]
    pub fn place(&self, path: &str) -> Option<String> {
        let file = self.file.as_ref()?;
        self.lines.get(path).map(|line| format!("{}:{line}", file.display()))
    }
}

fn visit(table: &DeTable<'_>, path: &str, text: &str, lines: &mut HashMap<String, usize>) {
    for (key, value) in table {
        let name = key.get_ref();
        let path = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
        lines.insert(path.clone(), line_of(text, key.span().start));
        below(value.get_ref(), &path, text, lines);
    }
}

fn below(value: &DeValue<'_>, path: &str, text: &str, lines: &mut HashMap<String, usize>) {
    match value {
        DeValue::Table(table) => visit(table, path, text, lines),
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}[{index}]");
                lines.insert(path.clone(), line_of(text, item.span().start));
                below(item.get_ref(), &path, text, lines);
            }
        }
        _ => {}
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_has_the_line_it_is_written_at() {
        let text = "[limits.default]\nrate = \"5/s\"\n\n[[routes]]\nname = \"a\"\n\n[[routes]]\n# why\nname = \"b\"\nscopes = [\n  \"x\",\n]\n";
        let written = Written::of(text, Some(Path::new("/etc/octroi.toml")));
        for (path, place) in [
            ("limits.default.rate", Some("/etc/octroi.toml:2")),
            ("routes[0]", Some("/etc/octroi.toml:4")),
            ("routes[1].name", Some("/etc/octroi.toml:9")),
            ("routes[1].scopes", Some("/etc/octroi.toml:10")),
            ("routes[1].scopes[0]", Some("/etc/octroi.toml:11")),
            ("routes[1].auth", None),
        ] {
            assert_eq!(written.place(path).as_deref(), place, "{path}");
        }
        assert_eq!(Written::of(text, None).place("routes[0]"), None);
    }
}
