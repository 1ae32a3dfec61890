//! Who we are to the issuer: one account for all controllers, made by the first that needs it.

use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};

use super::{Acme, Failure};
use crate::app::App;
use crate::db::acme;

/// The account that is kept, else a new one.
pub async fn account(app: &App, acme: &Acme) -> Result<Account, Failure> {
    let mut connection = app.housekeeping.acquire().await.map_err(crate::db::DbError::from)?;
    let kept = acme::account(&mut connection, &acme.config.directory).await?;
    drop(connection);
    match kept {
        Some(sealed) => known(app, acme, &sealed).await,
        None => new(app, acme).await,
    }
}

async fn known(app: &App, acme: &Acme, sealed: &[u8]) -> Result<Account, Failure> {
    let unusable =
        |reason: String| Failure::Unusable(format!("the account with {}: {reason}", acme.config.directory));
    let opened = app.at_rest.open(&place(&acme.config.directory), sealed);
    let opened = opened.map_err(|error| unusable(error.to_string()))?;
    let credentials: AccountCredentials =
        serde_json::from_slice(&opened).map_err(|error| unusable(error.to_string()))?;
    acme.issuer.account().from_credentials(credentials).await.map_err(|error| acme.failure(error))
}

async fn new(app: &App, acme: &Acme) -> Result<Account, Failure> {
    let contact = acme.config.contact.as_ref().map(|address| format!("mailto:{address}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let account =
        NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let external = acme.config.external_account.as_ref();
    let external = external.map(|account| ExternalAccountKey::new(account.key_id.clone(), &account.key));
    let directory = acme.config.directory.clone();
    let made = acme.issuer.account().create(&account, directory, external.as_ref()).await;
    let (account, credentials) = made.map_err(|error| acme.failure(error))?;
    let json = serde_json::to_vec(&credentials).map_err(|error| Failure::Unusable(error.to_string()))?;
    let sealed = app.at_rest.seal(&place(&acme.config.directory), &json);
    let mut connection = app.housekeeping.acquire().await.map_err(crate::db::DbError::from)?;
    acme::put_account(&mut connection, &acme.config.directory, &sealed).await?;
    tracing::info!(
        directory = acme.config.directory,
        account = account.id(),
        "a new account with the issuer"
    );
    Ok(account)
}

fn place(directory: &str) -> String {
    format!("acme_accounts/{directory}")
}
