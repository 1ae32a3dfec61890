//! The hosts of one session in the host form: its label below the cluster, and customers' own
//! names. Pure.

use std::sync::Arc;

use jetway_protocol::certificates::HostName;
use jetway_protocol::host::{LabelKey, base_host};
use jetway_protocol::ids::{BackendId, ClusterName, PortName, Subdomain};
use jetway_protocol::key::Key;

use super::form::{HostForm, ReturnUrl, check_cluster, check_label};
use crate::error::{ApiError, ApiResult};
use crate::host_names;

/// Named ports of a session.
pub type Ports = Arc<[PortName]>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionHosts {
    pub cluster: ClusterName,
    pub label: Subdomain,
    /// By a caller. Else it is derived, and never another owner's.
    is_chosen: bool,
    pub others: Vec<HostName>,
}

/// The key, or the backend, that has the hosts.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    pub key: Option<&'a Key>,
    pub backend: &'a BackendId,
}

impl SessionHosts {
    pub fn new(
        labels: &LabelKey,
        form: &HostForm,
        owner: Owner<'_>,
        subdomain: Option<&Subdomain>,
        cluster: &ClusterName,
    ) -> ApiResult<Self> {
        check_cluster(cluster, &form.hosts)?;
        let label = match (subdomain, owner.key) {
            (Some(subdomain), _) => {
                check_label(subdomain)?;
                subdomain.clone()
            }
            (None, Some(key)) => labels.of_key(&key.namespace, &key.name),
            (None, None) => labels.of_backend(owner.backend),
        };
        let hosts = Self {
            cluster: cluster.clone(),
            label,
            is_chosen: subdomain.is_some(),
            others: form.hosts.clone(),
        };
        match form.return_url.as_ref().and_then(|url| hosts.host_of(url)) {
            Some(host) => Err(ApiError::invalid(format!(
                "return_url leads to {host}, the session's own host: name a page of the web app that connects"
            ))),
            None => Ok(hosts),
        }
    }

    /// Tokens of the label are bound to it. With the cluster's own port.
    pub fn base(&self) -> String {
        base_host(self.label.as_str(), &self.cluster)
    }

    /// All of them, as the table has them.
    pub fn names(&self) -> Vec<String> {
        let label = host_names::below(&self.cluster, self.label.as_str());
        std::iter::once(label).chain(self.other_names()).collect()
    }

    /// Those that another owner could have.
    pub fn contested(&self) -> Vec<String> {
        let label = self.is_chosen.then(|| host_names::below(&self.cluster, self.label.as_str()));
        label.into_iter().chain(self.other_names()).collect()
    }

    /// A label that a caller chose, and its cluster.
    pub fn chosen(&self) -> Option<(&ClusterName, &Subdomain)> {
        self.is_chosen.then_some((&self.cluster, &self.label))
    }

    /// The one that a URL leads to.
    fn host_of(&self, url: &ReturnUrl) -> Option<String> {
        let label = host_names::below(&self.cluster, self.label.as_str());
        if url.leads_to_label(&label) {
            Some(label)
        } else {
            self.other_names().find(|host| url.leads_to(host))
        }
    }

    fn other_names(&self) -> impl Iterator<Item = String> {
        self.others.iter().map(|host| host.as_str().to_owned())
    }
}

/// The parts of an answer in the host form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosted {
    pub hosts: SessionHosts,
    pub ports: Ports,
}

#[cfg(test)]
mod tests {
    use jetway_api::connect::UrlForm;

    use super::*;
    use crate::connect::form;

    fn hosts(return_url: Option<&str>, others: &[&str], subdomain: Option<&str>) -> ApiResult<SessionHosts> {
        let others: Vec<String> = others.iter().map(|&host| host.to_owned()).collect();
        let form = form::check(Some(UrlForm::Host), return_url, &others, &[]).unwrap().unwrap();
        let key = Key { name: "k".into(), namespace: "n".into(), tag: "t".into() };
        let owner = Owner { key: Some(&key), backend: &"b".parse().unwrap() };
        let subdomain = subdomain.map(|subdomain| subdomain.parse().unwrap());
        let cluster = "example.com:443".parse().unwrap();
        SessionHosts::new(&LabelKey::new([7; 32]), &form, owner, subdomain.as_ref(), &cluster)
    }

    #[test]
    fn only_a_derived_label_is_never_contested() {
        let derived = hosts(None, &["doc.customer.example"], None).unwrap();
        let label = LabelKey::new([7; 32]).of_key("n", "k");
        assert_eq!((&derived.label, derived.base()), (&label, format!("{label}.example.com:443")));
        assert_eq!(derived.names(), [format!("{label}.example.com"), "doc.customer.example".to_owned()]);
        assert_eq!((derived.contested(), derived.chosen()), (vec!["doc.customer.example".to_owned()], None));
        let chosen = hosts(None, &[], Some("notes")).unwrap();
        assert_eq!((chosen.names(), chosen.contested()), (chosen.contested(), chosen.names()));
        assert!(chosen.chosen().is_some());
        assert!(hosts(None, &[], Some("a--b")).is_err());
    }

    #[test]
    fn a_return_url_never_leads_back_to_its_session() {
        let label = LabelKey::new([7; 32]).of_key("n", "k");
        for (url, subdomain, is_loop) in [
            (format!("https://{label}.example.com/"), None, true),
            (format!("https://debug--{label}.example.com./x"), None, true),
            ("https://doc.customer.example/".to_owned(), None, true),
            ("https://team--doc.customer.example/".to_owned(), None, false),
            ("https://notes.example.com/".to_owned(), Some("notes"), true),
            ("https://notes.example.com/".to_owned(), None, false),
            ("https://app.example.com/".to_owned(), Some("notes"), false),
        ] {
            let checked = hosts(Some(&url), &["doc.customer.example"], subdomain);
            assert_eq!(checked.is_err(), is_loop, "{url}");
        }
    }
}
