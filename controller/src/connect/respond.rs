//! What a connect answers: Plane's fields, ours beside them, and where its milliseconds went.

use std::collections::BTreeMap;

use http::HeaderValue;
use jetway_api::connect::ConnectResponse;
use jetway_protocol::grant::Grant;
use jetway_protocol::hint::Hint;
use jetway_protocol::host::PORT_SEPARATOR;
use jetway_protocol::ids::{BackendId, ClusterName, FencingToken, GrantId, Subdomain};
use jetway_protocol::status::Status;
use jetway_protocol::time::UnixMicros;
use jetway_protocol::timeline::{Stage, StageName};

use super::form::has_host;
use super::session_hosts::Hosted;
use crate::db::drones::DroneRef;
use crate::urls::Urls;

const DESCRIPTION_CHARS_MAX: usize = 100;

/// Everything an answer is made of.
#[derive(Debug, Clone)]
pub struct Connected {
    pub id: BackendId,
    pub fencing_token: FencingToken,
    pub spawned: bool,
    pub status: Status,
    pub cluster: ClusterName,
    pub subdomain: Option<Subdomain>,
    pub drone: DroneRef,
    pub grant: Grant,
    /// False: the URL is good, but the drone has not confirmed it yet.
    pub drone_answered: bool,
    /// What holds its start up.
    pub hint: Option<Hint>,
    /// `None`: the path form.
    pub hosted: Option<Hosted>,
}

/// What the caller is told of it.
pub fn response(urls: &Urls, connected: &Connected) -> ConnectResponse {
    let Connected { id, fencing_token, cluster, subdomain, drone, grant, .. } = connected;
    let (url, token, subdomain, more_urls) = match &connected.hosted {
        Some(hosted) => {
            let (url, token, more) = host_urls(urls, connected, hosted);
            (url, token, Some(&hosted.hosts.label), Some(more))
        }
        None => {
            let token = urls.token(id, *fencing_token, drone.id, &drone.advertise, grant.id);
            let host = match subdomain {
                Some(subdomain) => format!("{subdomain}.{cluster}"),
                None => cluster.to_string(),
            };
            (format!("{}://{host}/{token}/", cluster.scheme()), token, subdomain.as_ref(), None)
        }
    };
    ConnectResponse {
        url,
        token,
        urls: more_urls,
        spawned: connected.spawned,
        status: connected.status,
        subdomain: subdomain.cloned(),
        secret_token: (grant.id != GrantId::STATIC).then(|| grant.secret.clone()),
        status_url: urls.status_url(id),
        drone: connected.spawned.then(|| drone.name.to_string()),
        fencing_token: *fencing_token,
        drone_answered: connected.drone_answered,
        hint: connected.hint.clone(),
        backend_id: id.clone(),
    }
}

/// The URL, the token for clients without cookies, and the URLs of ports and further hosts.
fn host_urls(
    urls: &Urls,
    connected: &Connected,
    hosted: &Hosted,
) -> (String, String, BTreeMap<String, String>) {
    let Hosted { hosts, ports } = hosted;
    let Connected { id, fencing_token, drone, grant, .. } = connected;
    let tokens = urls.of_hosts(id, *fencing_token, drone.id, &drone.advertise, grant);
    let (scheme, base) = (hosts.cluster.scheme(), hosts.base());
    // A port's host shares the label's tokens; a further host has its own.
    let of_ports = ports.iter().filter(|port| has_host(port.as_str())).map(|port| {
        let host = format!("{port}{PORT_SEPARATOR}{base}");
        let url = tokens.entering(scheme, &host, &base);
        (host, url)
    });
    let of_others = hosts.others.iter().map(|host| {
        let host = host.as_str();
        (host.to_owned(), tokens.entering(scheme, host, host))
    });
    let more = of_ports.chain(of_others).collect();
    (tokens.entering(scheme, &base, &base), tokens.bearer(&base), more)
}

/// Measures the stages that the controller owns.
#[derive(Debug, Clone)]
pub struct Stopwatch {
    lap: UnixMicros,
    pub stages: Vec<Stage>,
}

impl Stopwatch {
    pub fn started() -> Self {
        Self { lap: UnixMicros::now(), stages: Vec::new() }
    }

    /// The stage that ends now; the next one begins.
    pub fn lap(&mut self, stage: StageName) {
        let now = UnixMicros::now();
        self.stages.push(Stage {
            stage,
            start: self.lap,
            length_us: now.since(self.lap),
            note: String::new(),
        });
        self.lap = now;
    }

    /// A refused attempt is measured anew, from where it began.
    pub fn restart_at(&mut self, stages: usize) {
        if let Some(stage) = self.stages.get(stages) {
            self.lap = stage.start;
        }
        self.stages.truncate(stages);
    }

    /// Stages that the drone has measured and this does not have.
    pub fn add(&mut self, others: &[Stage]) {
        for other in others {
            if !self.stages.iter().any(|stage| stage.stage == other.stage) {
                self.stages.push(other.clone());
            }
        }
    }

    /// `Server-Timing`, as W3C has it: `placed;dur=1.25`, in milliseconds. Of the claim it says the tier that served it:
    /// `claimed;desc="parked";dur=7.1`.
    pub fn server_timing(&self) -> Option<HeaderValue> {
        let entries: Vec<String> = self
            .stages
            .iter()
            .map(|stage| {
                let (ms, us) = (stage.length_us / 1000, stage.length_us % 1000);
                format!("{}{};dur={ms}.{us:03}", stage.stage.as_str(), description(stage))
            })
            .collect();
        if entries.is_empty() { None } else { HeaderValue::from_str(&entries.join(", ")).ok() }
    }
}

/// The tier, and perhaps why no better one: as much of the note as a quoted string may hold.
fn description(stage: &Stage) -> String {
    if stage.stage != StageName::Claimed || stage.note.is_empty() {
        return String::new();
    }
    let fine = |c: &char| (c.is_ascii_graphic() || *c == ' ') && !matches!(c, '"' | '\\');
    format!(";desc=\"{}\"", stage.note.chars().filter(fine).take(DESCRIPTION_CHARS_MAX).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_timing_reads_as_specified() {
        let stage = |stage, length_us| Stage { stage, start: UnixMicros(0), length_us, note: String::new() };
        let mut watch = Stopwatch::started();
        assert_eq!(watch.server_timing(), None);
        watch.stages = vec![stage(StageName::Asked, 250), stage(StageName::Placed, 1_200_007)];
        watch.add(&[stage(StageName::Asked, 1), stage(StageName::FirstByte, 1000)]);
        assert_eq!(
            watch.server_timing().unwrap(),
            "asked;dur=0.250, placed;dur=1200.007, first_byte;dur=1.000"
        );
        let note = "sandbox: a mount \"depends\" on the key\n".to_owned();
        watch.stages = vec![Stage { note, ..stage(StageName::Claimed, 7100) }];
        assert_eq!(
            watch.server_timing().unwrap(),
            "claimed;desc=\"sandbox: a mount depends on the key\";dur=7.100"
        );
    }
}
