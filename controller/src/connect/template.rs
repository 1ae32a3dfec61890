//! What a warm pool's backends are started from, for a connect that names the pool.

use jetway_api::spawn::{Spawn, isolation};
use jetway_protocol::error::Code;
use jetway_protocol::ids::WarmPoolName;
use jetway_protocol::key::Key;

use super::context::Connects;
use crate::db::warm_pools;
use crate::error::{ApiError, ApiResult};
use crate::warm::pool::Template;

/// One read, and only where the key is not live.
pub async fn template(app: &Connects, pool: &WarmPoolName) -> ApiResult<Template> {
    let sealed = warm_pools::sealed(&mut *app.hot.acquire().await?, pool).await?;
    match sealed.map(|sealed| Template::open(&app.at_rest, pool, &sealed)) {
        Some(Ok(template)) => Ok(template),
        Some(Err(_)) => Err(unreadable(pool)),
        None => Err(no_pool(pool)),
    }
}

pub fn no_pool(pool: &WarmPoolName) -> ApiError {
    ApiError::new(Code::PoolNotFound, format!("there is no warm pool \"{pool}\""))
}

pub fn unreadable(pool: &WarmPoolName) -> ApiError {
    let message =
        format!("the warm pool \"{pool}\" was put under another secret and cannot be opened: put it again");
    ApiError::new(Code::PoolUnreadable, message)
}

/// For one connect.
pub fn spawn_of(template: Template, key: Option<&Key>) -> ApiResult<Spawn> {
    let Template { cluster, pool, mut spec, on_isolation } = template;
    spec.on_isolation = isolation(on_isolation, key, spec.executable.init)?;
    Ok(Spawn { id: None, cluster: Some(cluster), pool, spec })
}
