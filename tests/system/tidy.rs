//! What prose promises: file lengths, module docs, paths named in `ARCHITECTURE.md` and
//! `CONTRIBUTING.md`, tests named in `SPECIFICATION.md`.

use std::collections::BTreeSet;
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
fn paths_named_in_prose_exist() {
    let read = |page: &str| std::fs::read_to_string(root().join(page)).expect("a page");
    let lines = read("ARCHITECTURE.md").lines().count();
    assert!(lines <= ARCHITECTURE_LINES_MAX, "ARCHITECTURE.md has {lines} lines");
    let missing: Vec<_> = ["ARCHITECTURE.md", "CONTRIBUTING.md"]
        .into_iter()
        .flat_map(|page| quoted(&read(page)))
        .filter(|word| word.contains('/') && (word.ends_with(".rs") || word.ends_with('/')))
        .filter(|word| !word.starts_with('/') && !word.contains('*') && !root().join(word).exists())
        .collect();
    assert!(missing.is_empty(), "named in ARCHITECTURE.md or CONTRIBUTING.md, but not there: {missing:?}");
}

/// The name that a line of source gives to a function.
fn function(line: &str) -> Option<&str> {
    let words = ["pub ", "pub(crate) ", "pub(super) ", "async "];
    let line = words.iter().fold(line, |line, word| line.strip_prefix(word).unwrap_or(line));
    line.strip_prefix("fn ")?.split(['(', '<']).next()
}

/// The functions of a source file that a test runner runs: an attribute says so, and the next
/// function has it.
fn test_functions(source: &str) -> BTreeSet<&str> {
    let (mut found, mut is_test) = (BTreeSet::new(), false);
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[test]")
            || line.starts_with("#[tokio::test]")
            || line.starts_with("#[tokio::test(")
        {
            is_test = true;
        } else if let Some(name) = function(line)
            && std::mem::take(&mut is_test)
        {
            found.insert(name);
        }
    }
    found
}

/// A test program without a harness, run with the others: the manifest above it says so. Its test
/// is its `main`.
fn is_test_program(path: &Path) -> bool {
    let Some((directory, file)) = path.parent().zip(path.file_name()) else { return false };
    let Some((package, directory)) = directory.parent().zip(directory.file_name()) else { return false };
    let manifest = std::fs::read_to_string(package.join("Cargo.toml")).unwrap_or_default();
    let named = format!("path = \"{}/{}\"", directory.display(), file.display());
    manifest.split("\n[").any(|section| {
        section.contains(&named) && section.contains("harness = false") && !section.contains("test = false")
    })
}

/// What is wrong with `path::name` as the name of a test.
fn no_test(word: &str) -> Option<&'static str> {
    let Some((path, name)) = word.rsplit_once("::") else { return Some("names no function") };
    let path = root().join(path);
    let Ok(source) = std::fs::read_to_string(&path) else { return Some("names no file") };
    let is_test = test_functions(&source).contains(name) || name == "main" && is_test_program(&path);
    (!is_test).then_some("is no test of that file")
}

/// The rows of the tables whose last column is `test`: where each stands, and what it has in that
/// column.
fn promises(page: &str) -> Vec<(usize, &str)> {
    let (mut rows, mut table) = (Vec::new(), None);
    for (number, line) in page.lines().enumerate() {
        let Some(row) = line.strip_prefix('|').and_then(|row| row.strip_suffix('|')) else {
            table = None;
            continue;
        };
        let last = row.rsplit('|').next().unwrap_or_default().trim();
        match table {
            None => table = Some(last == "test"),
            Some(true) if !last.starts_with("---") => rows.push((number + 1, last)),
            Some(_) => {}
        }
    }
    rows
}

/// Each row names its tests as `path::function`, and may name other files that belong to them by
/// their paths.
#[test]
fn each_promise_names_tests_of_the_files_it_says() {
    let page = std::fs::read_to_string(root().join("SPECIFICATION.md")).expect("SPECIFICATION.md");
    let rows = promises(&page);
    assert!(rows.len() > 300, "the rows were found: {}", rows.len());
    let read = |page: &str| std::fs::read_to_string(root().join(page)).expect("a page");
    let others = ["docs/limits.md", "docs/faults.md"].map(read);
    let mut faults: Vec<_> = [&page]
        .into_iter()
        .chain(&others)
        .flat_map(|page| quoted(page))
        .filter(|word| word.contains("::"))
        .filter_map(|word| no_test(&word).map(|fault| format!("{word} {fault}")))
        .collect();
    for (line, cell) in rows {
        let (tests, files): (Vec<_>, Vec<_>) = quoted(cell).into_iter().partition(|word| word.contains("::"));
        if tests.is_empty() {
            faults.push(format!("line {line} names no test"));
        }
        let absent = files.into_iter().filter(|file| !root().join(file).exists());
        faults.extend(absent.map(|file| format!("line {line}: there is no {file}")));
    }
    assert!(faults.is_empty(), "SPECIFICATION.md, docs/limits.md, docs/faults.md:\n{}", faults.join("\n"));
}

#[test]
fn tests_are_told_from_other_functions_and_files() {
    let source = concat!(
        "/// In words: #[test]\nfn helper() {}\n    #[test]\n    #[expect(x)]\n    /// Why.\n    fn one() {}\n",
        "fn after() {}\n#[tokio::test(start_paused = true)]\nasync fn two(a: u8) {}\n#[tokio::testing]\nfn no() {}\n",
    );
    assert_eq!(test_functions(source), BTreeSet::from(["one", "two"]));
    let here = "tests/system/tidy.rs";
    for (word, expect) in [
        (format!("{here}::each_promise_names_tests_of_the_files_it_says"), None),
        (format!("{here}::no_test"), Some("is no test of that file")),
        (format!("{here}::main"), Some("is no test of that file")),
        (
            "tests/system/main.rs::each_promise_names_tests_of_the_files_it_says".to_owned(),
            Some("is no test of that file"),
        ),
        ("tests/system/absent.rs::a".to_owned(), Some("names no file")),
        ("tests/chaos/main.rs::main".to_owned(), None),
        ("tests/figures/main.rs::main".to_owned(), Some("is no test of that file")),
    ] {
        assert_eq!(no_test(&word), expect, "{word}");
    }
    let page = "| what | test |\n|---|---|\n| a | `x` |\n\n| what | number |\n|---|---|\n| b | 1 |\n";
    assert_eq!(promises(page), [(3, "`x`")]);
}

#[test]
fn what_is_no_program_prints_nothing() {
    let (root, mut faults) = (root(), Vec::new());
    for library in ["protocol", "api", "service", "controller", "drone", "proxy"] {
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
