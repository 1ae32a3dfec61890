//! One order, from the account to the chain (RFC 8555 §7.4). The order commits its answers to
//! Postgres, waits until every proxy has fetched them, and only then tells the issuer to look.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationHandle, AuthorizationStatus, ChallengeHandle, ChallengeType, Error, Identifier,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use jetway_protocol::certificates::{Challenge, PENDING_EVERYWHERE};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use tokio::time::sleep;

use super::{Acme, Failure, Issued, Names, Orders, failure};
use crate::db::acme;

/// An order that has not come to its end by then is given up.
pub const ORDER_MAX: Duration = Duration::from_secs(150);
/// The issuer looks at what we show, and then decides.
const DECISION: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(100))
    .backoff(1.5)
    .timeout(Duration::from_secs(60));

impl Orders {
    /// `before`: the chain that it is to replace.
    pub async fn order(&self, names: &Names, before: Option<&str>) -> Result<Issued, Failure> {
        let challenge = self.acme.challenge(names);
        let account = self.account().await?;
        let identifiers: Vec<_> = names.all().iter().map(|name| Identifier::Dns(name.clone())).collect();
        let mut order = begin(&self.acme, &account, &identifiers, before).await?;
        self.show_control(&mut order, challenge).await?;
        match order.poll_ready(&DECISION).await {
            Ok(OrderStatus::Ready) => {}
            Ok(_) => return Err(refusal(&mut order, None).await),
            Err(error @ Error::Api(_)) => {
                let failure = self.acme.failure(error);
                return Err(refusal(&mut order, Some(failure)).await);
            }
            Err(error) => return Err(self.acme.failure(error)),
        }
        let key = order.finalize().await.map_err(|error| self.acme.failure(error))?;
        let chain = order.poll_certificate(&DECISION).await.map_err(|error| self.acme.failure(error))?;
        Issued::check(chain, key, names)
            .map_err(|reason| Failure::Refused(format!("what it issued is unusable: {reason}")))
    }

    async fn show_control(&self, order: &mut Order, challenge: Challenge) -> Result<(), Failure> {
        let kind = match challenge {
            Challenge::Http01 => ChallengeType::Http01,
            Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
            Challenge::Dns01 => ChallengeType::Dns01,
        };
        if self.publish(order, challenge, &kind).await? {
            sleep(PENDING_EVERYWHERE).await;
        }
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| self.acme.failure(error))?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let mut handle = offered(&mut authorization, challenge, &kind)?;
            handle.set_ready().await.map_err(|error| self.acme.failure(error))?;
        }
        Ok(())
    }

    /// Commits the answers to the issuer's questions. False: the issuer has no questions.
    async fn publish(
        &self,
        order: &mut Order,
        challenge: Challenge,
        kind: &ChallengeType,
    ) -> Result<bool, Failure> {
        let mut is_asked = false;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| self.acme.failure(error))?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            is_asked = true;
            let host = host(&authorization);
            let (name, value) = answer(&offered(&mut authorization, challenge, kind)?, challenge, &host)?;
            let mut connection = self.db.acquire().await?;
            acme::put_answer(&mut connection, challenge, &name, &value, ORDER_MAX).await?;
        }
        Ok(is_asked)
    }
}

/// Says what it replaces (RFC 9773 §5), where the issuer wants to know, and takes that well.
async fn begin(
    acme: &Acme,
    account: &Account,
    identifiers: &[Identifier],
    before: Option<&str>,
) -> Result<Order, Failure> {
    if let Some(replaced) = before.and_then(super::issued::identifier) {
        match account.new_order(&NewOrder::new(identifiers).replaces(replaced)).await {
            Ok(order) => return Ok(order),
            Err(error) if is_about_what_is_replaced(&error) => {
                tracing::debug!(%error, "the issuer takes the order only by itself");
            }
            Err(error) => return Err(acme.failure(error)),
        }
    }
    account.new_order(&NewOrder::new(identifiers)).await.map_err(|error| acme.failure(error))
}

/// It knows no such thing, has another one in its place already, or forgot what it was told.
fn is_about_what_is_replaced(error: &Error) -> bool {
    match error {
        Error::Unsupported(_) | Error::Other(_) => true,
        Error::Api(problem) => {
            let kind = problem.r#type.as_deref().unwrap_or_default();
            kind.ends_with(":alreadyReplaced") || kind.ends_with(":malformed")
        }
        _ => false,
    }
}

fn offered<'a>(
    authorization: &'a mut AuthorizationHandle<'a>,
    challenge: Challenge,
    kind: &ChallengeType,
) -> Result<ChallengeHandle<'a>, Failure> {
    let host = host(authorization);
    let offered = authorization.challenge(kind.clone());
    offered.ok_or_else(|| Failure::Refused(format!("{host}: it does not offer {}", challenge.as_str())))
}

fn host(authorization: &AuthorizationHandle<'_>) -> String {
    authorization.identifier().identifier.authorized(false).to_string()
}

/// What is shown, and the name that it is asked for by.
fn answer(
    handle: &ChallengeHandle<'_>,
    challenge: Challenge,
    host: &str,
) -> Result<(String, String), Failure> {
    let shown = handle.key_authorization();
    Ok(match challenge {
        Challenge::Http01 => (handle.token.clone(), shown.as_str().to_owned()),
        Challenge::Dns01 => (host.to_owned(), shown.dns_value()),
        Challenge::TlsAlpn01 => {
            let made = shown_in_tls(host, shown.digest().as_ref());
            (host.to_owned(), made.map_err(|error| Failure::Unusable(error.to_string()))?)
        }
    })
}

/// A certificate that nobody trusts, with what the issuer looks for (RFC 8737 §3), and its key.
fn shown_in_tls(host: &str, digest: &[u8]) -> Result<String, rcgen::Error> {
    let mut parameters = CertificateParams::new([host.to_owned()])?;
    parameters.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    Ok(parameters.self_signed(&key)?.pem() + &key.serialize_pem())
}

/// What the issuer did not like, host by host; the order itself hardly says.
async fn refusal(order: &mut Order, failure: Option<Failure>) -> Failure {
    let mut said = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let host = host(&authorization);
        if let Ok(state) = authorization.refresh().await {
            let problems = state.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
            said.extend(problems.map(|problem| format!("{host}: {}", failure::said(problem))));
        }
    }
    match failure {
        Some(failure @ (Failure::RateLimited { .. } | Failure::Away(_) | Failure::BadNonce(_))) => failure,
        _ if !said.is_empty() => Failure::Refused(said.join("; ")),
        Some(failure) => failure,
        None => Failure::Refused("it has made the order invalid, and does not say why".to_owned()),
    }
}

impl Acme {
    pub fn failure(&self, error: Error) -> Failure {
        Failure::of(error, self.issuer.retry_after())
    }
}
