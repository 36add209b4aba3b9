//! Settings that people will try: those a later version has, and secrets, which never stand in
//! the file. Each says so, instead of being an unknown word.

/// Settings of later versions, without indices; a table stands for all that is in it.
const LATER: &[(&str, &str)] = &[
    ("auth.scopes", "name the scopes on the route: `routes[].scopes`"),
    ("plans", "plans stand in the store: make one with `octroi plan create`"),
    ("limits.plan", "put clients on a plan with `octroi client update C --plan P`"),
    ("limits.quota", "set it with `octroi client update C --quota 1000000/month`, or on a plan"),
    ("routes.plan", "put clients on a plan with `octroi client update C --plan P`"),
    ("redis", "run one replica, or several with a limit each"),
];

/// Secrets: their values never stand in the file.
const SECRETS: &[(&str, &str)] = &[
    ("auth.pepper", "set API_KEY_PEPPER, or name a file in `auth.pepper_file`"),
    ("auth.pepper_previous", "set API_KEY_PEPPER_PREVIOUS or API_KEY_PEPPER_PREVIOUS_FILE"),
    ("issuer.secret", "set JWT_SECRET, or name a file in `issuer.secret_file`"),
];

/// What a later version has at `path`, or where a secret belongs: message and remedy.
pub(super) fn explain(path: &str) -> Option<(&'static str, &'static str)> {
    let path = without_indices(path);
    let lies_in = |known: &str| path == known || path.strip_prefix(known).is_some_and(|rest| rest.starts_with('.'));
    let find = |list: &'static [(&str, &'static str)]| list.iter().find(|(known, _)| lies_in(known));
    if let Some((_, remedy)) = find(LATER) {
        return Some(("this setting is not in this version", remedy));
    }
    find(SECRETS).map(|(_, remedy)| ("a secret does not stand in the configuration", *remedy))
}

fn without_indices(path: &str) -> String {
    let mut depth = 0;
    let outside = |letter: &char| {
        match letter {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => return depth == 0,
        }
        false
    };
    path.chars().filter(outside).collect()
}

#[cfg(test)]
mod tests {
    use super::super::raw;
    use super::*;

    #[test]
    fn later_settings_and_secrets_are_told_from_typing_errors() {
        for (path, message) in [
            ("auth.scopes", Some("this setting is not in this version")),
            ("routes[3].plan", Some("this setting is not in this version")),
            ("auth.pepper", Some("a secret does not stand in the configuration")),
            ("proxying", None),
            ("auth.cache", None),
        ] {
            assert_eq!(explain(path).map(|(message, _)| message), message, "{path}");
        }
    }

    #[test]
    fn no_setting_of_this_version_is_called_a_later_one() {
        fn visit(table: &toml::Table, path: &str) {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                assert_eq!(explain(&path), None, "{path}");
                let below = value.as_array().and_then(|items| items.first()).unwrap_or(value);
                below.as_table().inspect(|below| visit(below, &path));
            }
        }
        visit(&raw::schema(), "");
    }
}
