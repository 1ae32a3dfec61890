//! Renews this controller's copy of the table of drones.

use crate::app::App;
use crate::db::DbError;

pub async fn run(app: App) -> Result<(), DbError> {
    app.fleet.refresh(&app.housekeeping).await
}
