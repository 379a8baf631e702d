//! The first lines of a function.

/// Words that Rust keeps for itself, or that the template uses.
const TAKEN: &[&str] = &[
    "as",
    "async",
    "await",
    "box",
    "break",
    "build",
    "const",
    "continue",
    "context",
    "core",
    "crate",
    "deps",
    "dyn",
    "else",
    "enum",
    "examples",
    "extern",
    "false",
    "fn",
    "for",
    "function",
    "gen",
    "if",
    "impl",
    "in",
    "incremental",
    "let",
    "loop",
    "main",
    "match",
    "mod",
    "move",
    "mut",
    "pub",
    "ref",
    "result",
    "return",
    "rhubarb",
    "self",
    "serde",
    "static",
    "std",
    "string",
    "struct",
    "super",
    "task",
    "task_error",
    "test",
    "tokio",
    "trait",
    "true",
    "try",
    "type",
    "unsafe",
    "use",
    "where",
    "while",
    "yield",
];

/// Checks that a crate, a task and a type can have this name.
pub(super) fn check(name: &str) -> Result<(), String> {
    let first_is_letter = name.starts_with(|c: char| c.is_ascii_lowercase());
    let allowed = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    let doubled = name.contains("--") || name.contains("__") || name.ends_with(['-', '_']);
    if !first_is_letter || !allowed || doubled {
        return Err(
            "a function of one's own has a name of lower-case words, joined by `-` or `_`: e.g. send-report".into()
        );
    }
    if TAKEN.contains(&task_name(name).as_str()) {
        return Err(format!("`{name}` means something else to Rust: choose another name, e.g. my-{name}"));
    }
    Ok(())
}

/// The task that the function runs.
pub(super) fn task_name(name: &str) -> String {
    name.replace('-', "_")
}

/// `src/main.rs`.
pub(super) fn main(name: &str) -> String {
    let task = task_name(name);
    let kind = type_name(&task);
    format!(
        r#"use rhubarb::{{Context, Function, Task, TaskError}};
#[derive(serde::Serialize, serde::Deserialize)]
struct {kind} {{ name: String }}
impl Task for {kind} {{
    const NAME: &'static str = "{task}";
    type Output = String;
}}
async fn {task}(task: {kind}, _cx: Context) -> Result<String, TaskError> {{
    Ok(format!("Hello, {{}}!", task.name))
}}
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), rhubarb::Error> {{
    Function::new().on({task}).run().await
}}
"#
    )
}

fn type_name(task: &str) -> String {
    let capital = |word: &str| {
        let mut chars = word.chars();
        chars.next().map(|first| first.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
    };
    task.split('_').map(capital).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_of_ones_own_has_at_most_fifteen_lines() {
        let text = main("send-report");
        assert!(text.lines().count() <= 15, "{text}");
        assert!(text.contains("struct SendReport {") && text.contains("on(send_report)"), "{text}");
    }

    #[test]
    fn a_name_that_would_not_compile_is_refused() {
        for name in ["Hello", "1st", "async", "task", "test", "a b", "hello-", "a--b", "string"] {
            assert!(check(name).is_err(), "{name}");
        }
        assert!(check("hello").is_ok() && check("send-report2").is_ok());
    }
}
