//! Who we are to the issuer: one account for all controllers, made by the first that needs it.

use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};

use super::{Failure, Orders};
use crate::db::acme;

impl Orders {
    /// The account that is kept, else a new one.
    pub async fn account(&self) -> Result<Account, Failure> {
        let mut connection = self.db.acquire().await?;
        let kept = acme::account(&mut connection, &self.acme.config.directory).await?;
        drop(connection);
        match kept {
            Some(sealed) => self.known(&sealed).await,
            None => self.new_account().await,
        }
    }

    async fn known(&self, sealed: &[u8]) -> Result<Account, Failure> {
        let unusable = |reason: String| {
            Failure::Unusable(format!("the account with {}: {reason}", self.acme.config.directory))
        };
        let opened = self.at_rest.open(&place(&self.acme.config.directory), sealed);
        let opened = opened.map_err(|error| unusable(error.to_string()))?;
        let credentials: AccountCredentials =
            serde_json::from_slice(&opened).map_err(|error| unusable(error.to_string()))?;
        self.acme
            .issuer
            .account()
            .from_credentials(credentials)
            .await
            .map_err(|error| self.acme.failure(error))
    }

    async fn new_account(&self) -> Result<Account, Failure> {
        let contact = self.acme.config.contact.as_ref().map(|address| format!("mailto:{address}"));
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let account =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let external = self.acme.config.external_account.as_ref();
        let external = external.map(|account| ExternalAccountKey::new(account.key_id.clone(), &account.key));
        let directory = self.acme.config.directory.clone();
        let made = self.acme.issuer.account().create(&account, directory, external.as_ref()).await;
        let (account, credentials) = made.map_err(|error| self.acme.failure(error))?;
        let json = serde_json::to_vec(&credentials).map_err(|error| Failure::Unusable(error.to_string()))?;
        let sealed = self.at_rest.seal(&place(&self.acme.config.directory), &json);
        let mut connection = self.db.acquire().await?;
        acme::put_account(&mut connection, &self.acme.config.directory, &sealed).await?;
        tracing::info!(
            directory = self.acme.config.directory,
            account = account.id(),
            "a new account with the issuer"
        );
        Ok(account)
    }
}

fn place(directory: &str) -> String {
    format!("acme_accounts/{directory}")
}
