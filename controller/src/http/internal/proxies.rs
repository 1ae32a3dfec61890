//! `POST /internal/proxies/register`: a proxy is here; repeated as its heartbeat.

use axum::Json;
use axum::extract::State;
use jetway_protocol::PROTOCOL_VERSION;
use jetway_protocol::controller_api::{ProxyHeartbeat, ProxyRegistered};

use super::message::{Message, No};
use crate::app::App;
use crate::db::proxies;
use crate::error::ApiError;

const NAME_BYTES_MAX: usize = 256;
/// Proxies are only shown: they need not speak as often as drones.
const HEARTBEAT_MS: u64 = 10_000;

pub async fn register(
    State(app): State<App>,
    Message(proxy): Message<ProxyHeartbeat>,
) -> Result<Json<ProxyRegistered>, No> {
    if proxy.protocol != PROTOCOL_VERSION {
        let message = format!(
            "the proxy speaks version {} of the protocol, this controller {PROTOCOL_VERSION}",
            proxy.protocol
        );
        return Err(ApiError::invalid(message).into());
    }
    if proxy.name.len() > NAME_BYTES_MAX || proxy.name.contains('\0') {
        return Err(ApiError::invalid(format!("a proxy's name has at most {NAME_BYTES_MAX} bytes")).into());
    }
    let cluster = proxy.cluster.as_ref().unwrap_or(&app.identity.cluster);
    let mut connection = app.pools.internal.acquire().await?;
    proxies::heartbeat(&mut connection, &proxy, cluster).await?;
    Ok(Json(ProxyRegistered {
        installation: app.identity.installation,
        cluster: cluster.clone(),
        heartbeat_ms: HEARTBEAT_MS,
    }))
}
