//! Connects in the host form: their fields, answers and refusals.

use futures_util::future::join_all;
use jetway_protocol::host::is_derived;
use jetway_protocol::token::HostUse;
use serde_json::{Value, json};

use crate::testing::hosted::{end_ago, host_rows, hosted, id_of, is_taken, notes, with};
use crate::testing::{Harness, Hook, eventually, keyed};

#[tokio::test]
async fn the_label_is_the_same_for_each_session_of_a_key() {
    let harness = Harness::new().await;
    let other = harness.beside().await;
    let drone = harness.drone("one").await;
    other.app.fleet.refresh(&other.app.pools.housekeeping).await.unwrap();
    let first = harness.connect(&hosted("k")).await;
    let label = first.json()["subdomain"].as_str().unwrap().to_owned();
    assert!(is_derived(&label) && label.starts_with("k-"), "{label}");
    end_ago(&harness, &drone, &id_of(&first), "1 h").await;
    let second = other.connect(&hosted("k")).await;
    assert_ne!(id_of(&second), id_of(&first));
    assert_eq!(second.json()["subdomain"], json!(label), "at another controller, in another session");
    assert_ne!(harness.connect(&hosted("other")).await.json()["subdomain"], json!(label));
    let unkeyed = with(hosted("k"), "key", Value::Null);
    let (one, two) = (harness.connect(&unkeyed).await.json(), harness.connect(&unkeyed).await.json());
    assert!(one["subdomain"].as_str().unwrap().starts_with("b-"), "{one}");
    assert_ne!(one["subdomain"], two["subdomain"]);
    // It is in no row, so that the path form of the same backend is as it always was.
    assert_eq!(harness.value("select count(subdomain)::text from backends").await, "0");
    let path = harness.connect(&keyed("k")).await.json();
    assert_eq!((&path["subdomain"], &path["urls"]), (&Value::Null, &Value::Null));
    assert!(path["url"].as_str().unwrap().starts_with("http://localhost:9090/"), "{path}");
}

#[tokio::test]
async fn urls_enter_by_tokens_that_are_bound_to_their_hosts() {
    let hook = Hook::start().await;
    let harness = Harness::asking(&hook.url).await;
    harness.drone_with("one", |drone| drone.cluster = Some("example.com".parse().unwrap())).await;
    let mut body = with(notes(hosted("k")), "cluster", json!("example.com"));
    body["spawn_config"]["executable"]["ports"] = json!({ "debug": 9229 });
    (body["user"], body["hosts"]) = (json!("ann"), json!(["doc.customer.example"]));
    let answers = [harness.connect(&body).await.json(), harness.connect(&body).await.json()];
    let sealer = &harness.app.urls.sealer;
    for answer in &answers {
        assert_eq!(answer["subdomain"], "notes", "{answer}");
        let urls = answer["urls"].as_object().unwrap();
        let hosts: Vec<&String> = urls.keys().collect();
        assert_eq!(hosts, ["debug--notes.example.com", "doc.customer.example"]);
        let all = urls.iter().map(|(host, url)| (host.as_str(), url));
        for (host, url) in all.chain([("notes.example.com", &answer["url"])]) {
            let token = url.as_str().unwrap().strip_prefix(&format!("https://{host}/.jetway/enter?token="));
            let base = if host == "doc.customer.example" { host } else { "notes.example.com" };
            let opened = sealer.open_on(HostUse::Enter, base, token.unwrap()).unwrap();
            assert_eq!(opened.user, sealer.user_tag(Some("ann")));
            assert_eq!(opened.content.backend.as_str(), answer["backend_id"]);
            let now = jetway_protocol::time::UnixMicros::now().millis().unsigned_abs() / 1000;
            let seconds = opened.content.expires_at.unwrap() - now;
            assert!((290..=300).contains(&seconds), "{seconds}");
        }
        let bearer = answer["token"].as_str().unwrap();
        let opened = sealer.open_on(HostUse::Bearer, "notes.example.com", bearer).unwrap();
        assert_eq!(opened.content.expires_at, None, "it ends with the backend");
        assert!(answer["secret_token"].is_string());
    }
}

#[tokio::test]
async fn bad_input_of_the_host_form_is_refused() {
    let harness = Harness::new().await;
    harness.drone("one").await;
    let derived = format!("k-{}", "a".repeat(26));
    let port = |body: Value, name: &str| {
        let mut body = body;
        body["spawn_config"]["executable"]["ports"] = json!({ name: 9229 });
        body
    };
    for (body, code) in [
        (with(keyed("k"), "url_form", json!("subdomain")), "invalid_request"),
        (with(keyed("k"), "return_url", json!("https://a.example/")), "invalid_request"),
        (with(keyed("k"), "hosts", json!(["doc.customer.example"])), "invalid_request"),
        (with(keyed("k"), "subdomain", json!(derived)), "invalid_request"),
        (with(keyed("k"), "subdomain", json!(format!("debug--{derived}"))), "invalid_request"),
        (with(hosted("k"), "return_url", json!("/open")), "invalid_request"),
        (with(hosted("k"), "return_url", json!("https://u:p@a.example/")), "invalid_request"),
        (with(notes(hosted("k")), "return_url", json!("http://notes.localhost:9090/")), "invalid_request"),
        (with(hosted("k"), "hosts", json!(["doc.customer.example"])), "invalid_request"),
        (with(hosted("k"), "hosts", json!(["a.localhost"])), "invalid_request"),
        (with(hosted("k"), "hosts", json!("doc.customer.example")), "invalid_request"),
        (with(hosted("k"), "allowed_origins", json!(["null"])), "invalid_request"),
        (with(hosted("k"), "subdomain", json!("a".repeat(47))), "invalid_request"),
        (with(hosted("k"), "subdomain", json!("a--b")), "invalid_request"),
        (with(hosted("k"), "subdomain", json!(derived)), "invalid_request"),
        (port(hosted("k"), "db"), "invalid_request"),
        (with(hosted("k"), "cluster", json!("example.com:8080")), "host_form_needs_https"),
    ] {
        let answer = harness.connect(&body).await;
        assert_eq!(answer.outcome(), (422, code.into()), "{body}");
    }
    let mut with_static = hosted("k");
    with_static["spawn_config"]["use_static_token"] = json!(true);
    assert_eq!(harness.connect(&with_static).await.status, 422);
    assert_eq!((harness.rows().await, host_rows(&harness).await), (0, String::new()));
    // In the path form each of these is as it was.
    for body in [
        with(keyed("a"), "allowed_origins", json!(["null"])),
        with(keyed("b"), "subdomain", json!("a".repeat(47))),
        with(keyed("c"), "subdomain", json!("a--b")),
        port(keyed("d"), "db"),
        with(
            with(with(keyed("e"), "url_form", Value::Null), "return_url", Value::Null),
            "hosts",
            Value::Null,
        ),
    ] {
        assert_eq!(harness.connect(&body).await.status, 200, "{body}");
    }
    assert_eq!(host_rows(&harness).await, "", "the path form writes none");
}

#[tokio::test]
async fn a_live_session_is_joined_in_the_host_form_if_it_can_be() {
    let harness = Harness::new().await;
    harness.drone("one").await;
    for (key, field, value) in
        [("long", "subdomain", json!("a".repeat(47))), ("dashes", "subdomain", json!("a--b"))]
    {
        assert_eq!(harness.connect(&with(keyed(key), field, value)).await.status, 200);
        let refused = harness.connect(&hosted(key)).await;
        assert_eq!(refused.outcome(), (422, "invalid_request".into()));
        assert!(refused.text().contains("subdomain"), "{}", refused.text());
    }
    let mut with_static = keyed("static");
    with_static["spawn_config"]["use_static_token"] = json!(true);
    assert_eq!(harness.connect(&with_static).await.status, 200);
    assert_eq!(harness.connect(&hosted("static")).await.outcome(), (422, "invalid_request".into()));
    // Its ports are those that it was started with; one of two characters has no host.
    let mut with_ports = keyed("ports");
    with_ports["spawn_config"]["executable"]["ports"] = json!({ "debug": 9229, "db": 5432 });
    let id = id_of(&harness.connect(&with_ports).await);
    let joined = harness.connect(&hosted("ports")).await;
    assert_eq!(id_of(&joined), id);
    let urls = joined.json()["urls"].clone();
    let label = joined.json()["subdomain"].as_str().unwrap().to_owned();
    assert_eq!(
        urls.as_object().unwrap().keys().collect::<Vec<_>>(),
        [&format!("debug--{label}.localhost:9090")]
    );
}

#[tokio::test]
async fn a_crowd_that_names_a_host_asks_its_hook_once() {
    let hook = Hook::start().await;
    let harness = Harness::asking(&hook.url).await;
    let drone = harness.drone_with("one", |drone| drone.cluster = Some("example.com".parse().unwrap())).await;
    let body = |key: &str| {
        let body = with(hosted(key), "cluster", json!("example.com"));
        with(body, "hosts", json!(["doc.customer.example"]))
    };
    let bodies = vec![body("k"); 64];
    let answers = join_all(bodies.iter().map(|body| harness.connect(body))).await;
    let id = id_of(&answers[0]);
    assert!(answers.iter().all(|answer| id_of(answer) == id));
    assert_eq!(hook.questions(), 1);
    is_taken(&harness.connect(&body("other")).await);
    // A live key that has the host asks no more, also where nothing is remembered.
    harness.app.connects.hosts.known.forget_all();
    hook.says(404);
    assert_eq!(harness.connect(&body("k")).await.status, 200);
    assert_eq!(hook.questions(), 1);
    let refused = harness.connect(&with(body("k"), "hosts", json!(["more.customer.example"]))).await;
    assert_eq!(refused.outcome(), (422, "invalid_request".into()));
    assert!(refused.text().contains("more.customer.example"), "{}", refused.text());
    hook.says(500);
    let unclear = harness.connect(&with(body("k"), "hosts", json!(["more.customer.example"]))).await;
    assert_eq!(unclear.outcome(), (503, "busy".into()));
    assert!(unclear.json()["retry_after_ms"].is_number());
    hook.says(200);
    let added = harness.connect(&with(body("k"), "hosts", json!(["more.customer.example"]))).await;
    assert_eq!(id_of(&added), id);
    end_ago(&harness, &drone, &id, "1 h").await;
    let more = with(body("other"), "hosts", json!(["more.customer.example"]));
    is_taken(&harness.connect(&more).await);
}

#[tokio::test]
async fn further_hosts_are_none_of_any_cluster() {
    let hook = Hook::start().await;
    let harness = Harness::asking(&hook.url).await;
    for (name, cluster) in [("one", "example.com"), ("two", "other.example")] {
        harness.drone_with(name, |drone| drone.cluster = Some(cluster.parse().unwrap())).await;
    }
    for host in ["example.com", "a.example.com", "a.other.example", "a.localhost"] {
        let body = with(with(hosted("k"), "cluster", json!("example.com")), "hosts", json!([host]));
        assert_eq!(harness.connect(&body).await.outcome(), (422, "invalid_request".into()), "{host}");
    }
    // A port's name before a customer's host is just another name.
    let of = |key: &str, host: &str| {
        with(with(hosted(key), "cluster", json!("example.com")), "hosts", json!([host]))
    };
    assert_eq!(harness.connect(&of("a", "doc.customer.example")).await.status, 200);
    assert_eq!(harness.connect(&of("b", "team--doc.customer.example")).await.status, 200);
    eventually("questions", async || hook.questions(), |questions| *questions == 2).await;
}
