//! A DNS question (RFC 1035) and its answer: the texts of `_acme-challenge.<host>`, a name that an
//! operator delegates to the proxies by an NS record. Questions for other names are refused. The
//! sockets and the rate limits are in `responder`.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{SOA, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use jetway_protocol::certificates::HostName;

use super::challenges::Unknown;

/// The longest question: a name of 255 bytes, and an OPT record.
pub const QUESTION_BYTES_MAX: usize = 512;
/// The label before a host (RFC 8555 §8.4).
const LABEL: &str = "_acme-challenge.";
/// Seconds that others may keep an answer: an order is over soon.
const TTL: u32 = 0;
/// Of an answer by UDP, without EDNS and with it: no path splits such a packet.
const PLAIN_BYTES_MAX: u16 = 512;
const EDNS_BYTES_MAX: u16 = 1232;
/// Bytes of an answer by UDP for each byte of its question: the source address can be forged.
const AMPLIFICATION_MAX: usize = 4;

/// An answer before it has its bytes.
#[derive(Debug)]
pub struct Answer {
    message: Message,
    /// By UDP.
    bytes_max: usize,
}

impl Answer {
    /// `None`: it is no question. `known` is asked for a host that has the form of a challenge.
    pub fn to(
        question: &[u8],
        known: impl FnOnce(&HostName) -> Result<Vec<String>, Unknown>,
    ) -> Option<Self> {
        let asked = Message::from_vec(question).ok()?;
        if asked.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut message = Message::response(asked.metadata.id, asked.metadata.op_code);
        message.metadata = Metadata::response_from_request(&asked.metadata);
        let payload = asked.edns.as_ref().map_or(PLAIN_BYTES_MAX, |edns| {
            message.set_edns(own_edns());
            edns.max_payload().clamp(PLAIN_BYTES_MAX, EDNS_BYTES_MAX)
        });
        message.metadata.response_code = match asked.queries.as_slice() {
            _ if asked.edns.as_ref().is_some_and(|edns| edns.version() > 0) => ResponseCode::BADVERS,
            _ if asked.metadata.op_code != OpCode::Query => ResponseCode::NotImp,
            [query] => {
                message.add_query(query.clone());
                fill(&mut message, query, known)
            }
            _ => ResponseCode::FormErr,
        };
        message.metadata.authoritative = message.metadata.response_code == ResponseCode::NoError;
        let bytes_max = usize::from(payload).min(question.len() * AMPLIFICATION_MAX);
        Some(Self { message, bytes_max })
    }

    /// Whether it carries an order's answers.
    pub fn is_shown(&self) -> bool {
        self.message.answers.iter().any(|record| record.record_type() == RecordType::TXT)
    }

    /// All of it.
    pub fn by_tcp(&self) -> Option<Vec<u8>> {
        self.message.to_vec().ok()
    }

    /// All of it, or a truncated answer that sends the client to TCP.
    pub fn by_udp(&self) -> Option<Vec<u8>> {
        self.by_tcp().filter(|bytes| bytes.len() <= self.bytes_max).or_else(|| self.elsewhere())
    }

    /// A truncated answer (TC): no longer than the question.
    pub fn elsewhere(&self) -> Option<Vec<u8>> {
        self.message.truncate().to_vec().ok()
    }
}

fn own_edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(EDNS_BYTES_MAX);
    edns
}

/// The records for a question, and how it went.
fn fill(
    message: &mut Message,
    query: &Query,
    known: impl FnOnce(&HostName) -> Result<Vec<String>, Unknown>,
) -> ResponseCode {
    let name = query.name();
    let Some(host) = challenged(&name.to_ascii()) else { return ResponseCode::Refused };
    if query.query_class() != DNSClass::IN {
        return ResponseCode::Refused;
    }
    // Whose zone it is, where there is nothing (RFC 2308 §3).
    let zone = || Record::from_rdata(name.clone(), TTL, RData::SOA(soa(name)));
    match query.query_type() {
        RecordType::TXT | RecordType::ANY => match known(&host) {
            Ok(texts) if texts.is_empty() => message.add_authority(zone()),
            Ok(texts) => {
                let record = |text| Record::from_rdata(name.clone(), TTL, RData::TXT(TXT::new(vec![text])));
                message.add_answers(texts.into_iter().map(record))
            }
            Err(Unknown) => return ResponseCode::ServFail,
        },
        RecordType::SOA => message.add_answer(zone()),
        _ => message.add_authority(zone()),
    };
    ResponseCode::NoError
}

/// The host that is asked about.
fn challenged(name: &str) -> Option<HostName> {
    let name = name.to_ascii_lowercase();
    name.strip_prefix(LABEL)?.parse().ok()
}

/// Each name is a zone of its own, whose answers are not to be kept.
fn soa(zone: &Name) -> SOA {
    SOA::new(zone.clone(), zone.clone(), 1, 60, 60, 60, TTL)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn question(name: &str, kind: RecordType, edns: bool) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        if edns {
            message.set_edns(own_edns());
        }
        message.to_vec().unwrap()
    }

    fn shown(count: usize) -> Result<Vec<String>, Unknown> {
        Ok((0..count).map(|number| format!("{number:043}")).collect())
    }

    #[test]
    fn only_challenges_are_answered() {
        assert_eq!(challenged("_acme-Challenge.Example.com."), "example.com".parse().ok());
        for other in
            ["example.com.", "_acme-challenge.", "_acme-challenge.com.", "x._acme-challenge.example.com."]
        {
            assert_eq!(challenged(other), None, "{other}");
        }
    }

    #[test]
    fn an_answer_by_udp_is_a_small_multiple_of_its_question() {
        for name in ["_acme-challenge.a.io.", "_acme-challenge.much-longer.example.com."] {
            for (count, edns) in
                [0, 1, 2, 3, 16].into_iter().flat_map(|count| [(count, true), (count, false)])
            {
                for kind in [RecordType::TXT, RecordType::ANY, RecordType::SOA, RecordType::A] {
                    let asked = question(name, kind, edns);
                    let answer = Answer::to(&asked, |_| shown(count)).unwrap();
                    let (by_udp, short) = (answer.by_udp().unwrap(), answer.elsewhere().unwrap());
                    assert!(by_udp.len() <= asked.len() * AMPLIFICATION_MAX, "{name} {count} {kind}");
                    assert!(short.len() <= asked.len(), "{name} {count} {kind}");
                    let said = Message::from_vec(&by_udp).unwrap();
                    let whole = Message::from_vec(&answer.by_tcp().unwrap()).unwrap();
                    assert!(
                        said.metadata.truncation || said.answers == whole.answers,
                        "{name} {count} {kind}"
                    );
                    let asks_for_texts = matches!(kind, RecordType::TXT | RecordType::ANY);
                    assert_eq!(answer.is_shown(), asks_for_texts && count > 0);
                    // A host and its wildcard, which is the most that one order shows.
                    assert!(count > 2 || !said.metadata.truncation || !edns, "{name} {count} {kind}");
                }
            }
        }
    }

    #[test]
    fn an_answer_is_no_question() {
        let answer = Answer::to(&question("a.example.", RecordType::A, true), |_| shown(0)).unwrap();
        assert!(Answer::to(&answer.by_udp().unwrap(), |_| shown(0)).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_are_answered_with_many_more(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Some(answer) = Answer::to(&bytes, |_| shown(16)) {
                prop_assert!(answer.by_udp().is_none_or(|said| said.len() <= bytes.len() * AMPLIFICATION_MAX));
            }
        }
    }
}
