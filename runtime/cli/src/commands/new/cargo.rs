//! The function's `Cargo.toml`, and its place in the workspace.

use std::path::Path;

use toml::Table;

use crate::exit::{CliError, Result};

/// Where the crate `rhubarb` lies: in the repository that this program was built from.
const SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../sdk");

/// The crates that the template needs: name, and how to write it where the workspace does not.
const NEEDED: [(&str, &str, &str); 2] = [
    ("serde", r#"version = "1", "#, r#"features = ["derive"]"#),
    ("tokio", r#"version = "1", "#, r#"features = ["macros", "rt"]"#),
];

/// The function's `Cargo.toml`.
pub(super) fn package(name: &str, workspace: Option<&str>) -> Result<String> {
    let table = workspace.map(parse).transpose()?;
    let shared = |dependency: &str| {
        let workspace = table.as_ref().and_then(|table| table.get("workspace"));
        workspace.and_then(|it| it.get("dependencies")).and_then(|all| all.get(dependency)).is_some()
    };
    let rhubarb =
        if shared("rhubarb") { "rhubarb.workspace = true".to_owned() } else { format!("rhubarb = {}", sdk()?) };
    let mut text = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\npublish = false\n\n[dependencies]\n{rhubarb}\n"
    );
    for (dependency, version, features) in NEEDED {
        let from = if shared(dependency) { "workspace = true, " } else { version };
        text.push_str(&format!("{dependency} = {{ {from}{features} }}\n"));
    }
    Ok(text)
}

/// Where the crate is not on a registry, it is taken from where this program was built.
fn sdk() -> Result<String> {
    let found = Path::new(SDK).canonicalize().ok().and_then(|path| path.to_str().map(ToOwned::to_owned));
    let path = found.ok_or_else(|| {
        CliError::Configuration(
            "the repository that this rhubarb was built from is gone, and with it the crate `rhubarb` that a function needs: \
             install rhubarb from a repository that stays, with `cargo install --path runtime/cli`"
                .into(),
        )
    })?;
    Ok(format!("{{ path = {path:?} }}"))
}

/// The workspace's `Cargo.toml` with one more member; `None` where a pattern covers it already.
pub(super) fn with_member(workspace: Option<&str>, member: &str) -> Result<Option<String>> {
    let Some(text) = workspace else {
        return Ok(Some(format!("[workspace]\nresolver = \"3\"\nmembers = [\"{member}\"]\n")));
    };
    let table = parse(text)?;
    if has_member(&table, member) {
        return Ok(None);
    }
    let changed = match (table.contains_key("workspace"), members_list(text)) {
        (false, _) => format!("{}\n\n[workspace]\nmembers = [\"{member}\"]\n", text.trim_end()),
        (true, Some(place)) => format!("{}\"{member}\", {}", &text[..place], &text[place..]),
        (true, None) => text.replacen("[workspace]", &format!("[workspace]\nmembers = [\"{member}\"]"), 1),
    };
    if parse(&changed).is_ok_and(|table| has_member(&table, member)) {
        return Ok(Some(changed));
    }
    Err(CliError::Configuration(format!(
        "cannot extend Cargo.toml: add \"{member}\" to `members` of [workspace] and run this again"
    )))
}

fn parse(text: &str) -> Result<Table> {
    toml::from_str(text).map_err(|error| CliError::Configuration(format!("Cargo.toml cannot be read: {error}")))
}

fn has_member(table: &Table, member: &str) -> bool {
    let members = table.get("workspace").and_then(|it| it.get("members")).and_then(|members| members.as_array());
    let folder = member.rsplit_once('/').map_or(".", |(folder, _)| folder);
    let covers = |pattern: &str| pattern == member || pattern.strip_suffix("/*") == Some(folder);
    members.is_some_and(|members| members.iter().filter_map(|pattern| pattern.as_str()).any(covers))
}

/// The place after the bracket that opens the workspace's list of members.
fn members_list(text: &str) -> Option<usize> {
    let section = text.find("[workspace]")?;
    let key = section + text[section..].find("\nmembers")?;
    Some(key + text[key..].find('[')? + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_gets_one_more_member_and_keeps_its_form() {
        let text =
            "# mine\n[workspace]\nresolver = \"3\"\nmembers = [\n    \"app\",\n]\n\n[profile.release]\nlto = true\n";
        let changed = with_member(Some(text), "functions/hello").unwrap().unwrap();
        assert_eq!(changed, text.replace("members = [", "members = [\"functions/hello\", "));
    }

    #[test]
    fn a_pattern_that_covers_the_function_is_enough() {
        let text = "[workspace]\nmembers = [\"functions/*\"]\n";
        assert_eq!(with_member(Some(text), "functions/hello").unwrap(), None);
        assert!(with_member(Some(text), "lambdas/hello").unwrap().is_some());
    }

    #[test]
    fn a_package_becomes_a_workspace_and_nothing_becomes_one_too() {
        let changed = with_member(Some("[package]\nname = \"app\"\n"), "functions/hello").unwrap().unwrap();
        assert_eq!(changed, "[package]\nname = \"app\"\n\n[workspace]\nmembers = [\"functions/hello\"]\n");
        assert!(with_member(None, "functions/hello").unwrap().unwrap().contains("resolver = \"3\""));
    }

    #[test]
    fn a_crate_takes_from_the_workspace_what_it_has() {
        let shared =
            package("hello", Some("[workspace.dependencies]\nrhubarb = { path = \"x\" }\nserde = \"1\"\n")).unwrap();
        assert!(shared.contains("rhubarb.workspace = true\nserde = { workspace = true, features"), "{shared}");
        let own = package("hello", None).unwrap();
        assert!(own.contains("serde = { version = \"1\", features = [\"derive\"] }"), "{own}");
        toml::from_str::<Table>(&own).unwrap();
    }

    #[test]
    fn a_file_that_is_no_toml_is_left_alone() {
        assert!(with_member(Some("[workspace\n"), "functions/hello").is_err());
    }
}
