//! `executable.resource_limits`: limits that the kernel enforces on a container.

use jetway_protocol::spec::ResourceLimits;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::executable::{BYTES_MAX, at, invalid};
use crate::refusal::{Checked, number};

/// The least that Docker accepts.
const MEMORY_BYTES_MIN: i64 = 6 * 1024 * 1024;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ResourceLimits)]
#[serde(deny_unknown_fields)]
pub struct LimitsRequest {
    /// Microseconds; 100000 where a percentage is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1000, maximum = 1_000_000)]
    pub cpu_period: Option<i64>,
    /// Percent of one CPU. The quota, period × percent / 100, is at least 1000 µs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 409_600)]
    pub cpu_period_percent: Option<i64>,
    /// Seconds of CPU time (`ulimit -t`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 4_294_967_295_i64)]
    pub cpu_time_limit: Option<i64>,
    /// 512 MiB by default; no swap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 6_291_456_i64, maximum = 1_125_899_906_842_624_i64)]
    pub memory_limit_bytes: Option<i64>,
    /// Only on drones whose engine can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1_048_576_i64, maximum = 1_125_899_906_842_624_i64)]
    pub disk_limit_bytes: Option<i64>,
}

impl LimitsRequest {
    pub fn check(self) -> Checked<ResourceLimits> {
        let Self { cpu_period, cpu_period_percent, cpu_time_limit, memory_limit_bytes, disk_limit_bytes } =
            self;
        let limit =
            |field: &str, given, min, max| number(&at(&format!("resource_limits.{field}")), given, min, max);
        let cpu_period = limit("cpu_period", cpu_period, 1000, 1_000_000)?;
        let percent = limit("cpu_period_percent", cpu_period_percent, 1, 100 * 4096)?;
        if let Some(percent) = percent
            && cpu_period.unwrap_or(100_000) * percent / 100 < 1000
        {
            return Err(invalid(
                "resource_limits.cpu_period_percent",
                "makes a quota of less than 1000 µs, which the kernel refuses; give a longer cpu_period",
            ));
        }
        Ok(ResourceLimits {
            cpu_period,
            cpu_period_percent: percent.and_then(|percent| u32::try_from(percent).ok()),
            cpu_time_limit: limit("cpu_time_limit", cpu_time_limit, 1, i64::from(u32::MAX))?,
            memory_limit_bytes: limit("memory_limit_bytes", memory_limit_bytes, MEMORY_BYTES_MIN, BYTES_MAX)?,
            disk_limit_bytes: limit("disk_limit_bytes", disk_limit_bytes, 1024 * 1024, BYTES_MAX)?,
        })
    }
}
