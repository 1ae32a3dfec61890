//! One order, from who we are to the chain (RFC 8555 §7.4). What the issuer will ask for is in Postgres before it is told that it may,
//! so that any proxy can answer.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationHandle, AuthorizationStatus, ChallengeHandle, ChallengeType, Error, Identifier,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use jetway_protocol::certificates::Challenge;
use rcgen::{CertificateParams, CustomExtension, KeyPair};

use super::{Acme, Failure, Issued, Names, account, failure};
use crate::app::App;
use crate::db::acme;

/// An order that has not come to its end by then is given up.
pub const ORDER_MAX: Duration = Duration::from_secs(150);
/// The issuer looks at what we show, and then decides.
const DECISION: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(100))
    .backoff(1.5)
    .timeout(Duration::from_secs(60));

/// `before`: the chain that it is to replace.
pub async fn order(app: &App, acme: &Acme, names: &Names, before: Option<&str>) -> Result<Issued, Failure> {
    let challenge = acme.challenge(names);
    let account = account::account(app, acme).await?;
    let identifiers: Vec<_> = names.all().iter().map(|name| Identifier::Dns(name.clone())).collect();
    let mut order = begin(acme, &account, &identifiers, before).await?;
    show_control(app, acme, &mut order, challenge).await?;
    match order.poll_ready(&DECISION).await {
        Ok(OrderStatus::Ready) => {}
        Ok(_) => return Err(refusal(acme, &mut order, None).await),
        Err(Error::Api(problem)) => {
            let failure = Failure::of_problem(&problem, acme.issuer.retry_after());
            return Err(refusal(acme, &mut order, Some(failure)).await);
        }
        Err(error) => return Err(acme.failure(error)),
    }
    let key = order.finalize().await.map_err(|error| acme.failure(error))?;
    let chain = order.poll_certificate(&DECISION).await.map_err(|error| acme.failure(error))?;
    Issued::check(chain, key, names)
        .map_err(|reason| Failure::Refused(format!("what it issued is unusable: {reason}")))
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

async fn show_control(
    app: &App,
    acme: &Acme,
    order: &mut Order,
    challenge: Challenge,
) -> Result<(), Failure> {
    let kind = match challenge {
        Challenge::Http01 => ChallengeType::Http01,
        Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        Challenge::Dns01 => ChallengeType::Dns01,
    };
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(|error| acme.failure(error))?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let host = host(&authorization);
        let Some(mut handle) = authorization.challenge(kind.clone()) else {
            return Err(Failure::Refused(format!("{host}: it does not offer {}", challenge.as_str())));
        };
        let (name, value) = answer(&handle, challenge, &host)?;
        let mut connection = app.housekeeping.acquire().await.map_err(crate::db::DbError::from)?;
        acme::put_answer(&mut connection, challenge, &name, &value, ORDER_MAX).await?;
        drop(connection);
        handle.set_ready().await.map_err(|error| acme.failure(error))?;
    }
    Ok(())
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
async fn refusal(acme: &Acme, order: &mut Order, failure: Option<Failure>) -> Failure {
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
        Some(failure) if said.is_empty() => failure,
        None if said.is_empty() => {
            Failure::Refused("it has made the order invalid, and does not say why".to_owned())
        }
        Some(_) | None => {
            tracing::debug!(retry_after = ?acme.issuer.retry_after(), "an order that was refused");
            Failure::Refused(said.join("; "))
        }
    }
}

impl Acme {
    pub fn failure(&self, error: Error) -> Failure {
        Failure::of(error, self.issuer.retry_after())
    }
}
