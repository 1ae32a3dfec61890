//! What prose promises: file lengths, module docs, paths named in `ARCHITECTURE.md`, tests named in `SPECIFICATION.md`.

use std::path::{Path, PathBuf};

/// Lines of a source file, at most.
const LINES_MAX: usize = 400;
/// Lines of the architecture page, at most.
const ARCHITECTURE_LINES_MAX: usize = 200;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests are one folder below the root")
        .to_owned()
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" && name != "node_modules" {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn files_are_short_and_open_with_what_they_are_for() {
    let (root, mut files, mut faults) = (root(), Vec::new(), Vec::new());
    sources(&root, &mut files);
    assert!(files.len() > 50, "the sources were found");
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source file");
        let name = file.strip_prefix(&root).expect("below the root").display().to_string();
        if text.lines().count() > LINES_MAX {
            faults.push(format!("{name} has {} lines; at most {LINES_MAX}", text.lines().count()));
        }
        if !text.starts_with("//!") {
            faults.push(format!("{name} does not open with a //! comment"));
        }
        if text.contains(concat!("#[", "allow(")) || text.contains(concat!("#[", "ignore")) {
            faults.push(format!("{name} silences a lint or ignores a test"));
        }
        if text.contains(concat!("TO", "DO"))
            || text.contains(concat!("FIX", "ME"))
            || text.contains(concat!("todo", "!("))
        {
            faults.push(format!("{name} has something unfinished"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What stands between backticks on a page.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn paths_named_in_the_architecture_exist() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let lines = text.lines().count();
    assert!(lines <= ARCHITECTURE_LINES_MAX, "ARCHITECTURE.md has {lines} lines");
    let missing: Vec<_> = quoted(&text)
        .into_iter()
        .filter(|word| word.contains('/') && (word.ends_with(".rs") || word.ends_with('/')))
        .filter(|word| !word.starts_with('/') && !root().join(word).exists())
        .collect();
    assert!(missing.is_empty(), "named in ARCHITECTURE.md, but not there: {missing:?}");
}

#[test]
fn tests_named_in_the_specification_exist() {
    let text = std::fs::read_to_string(root().join("SPECIFICATION.md")).expect("SPECIFICATION.md");
    let mut files = Vec::new();
    sources(&root(), &mut files);
    let code: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap_or_default()).collect();
    let named: Vec<_> = quoted(&text).into_iter().filter(|word| word.contains("::")).collect();
    assert!(named.len() > 20, "the specification names its tests");
    let missing: Vec<_> = named
        .iter()
        .filter(|word| word.rsplit("::").next().is_some_and(|name| !code.contains(&format!("fn {name}("))))
        .collect();
    assert!(missing.is_empty(), "named in SPECIFICATION.md, but not there: {missing:?}");
}

#[test]
fn what_is_no_program_prints_nothing() {
    let (root, mut faults) = (root(), Vec::new());
    for library in ["protocol", "service", "controller", "drone", "proxy"] {
        let mut files = Vec::new();
        sources(&root.join(library).join("src"), &mut files);
        assert!(!files.is_empty(), "{library} has sources");
        // The last line of a process that cannot start is said there, for all of them.
        files.retain(|file| !file.ends_with("service/src/telemetry.rs"));
        // Tests tell their figures.
        files.retain(|file| !file.to_string_lossy().ends_with("_tests.rs"));
        for file in files {
            let text = std::fs::read_to_string(&file).expect("a source file");
            let prints =
                |line: &str| ["print!(", "println!(", "dbg!("].iter().any(|sign| line.contains(sign));
            let lines = text.lines().filter(|line| prints(line) && !line.trim_start().starts_with("//"));
            faults.extend(lines.map(|line| format!("{}: {}", file.display(), line.trim())));
        }
    }
    assert!(faults.is_empty(), "a library logs: {}", faults.join("\n"));
}
