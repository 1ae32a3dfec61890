//! `/ctrl/certificates`: those that controllers order, and how they are.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certificates {
    /// The directory of the issuer; null: none are ordered.
    pub issuer: Option<String>,
    /// Whether hosts are asked about when they come.
    pub on_demand: bool,
    pub certificates: Vec<Certificate>,
}

/// Times are milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certificate {
    pub id: String,
    pub names: Vec<String>,
    pub on_demand: bool,
    pub state: CertificateState,
    /// How often it was issued.
    pub version: i64,
    /// Null: not there yet.
    pub expires_at: Option<i64>,
    /// Null: never by itself.
    pub next_order_at: Option<i64>,
    /// In a row.
    pub failures: i32,
    /// The message of the last failure.
    pub problem: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CertificateState {
    Valid,
    /// Valid, and the last order failed.
    RenewalFailing,
    /// None to show, and the last order failed.
    Failing,
    Expired,
    /// For the first time.
    Ordered,
    /// Never sent: a client reads a word that it does not know as this.
    #[serde(other)]
    Unknown,
}

impl CertificateState {
    pub fn as_str(self) -> &'static str {
        match self {
            CertificateState::Valid => "valid",
            CertificateState::RenewalFailing => "renewal_failing",
            CertificateState::Failing => "failing",
            CertificateState::Expired => "expired",
            CertificateState::Ordered => "ordered",
            CertificateState::Unknown => "unknown",
        }
    }
}

/// The answer to a retry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ordered {
    pub ordered: bool,
}
