//! What is a name, what two names have in common, and that nothing strange gets through.

use proptest::prelude::*;

use super::*;

const HEX: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[test]
fn names_are_taken_apart() {
    for (text, registry, version, shown) in [
        ("alpine", "docker.io", "latest", "alpine:latest"),
        ("alpine:3", "docker.io", "3", "alpine:3"),
        ("team/app", "docker.io", "latest", "team/app:latest"),
        ("ghcr.io/a/b-c__d:v1.0_x", "ghcr.io", "v1.0_x", "ghcr.io/a/b-c__d:v1.0_x"),
        ("localhost:5000/a", "localhost:5000", "latest", "localhost:5000/a:latest"),
        ("localhost/a:t", "localhost", "t", "localhost/a:t"),
        ("127.0.0.1:5000/a/b:t", "127.0.0.1:5000", "t", "127.0.0.1:5000/a/b:t"),
        ("[::1]:5000/a", "[::1]:5000", "latest", "[::1]:5000/a:latest"),
        ("[fd00::1]/a:t", "[fd00::1]", "t", "[fd00::1]/a:t"),
        ("REG.example/a", "REG.example", "latest", "REG.example/a:latest"),
        ("a:5000", "docker.io", "5000", "a:5000"),
        // Its registry's address ends in the image's name: not the hub's.
        ("docker.io/reg.example/a", "docker.io", "latest", "docker.io/reg.example/a:latest"),
    ] {
        let reference = Reference::parse(text).unwrap();
        let read = (reference.registry(), reference.version(), reference.to_string());
        assert_eq!(read, (registry, version, shown.to_owned()), "{text}");
    }
}

#[test]
fn texts_that_mean_one_image_have_one_spelling() {
    let pinned = format!("alpine@sha256:{HEX}");
    let id = format!("sha256:{HEX}");
    for (texts, one) in [
        (
            vec![
                "alpine",
                "alpine:latest",
                "library/alpine",
                "docker.io/alpine",
                "docker.io/library/alpine:latest",
                "index.docker.io/library/alpine",
            ],
            "alpine:latest",
        ),
        (vec!["docker.io/team/app:1", "team/app:1", "index.docker.io/team/app:1"], "team/app:1"),
        (vec![&format!("alpine:3@sha256:{HEX}"), &pinned, &format!("library/{pinned}")], &pinned),
        (vec![HEX, &id], &id),
        (vec!["not an image"], "not an image"),
    ] {
        for text in texts {
            assert_eq!(Reference::canonical(text), one, "{text}");
        }
    }
    assert!(Reference::parse(HEX).unwrap().is_id());
    assert!(!Reference::parse(&format!("library/{HEX}")).unwrap().is_id());
}

#[test]
fn what_no_engine_takes_is_refused() {
    let [tag, name] = [129, 300].map(|length| "a".repeat(length));
    for bad in [
        "",
        "/",
        ".",
        "..",
        "a//b",
        "A",
        "Team/app",
        "reg.example/A",
        "a b",
        "../containers/x",
        "a/../b",
        "a?b=c",
        "a#b",
        "a%2fb",
        "a:",
        "a@",
        "a@x",
        "a:b:c",
        "a:b:c/d",
        "a:-t",
        "a:.t",
        "-a",
        "a-",
        "_a",
        "a..b",
        "a._b",
        "a-.b",
        "a___b",
        "a/",
        "/a",
        "sha256:abc",
        "a\nb",
        "é",
        "x:y/z",
        "reg.example:/a",
        "reg-.example/a",
        "-reg.example/a",
        "reg..example/a",
        "[::g]/a",
        "[::1/a",
        "http://reg.example/a",
        &format!("a:{tag}"),
        &name,
        &format!("reg.example/{name}"),
        &format!("a@md5:{HEX}"),
        "a@sha256:abc",
        &format!("a@sha256:{}", HEX.to_uppercase()),
        &format!("a@sha512:{HEX}"),
    ] {
        assert!(Reference::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_refusal_says_what_to_change() {
    for (bad, says) in [
        ("Team/app", "lower case"),
        ("a:", "a tag has"),
        ("a@sha256:12", "a digest is"),
        ("sha256:12", "an image's id has"),
        ("a._b", "joined by"),
    ] {
        let error = Reference::parse(bad).unwrap_err().to_string();
        assert!(error.contains(bad) && error.contains(says), "{error}");
    }
}

/// Names by the grammar, and texts near it.
fn any_text() -> impl Strategy<Value = String> {
    let component = "[a-z0-9]{1,3}((\\.|_|__|-{1,3})[a-z0-9]{1,3}){0,2}";
    let registry =
        "((localhost|docker\\.io|index\\.docker\\.io|[a-zA-Z0-9]{1,3}\\.[a-z]{2}|library)(:[0-9]{1,5})?/)?";
    let version = "(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,4})?(@sha256:[0-9a-f]{64})?";
    prop_oneof![
        4 => proptest::string::string_regex(&format!("{registry}{component}(/{component}){{0,2}}{version}")).unwrap(),
        2 => "[aA./:@_-]{0,12}",
        1 => "(library/|docker\\.io/)?(sha256|[0-9a-f]{64})(:[0-9a-f]{3,64})?",
        1 => "\\PC{0,40}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_is_shown_means_the_same_and_is_safe_in_a_path(text in any_text()) {
        if let Ok(reference) = Reference::parse(&text) {
            let shown = reference.to_string();
            prop_assert_eq!(Reference::parse(&shown), Ok(reference.clone()));
            prop_assert!(shown.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/:@[]".contains(&b)));
            prop_assert!(shown.split('/').all(|part| !matches!(part, "" | "." | "..")));
            prop_assert!(shown.len() <= NAME_BYTES_MAX + 1 + TAG_BYTES_MAX + 1 + 135);
            // Name and version are passed to the engine one by one.
            if !reference.is_id() {
                prop_assert!(Reference::parse(reference.name()).is_ok_and(|bare| !bare.is_id()));
            }
        }
    }

    /// The grammar once more, as expressions a reader can hold beside the project's own.
    #[test]
    fn names_by_the_grammar_are_accepted(
        registry in prop_oneof!["", "([a-zA-Z0-9]([a-zA-Z0-9-]{0,3}[a-zA-Z0-9])?\\.){1,2}[a-z]{2}(:[0-9]{1,5})?/"],
        path in "[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,3}){0,2}(/[a-z0-9]{1,4}((\\.|_|__|-{1,3})[a-z0-9]{1,3}){0,2}){0,2}",
        tag in prop_oneof!["", ":[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"],
        digest in prop_oneof!["", "@sha256:[0-9a-f]{64}", "@sha512:[0-9a-f]{128}"],
    ) {
        let text = format!("{registry}{path}{tag}{digest}");
        prop_assert!(Reference::parse(&text).is_ok(), "{}", text);
    }
}
