//! Helpers that tests of the host form share.

use jetway_protocol::ids::BackendId;
use jetway_protocol::status::Status;
use serde_json::{Value, json};

use super::{Answer, FakeDrone, Harness, keyed};

/// A connect in the host form, with the least that starts something.
pub fn hosted(key: &str) -> Value {
    with(keyed(key), "url_form", json!("host"))
}

/// The same with a field, at the place where it belongs.
pub fn with(mut body: Value, field: &str, value: Value) -> Value {
    let of_spawn = matches!(field, "subdomain" | "cluster");
    let place = if of_spawn { &mut body["spawn_config"] } else { &mut body };
    place[field] = value;
    body
}

/// Under the subdomain that all keys want.
pub fn notes(body: Value) -> Value {
    with(body, "subdomain", json!("notes"))
}

pub fn id_of(answer: &Answer) -> BackendId {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["backend_id"].as_str().unwrap().parse().unwrap()
}

pub fn is_taken(answer: &Answer) {
    assert_eq!(answer.outcome(), (409, "host_taken".into()), "{}", answer.text());
}

/// The session ends, `age` ago as Postgres counts.
pub async fn end_ago(harness: &Harness, drone: &FakeDrone, id: &BackendId, age: &str) {
    drone.advance(id, Status::Terminated);
    harness.report(drone).await;
    let sql = "update backends set ended_at = now() - $2::text::interval where id = $1";
    let done = sqlx::query(sql).bind(id.as_str()).bind(age).execute(&harness.sql).await.unwrap();
    assert_eq!(done.rows_affected(), 1);
}

/// The rows of hosts: label, key, backend, return URL.
pub async fn host_rows(harness: &Harness) -> String {
    let row = "concat_ws(' ', split_part(host, '.', 1), key_name, backend, return_url)";
    let sql = format!("select coalesce(string_agg({row}, ', ' order by host), '') from hosts");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&harness.sql).await.unwrap()
}
