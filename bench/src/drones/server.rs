//! What a simulated drone answers to controllers: the routes of `protocol/src/drone_api.rs` that a connect, a stop and the
//! reconcilers use.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use jetway_protocol::drone_api::{
    AddGrant, BackendView, DeleteReply, GrantReply, Inventory, InventoryEntry, PutBackend, Refusal,
    RefusalCode, SetWarm,
};
use jetway_protocol::ids::{BackendId, Term};
use jetway_protocol::secret::{Purpose, Secret};
use jetway_protocol::status::{Status, StatusEntry};
use jetway_protocol::time::UnixMicros;
use jetway_protocol::warm::{Kind, SlotTier};
use jetway_service::lifecycle::Lifecycle;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;

use super::member::{Member, claimed};

type Reply = (u16, Vec<u8>);

pub fn serve(listener: TcpListener, member: &Arc<Member>, secret: &Secret, lifecycle: &Lifecycle) {
    let (member, life) = (member.clone(), lifecycle.clone());
    let credential: Arc<str> = format!("Bearer {}", secret.bearer(Purpose::ControllerToDrone)).into();
    lifecycle.spawn_until_stopped(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (member, credential) = (member.clone(), credential.clone());
            // A delayed acknowledgement would be measured as the controller's.
            let _set = stream.set_nodelay(true);
            life.spawn_until_stopped(async move {
                let service = service_fn(|request| answer(&member, &credential, request));
                let _hung_up = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
}

async fn answer(
    member: &Member,
    credential: &str,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_ours = request.headers().get(AUTHORIZATION).is_some_and(|given| given == credential);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let (status, body) = if is_ours {
        route(member, &method, &path, &body)
    } else {
        no(401, RefusalCode::Invalid, "not with this credential")
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    Ok(response)
}

fn route(member: &Member, method: &Method, path: &str, body: &[u8]) -> Reply {
    let mut parts = path.trim_start_matches('/').split('/');
    let (first, id, what) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let Some(id) = id else {
        return match (method, first) {
            (&Method::GET, "b") => yes(&Inventory { term: member.term(), backends: member.inventory() }),
            (&Method::PUT, "warm") => with(body, |set: SetWarm| {
                checked(member, set.term, || {
                    member.set_warm(set.targets);
                    yes(&())
                })
            }),
            (&Method::PUT, "draining") => yes(&()),
            _ => no(404, RefusalCode::Invalid, "no such route"),
        };
    };
    let Ok(id) = BackendId::try_from(id.to_owned()) else {
        return no(400, RefusalCode::Invalid, "no id");
    };
    match (method, what) {
        (&Method::PUT, None) => {
            with(body, |put: PutBackend| checked(member, put.term, || put_backend(member, id, put)))
        }
        (&Method::POST, Some("grants")) => with(body, |grant: AddGrant| {
            checked(member, grant.term, || match member.has(&id) {
                true => yes(&GrantReply { status: Status::Ready, holds_key: true, hint: None }),
                false => no(404, RefusalCode::Unknown, "not here"),
            })
        }),
        (&Method::DELETE, None) => {
            member.remove(&id);
            yes(&DeleteReply { gone: true })
        }
        _ => no(404, RefusalCode::Unknown, "not simulated"),
    }
}

fn put_backend(member: &Member, id: BackendId, put: PutBackend) -> Reply {
    let kind = Kind::of(SlotTier::Parked, &put.spec.executable).ok();
    let fencing_token = put.fencing_token;
    let mut timeline = put.timeline;
    timeline.push(claimed());
    let entry = InventoryEntry { id: id.clone(), fencing_token, key: put.key.clone(), status: Status::Ready };
    member.start(entry, kind, timeline.clone());
    let scheduled = StatusEntry { status: Status::Scheduled, at: UnixMicros::now(), end: None };
    yes(&BackendView {
        id,
        fencing_token,
        key: put.key,
        status: Status::Scheduled,
        history: vec![scheduled],
        timeline,
        grants: Vec::new(),
        connections: 0,
        listening_elsewhere: Vec::new(),
        hint: None,
        idle_in_ms: None,
        lifetime_in_ms: None,
        address: None,
        on_isolation: Some(put.spec.on_isolation),
        subdomain: put.spec.subdomain,
        use_static_token: put.spec.use_static_token,
    })
}

/// A command of another term is refused, as a drone does it.
fn checked(member: &Member, term: Term, act: impl FnOnce() -> Reply) -> Reply {
    if term == member.term() { act() } else { no(409, RefusalCode::WrongTerm, "another term") }
}

fn with<T: DeserializeOwned>(body: &[u8], act: impl FnOnce(T) -> Reply) -> Reply {
    match serde_json::from_slice(body) {
        Ok(message) => act(message),
        Err(error) => no(400, RefusalCode::Invalid, &error.to_string()),
    }
}

fn yes<T: Serialize>(message: &T) -> Reply {
    (200, serde_json::to_vec(message).unwrap_or_default())
}

fn no(status: u16, code: RefusalCode, message: &str) -> Reply {
    (status, serde_json::to_vec(&Refusal { code, message: message.to_owned() }).unwrap_or_default())
}
