//! The document against the router, the published page and the types it speaks of.

use std::collections::{BTreeMap, BTreeSet};

use jetway_api::Code;
use jetway_api::connect::ConnectRequest;
use serde_json::{Value, json};

use crate::connect::validate;
use crate::testing::{Harness, request};

async fn document() -> Value {
    let harness = Harness::new().await;
    let answer = harness.get("/openapi.json").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    answer.json()
}

/// Each operation by its method and path.
fn operations(document: &Value) -> BTreeMap<String, &Value> {
    let mut found = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            found.insert(format!("{} {path}", method.to_uppercase()), operation);
        }
    }
    found
}

/// The first column of the table of routes in docs/api.md.
fn published() -> BTreeSet<String> {
    let page = include_str!("../../../docs/api.md");
    let table = page.split("\n## Routes\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let cells = table.trim().lines().skip(2).map(|row| row.split('|').nth(1).unwrap());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[tokio::test]
async fn it_has_each_route_that_the_page_lists() {
    let document = document().await;
    let ours: BTreeSet<String> = operations(&document).into_keys().collect();
    assert_eq!(ours, published());
    // A route that goes around the macro would be in neither.
    let router = include_str!("mod.rs").split("#[cfg(test)]\nmod tests").next().unwrap();
    assert!(!router.contains(".route(\""), "{router}");
}

#[tokio::test]
async fn each_operation_is_a_route_of_the_router() {
    let harness = Harness::new().await;
    for name in operations(&document().await).keys() {
        let (method, path) = name.split_once(' ').unwrap();
        let path = path.replace("{cluster}", "c").replace("{drone}", "d").replace(['{', '}'], "");
        let answer = harness.send(request(method, &path, "{}")).await;
        let is_refused = matches!(answer.status, 404 | 405)
            && ["route_not_found", "method_not_allowed"].iter().any(|code| answer.text().contains(code));
        assert!(!is_refused, "{name}: {}", answer.text());
    }
}

#[tokio::test]
async fn each_answer_is_described_and_each_code_has_its_status() {
    let document = document().await;
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["info"]["license"]["name"].as_str().is_some_and(|name| !name.is_empty()));
    let codes: BTreeMap<&str, u16> =
        Code::ALL.iter().map(|code| (code.as_str(), code.http_status())).collect();
    for (name, operation) in operations(&document) {
        assert!(operation["operationId"].is_string() && operation["tags"].is_array(), "{name}");
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with('2')), "{name}");
        for (status, response) in responses {
            let description = response["description"].as_str().unwrap_or_default();
            assert!(!description.is_empty(), "{name} {status}");
            if status.starts_with('2') {
                continue;
            }
            let schema = &response["content"]["application/json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/Error", "{name} {status}");
            let named: Vec<&str> = description.split('`').skip(1).step_by(2).collect();
            let named: Vec<u16> = named.iter().filter_map(|word| codes.get(word).copied()).collect();
            assert!(!named.is_empty(), "{name} {status} names no code");
            assert!(named.iter().all(|named| named.to_string() == *status), "{name} {status}: {description}");
        }
        let is_ctrl = name.contains(" /ctrl/");
        assert_eq!(operation["security"].is_array(), is_ctrl, "{name}");
        assert_eq!(responses.contains_key("401"), is_ctrl, "{name}");
    }
    let ids: BTreeSet<_> = operations(&document).values().map(|one| one["operationId"].to_string()).collect();
    assert_eq!(ids.len(), operations(&document).len(), "each has a name of its own");
}

#[tokio::test]
async fn each_reference_leads_to_a_schema() {
    fn references(of: &Value, found: &mut BTreeSet<String>) {
        match of {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let document = document().await;
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 30, "{found:?}");
    for reference in found {
        let schema = document.pointer(reference.trim_start_matches('#'));
        assert!(schema.is_some_and(Value::is_object), "{reference}");
    }
}

/// The examples of a request and of an answer are read by their types.
#[tokio::test]
async fn examples_parse() {
    let document = document().await;
    let example =
        &document["paths"]["/ctrl/connect"]["post"]["requestBody"]["content"]["application/json"]["example"];
    let request: ConnectRequest = serde_json::from_value(example.clone()).unwrap();
    assert!(validate::check(request).is_ok());
    let answers = &document["paths"]["/ctrl/connect"]["post"]["responses"];
    let answer = answers["200"]["content"]["application/json"]["example"].clone();
    serde_json::from_value::<jetway_api::connect::ConnectResponse>(answer).unwrap();
}

/// A request that has the property, within its limits but for this one.
fn connect_with(schema: &str, property: &str, value: Value) -> Value {
    let mut body = json!({
        "key": { "name": "k" }, "wait": "ready",
        "spawn_config": { "executable": { "image": "app", "hot": {}, "resource_limits": {} } },
    });
    let place = match schema {
        "ConnectRequest" => "",
        "SpawnConfig" => "/spawn_config",
        "Executable" => "/spawn_config/executable",
        "ResourceLimits" => "/spawn_config/executable/resource_limits",
        "Hot" => "/spawn_config/executable/hot",
        other => panic!("{other} has limits: where does it stand in a connect?"),
    };
    body.pointer_mut(place).unwrap()[property] = value;
    body
}

/// The limits stand twice: in the schema, and in the check. A value at a limit is taken, and one
/// beyond it refused by its name.
#[tokio::test]
async fn limits_are_those_that_are_checked() {
    let document = document().await;
    let mut seen = 0;
    for schema in ["ConnectRequest", "SpawnConfig", "Executable", "ResourceLimits", "Hot"] {
        for (property, of) in document["components"]["schemas"][schema]["properties"].as_object().unwrap() {
            for (limit, beyond) in [("minimum", -1), ("maximum", 1)] {
                let Some(at) = of[limit].as_f64() else { continue };
                #[expect(clippy::cast_possible_truncation, reason = "limits are whole numbers below 2^53")]
                let at = at as i64;
                let check = |value: i64| {
                    let body = connect_with(schema, property, json!(value));
                    validate::check(serde_json::from_value(body).unwrap()).map(drop)
                };
                let refused = check(at + beyond).unwrap_err();
                assert!(refused.message().contains(property.as_str()), "{}", refused.message());
                // One percent of the usual period is less than the kernel takes, and refused for that.
                if let Err(refused) = check(at) {
                    assert!(!refused.message().contains("must be between"), "{}", refused.message());
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "{seen}");
}

/// The rows of docs/api.md for the fields of a connect.
#[tokio::test]
async fn the_page_has_each_field_of_a_spawn_config() {
    let page = include_str!("../../../docs/api.md");
    let document = document().await;
    let section = page.split("\n### Request\n").nth(1).unwrap().split("\n### Response\n").next().unwrap();
    let rows: BTreeSet<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| "))
        .flat_map(|row| row.split(" | ").next().unwrap_or_default().split('`').skip(1).step_by(2))
        .collect();
    for (schema, before) in [
        ("ConnectRequest", ""),
        ("KeyRequest", "key."),
        ("SpawnConfig", ""),
        ("Executable", ""),
        ("ResourceLimits", "resource_limits."),
        ("Hot", "hot."),
        ("Ready", "ready."),
    ] {
        for property in document["components"]["schemas"][schema]["properties"].as_object().unwrap().keys() {
            let name = format!("{before}{property}");
            let is_there =
                rows.contains(name.as_str()) || rows.iter().any(|row| row.starts_with(&format!("{name}.")));
            assert!(is_there, "docs/api.md has no row for {name} of {schema}");
        }
    }
}
