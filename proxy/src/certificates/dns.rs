//! A small DNS server (RFC 1035) for what issuers ask for: the texts of `_acme-challenge.<host>`, which an operator delegates to the
//! proxies by an NS record. It has no other names, and refuses to be asked for them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode};
use hickory_server::proto::rr::rdata::{SOA, TXT};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo, Server};
use hickory_server::zone_handler::MessageResponseBuilder;
use jetway_protocol::certificates::HostName;
use jetway_service::lifecycle::Lifecycle;
use tokio::net::{TcpListener, UdpSocket};

use super::challenges::Challenges;
use crate::StartError;

/// The label before a host (RFC 8555 §8.4).
const LABEL: &str = "_acme-challenge.";
/// A TCP connection without a question lives as long.
const TCP_IDLE: Duration = Duration::from_secs(5);
/// Answers that wait on a TCP connection.
const TCP_ANSWERS: usize = 16;
/// Seconds that others may keep an answer: an order is over soon.
const TTL: u32 = 0;

/// It is bound, and nobody is answered yet.
pub struct Responder {
    udp: UdpSocket,
    tcp: TcpListener,
    pub address: SocketAddr,
}

impl Responder {
    /// The same port for both. Port 0 picks one that is free for both.
    pub async fn bind(address: SocketAddr) -> Result<Self, StartError> {
        let failed = |source| StartError::ListenDns { address, source };
        let tcp = TcpListener::bind(address).await.map_err(failed)?;
        let bound = tcp.local_addr().map_err(failed)?;
        let udp = UdpSocket::bind(bound).await.map_err(failed)?;
        Ok(Self { udp, tcp, address: bound })
    }

    /// Answers until the process stops.
    pub fn start(self, challenges: Arc<Challenges>, lifecycle: &Lifecycle) {
        let mut server = Server::new(Answering { challenges });
        server.register_socket(self.udp);
        server.register_listener(self.tcp, TCP_IDLE, TCP_ANSWERS);
        let stop = lifecycle.clone();
        lifecycle.spawn(async move {
            stop.stopping().await;
            // Its tasks are dropped with it, those that hang among them.
            let _ended = tokio::time::timeout(TCP_IDLE, server.shutdown_gracefully()).await;
        });
    }
}

struct Answering {
    challenges: Arc<Challenges>,
}

/// What becomes of a question.
struct Answer {
    code: ResponseCode,
    texts: Vec<Record>,
    /// Whose zone it is, where there is nothing (RFC 2308 §3).
    zone: Vec<Record>,
}

impl Answer {
    fn of(code: ResponseCode) -> Self {
        Self { code, texts: Vec::new(), zone: Vec::new() }
    }
}

#[async_trait]
impl RequestHandler for Answering {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let answer = self.answer(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = answer.code;
        metadata.authoritative = answer.code == ResponseCode::NoError;
        let message = MessageResponseBuilder::from_message_request(request).build(
            metadata,
            &answer.texts,
            [],
            &answer.zone,
            [],
        );
        match response.send_response(message).await {
            Ok(sent) => sent,
            Err(error) => {
                tracing::debug!(%error, "a DNS answer that could not be sent");
                let mut metadata =
                    Metadata::new(request.metadata.id, MessageType::Response, request.metadata.op_code);
                metadata.response_code = ResponseCode::ServFail;
                Header { metadata, counts: HeaderCounts::default() }.into()
            }
        }
    }
}

impl Answering {
    async fn answer(&self, request: &Request) -> Answer {
        if request.metadata.op_code != OpCode::Query {
            return Answer::of(ResponseCode::NotImp);
        }
        let Ok(info) = request.request_info() else { return Answer::of(ResponseCode::FormErr) };
        let name: &Name = info.query.name();
        let Some(host) = challenged(&name.to_ascii()) else { return Answer::of(ResponseCode::Refused) };
        if info.query.query_class() != DNSClass::IN {
            return Answer::of(ResponseCode::Refused);
        }
        let asked: Name = info.query.original().name().clone();
        let zone = vec![Record::from_rdata(asked.clone(), TTL, RData::SOA(soa(&asked)))];
        match info.query.query_type() {
            RecordType::TXT | RecordType::ANY => match self.challenges.by_dns(&host).await {
                Ok(texts) if texts.is_empty() => Answer { zone, ..Answer::of(ResponseCode::NoError) },
                Ok(texts) => {
                    let record =
                        |text| Record::from_rdata(asked.clone(), TTL, RData::TXT(TXT::new(vec![text])));
                    Answer {
                        texts: texts.into_iter().map(record).collect(),
                        ..Answer::of(ResponseCode::NoError)
                    }
                }
                Err(_unknown) => Answer::of(ResponseCode::ServFail),
            },
            RecordType::SOA => Answer { texts: zone, ..Answer::of(ResponseCode::NoError) },
            _ => Answer { zone, ..Answer::of(ResponseCode::NoError) },
        }
    }
}

/// The host that is asked about.
fn challenged(name: &str) -> Option<HostName> {
    let name = name.to_ascii_lowercase();
    name.strip_prefix(LABEL)?.parse().ok()
}

/// Each name is a zone of its own, whose answers nobody is to keep.
fn soa(zone: &Name) -> SOA {
    SOA::new(zone.clone(), zone.clone(), 1, 60, 60, 60, TTL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_challenges_are_answered() {
        assert_eq!(challenged("_acme-Challenge.Example.com."), "example.com".parse().ok());
        for other in
            ["example.com.", "_acme-challenge.", "_acme-challenge.com.", "x._acme-challenge.example.com."]
        {
            assert_eq!(challenged(other), None, "{other}");
        }
    }
}
