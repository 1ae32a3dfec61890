//! Tables of values that the host form takes and refuses.

use super::*;

fn host_form(return_url: Option<&str>, hosts: &[&str]) -> Result<HostForm, String> {
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let checked = check(Some(UrlForm::Host), return_url, &hosts, &[]);
    checked.map(Option::unwrap).map_err(|error| error.message().to_owned())
}

#[test]
fn a_return_url_is_absolute_and_without_a_user() {
    for (given, kept) in [
        ("https://app.example.com", "https://app.example.com/"),
        ("HTTPS://App.Example.com/open?doc=1#top", "https://app.example.com/open?doc=1#top"),
        ("http://localhost:3000/ü", "http://localhost:3000/%C3%BC"),
        ("http://[::1]:3000/", "http://[::1]:3000/"),
    ] {
        assert_eq!(host_form(Some(given), &[]).unwrap().return_url.unwrap().as_str(), kept);
    }
    let long = format!("https://a.example/{}", "x".repeat(2048));
    let grows = format!("https://a.example/{}", "ü".repeat(1000));
    for bad in [
        "",
        "/open",
        "//a.example/",
        "app.example.com",
        "https:a.example",
        "https:/a.example",
        "https://",
        "ftp://a.example/",
        "javascript://a.example/%0aalert(1)",
        "https://u@a.example/",
        "https://u:p@a.example/",
        "https://:p@a.example/",
        "https://a.example/\n",
        " https://a.example/",
        "https://a b.example/",
        "https:\\\\a.example\\x://",
        "https://a.example:99999/",
        &long,
        &grows,
    ] {
        assert!(host_form(Some(bad), &[]).is_err(), "{bad:?}");
    }
}

#[test]
fn a_return_url_knows_where_it_leads() {
    for (url, leads) in [
        ("https://notes.example.com/", true),
        ("https://NOTES.example.com:8443/", true),
        ("https://notes.example.com./", true),
        ("https://debug--notes.example.com/", true),
        ("https://example.com/", false),
        ("https://my-notes.example.com/", false),
        ("https://notes.example.org/", false),
        ("https://a.notes.example.com/", false),
        ("https://a.b--notes.example.com/", false),
    ] {
        let form = host_form(Some(url), &[]).unwrap();
        assert_eq!(form.return_url.unwrap().leads_to_label("notes.example.com"), leads, "{url}");
    }
}

#[test]
fn further_hosts_are_names_of_no_cluster() {
    let eight: Vec<String> = (0..8).map(|n| format!("n{n}.customer.example")).collect();
    let eight: Vec<&str> = eight.iter().map(String::as_str).collect();
    assert_eq!(host_form(None, &eight).unwrap().hosts.len(), 8);
    let derived = format!("k-{}.customer.example", "a".repeat(26));
    for bad in [
        vec![""],
        vec!["localhost"],
        vec!["Doc.customer.example"],
        vec!["doc.customer.example."],
        vec!["doc.customer.example:443"],
        vec!["127.0.0.1"],
        vec!["*.customer.example"],
        vec!["a_b.example"],
        vec!["a.example", "a.example"],
        vec![derived.as_str()],
        [&eight[..], &["one.more.example"]].concat(),
    ] {
        assert!(host_form(None, &bad).is_err(), "{bad:?}");
    }
    let clusters: Vec<ClusterName> =
        ["example.com", "other.example:443"].iter().map(|name| name.parse().unwrap()).collect();
    for (host, is_apart) in [
        ("doc.customer.example", true),
        ("notexample.com", true),
        ("example.com", false),
        ("a.example.com", false),
        ("a.b.other.example", false),
    ] {
        let hosts = [host.parse().unwrap()];
        assert_eq!(check_apart(&hosts, &clusters).is_ok(), is_apart, "{host}");
    }
}

#[test]
fn what_belongs_to_the_host_form_is_refused_without_it() {
    let hosts = ["a.example".to_owned()];
    for form in [None, Some(UrlForm::Path)] {
        assert_eq!(check(form, None, &[], &["null".to_owned()]).unwrap(), None);
        assert!(check(form, Some("https://a.example/"), &[], &[]).is_err());
        assert!(check(form, None, &hosts, &[]).is_err());
    }
    let null = check(Some(UrlForm::Host), None, &[], &["https://a.example".to_owned(), "null".to_owned()]);
    assert!(null.unwrap_err().message().contains("null"));
}

#[test]
fn the_cookie_needs_tls_or_this_machine() {
    let host: [HostName; 1] = ["doc.customer.example".parse().unwrap()];
    for (cluster, alone, with_hosts) in [
        ("example.com", None, None),
        ("example.com:443", None, None),
        ("localhost:9090", None, Some("host_form_needs_https")),
        ("a.localhost:9090", None, Some("host_form_needs_https")),
        ("example.com:8080", Some("host_form_needs_https"), Some("host_form_needs_https")),
        ("notlocalhost:80", Some("host_form_needs_https"), Some("host_form_needs_https")),
        ("127.0.0.1:9090", Some("invalid_request"), Some("invalid_request")),
        ("10.0.0.1", Some("invalid_request"), Some("invalid_request")),
    ] {
        let cluster: ClusterName = cluster.parse().unwrap();
        let code = |hosts| check_cluster(&cluster, hosts).err().map(|error| error.code().as_str());
        assert_eq!((code(&[]), code(&host)), (alone, with_hosts), "{cluster}");
    }
}

#[test]
fn a_spec_leaves_room_for_the_ports_hosts() {
    let spec = |subdomain: &str, port: &str| {
        let mut spec = BackendSpec::of(jetway_protocol::spec::Executable::of_image("app"));
        spec.subdomain = Some(subdomain.parse().unwrap());
        let number = jetway_protocol::spec::Port { port: 1, protocol: Default::default() };
        spec.executable.ports.insert(port.parse().unwrap(), number);
        spec
    };
    let (fits, long) = ("a".repeat(46), "a".repeat(47));
    for (subdomain, port, is_fine) in [
        (fits.as_str(), "d", true),
        ("notes", "debug", true),
        ("notes", "db", false),
        ("notes", "xn", false),
        ("debug--notes", "debug", false),
        (long.as_str(), "debug", false),
    ] {
        assert_eq!(check_spec(&spec(subdomain, port)).is_ok(), is_fine, "{subdomain} {port}");
    }
    let mut with_static = spec("notes", "debug");
    with_static.use_static_token = true;
    assert!(check_spec(&with_static).unwrap_err().message().contains("use_static_token"));
}
