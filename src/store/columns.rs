//! From column values to the model, for every store: what a column may hold, and the error that
//! names table and column when it holds something else.
//!
//! Rows are also written by people and other programs, in plain SQL. Whatever stands there, a
//! reader answers with [`StoreError::Corrupt`] and never panics.

use std::net::IpAddr;
use std::num::NonZeroU32;

use jiff::Timestamp;
use serde_json::Value;

use super::{Result, StoreError};
use crate::model::access::Scopes;
use crate::model::addresses::AddressRanges;
use crate::model::client::ClientStatus;
use crate::model::key::HashKind;
use crate::model::operator::{ActorKind, Role};
use crate::model::plan::{Plan, Policies, PolicyMode};
use crate::model::quota::Quota;
use crate::model::rate::Rate;

/// `clients.status`
pub(super) fn status(text: &str) -> Result<ClientStatus> {
    ClientStatus::parse(text).ok_or_else(|| {
        StoreError::corrupt("clients", "status", format!("`{text}` is neither `active` nor `suspended`"))
    })
}

/// `rate`, as in `100/s`.
pub(super) fn rate(table: &'static str, text: Option<&str>) -> Result<Option<Rate>> {
    text.map(str::parse)
        .transpose()
        .map_err(|error: crate::model::rate::InvalidRate| StoreError::corrupt(table, "rate", error.to_string()))
}

/// `burst`: null or at least 1.
pub(super) fn burst(table: &'static str, value: Option<i64>) -> Result<Option<NonZeroU32>> {
    let Some(value) = value else { return Ok(None) };
    let burst = u32::try_from(value).ok().and_then(NonZeroU32::new);
    burst.map(Some).ok_or_else(|| StoreError::corrupt(table, "burst", format!("{value} is not from 1 to 4294967295")))
}

/// `scopes`
pub(super) fn scopes(table: &'static str, names: Vec<String>) -> Result<Scopes> {
    Scopes::new(names)
        .map_err(|name| StoreError::corrupt(table, "scopes", format!("{name:?} is not the name of a scope")))
}

/// `hash_kind`
pub(super) fn hash_kind(text: &str) -> Result<HashKind> {
    HashKind::parse(text)
        .ok_or_else(|| StoreError::corrupt("api_keys", "hash_kind", format!("`{text}` is neither `hmac` nor `sha256`")))
}

/// `allowed_addresses`
pub(super) fn addresses(table: &'static str, ranges: &[String]) -> Result<AddressRanges> {
    AddressRanges::new(ranges).map_err(|error| StoreError::corrupt(table, "allowed_addresses", error.to_string()))
}

/// The status of an answer.
pub(super) fn http_status(table: &'static str, value: i64) -> Result<u16> {
    u16::try_from(value).map_err(|_| StoreError::corrupt(table, "status", format!("{value} is no status")))
}

/// `role`
pub(super) fn role(table: &'static str, text: &str) -> Result<Role> {
    text.parse().map_err(|error: crate::model::operator::UnknownRole| {
        StoreError::corrupt(table, "role", format!("`{text}`: {error}"))
    })
}

/// `audit.actor_kind`
pub(super) fn actor_kind(text: &str) -> Result<ActorKind> {
    let corrupt = || StoreError::corrupt("audit", "actor_kind", format!("`{text}` is no kind of actor"));
    ActorKind::parse(text).ok_or_else(corrupt)
}

/// `address`: null or an IP address.
pub(super) fn address(table: &'static str, text: Option<&str>) -> Result<Option<IpAddr>> {
    let Some(text) = text else { return Ok(None) };
    let corrupt = |_| StoreError::corrupt(table, "address", format!("`{text}` is no address"));
    text.parse().map(Some).map_err(corrupt)
}

/// `clients.quota`
pub(super) fn quota(text: Option<&str>) -> Result<Option<Quota>> {
    text.map(str::parse)
        .transpose()
        .map_err(|error: crate::model::quota::InvalidQuota| StoreError::corrupt("clients", "quota", error.to_string()))
}

/// `concurrency`: null or at least 1.
pub(super) fn concurrency(table: &'static str, value: Option<i64>) -> Result<Option<NonZeroU32>> {
    let Some(value) = value else { return Ok(None) };
    let most = u32::try_from(value).ok().and_then(NonZeroU32::new);
    let corrupt = || StoreError::corrupt(table, "concurrency", format!("{value} is not from 1 to 4294967295"));
    most.map(Some).ok_or_else(corrupt)
}

/// `plans.policies`
pub(super) fn policies(value: Value) -> Result<Policies> {
    serde_json::from_value(value).map_err(|error| StoreError::corrupt("plans", "policies", error.to_string()))
}

/// For `plans.policies`.
pub(super) fn policies_value(policies: &Policies) -> Value {
    serde_json::to_value(policies).expect("names, numbers and words")
}

/// The same as text.
pub(super) fn policies_text(policies: &Policies) -> String {
    policies_value(policies).to_string()
}

/// `quota_marks.mode`
pub(super) fn mode(text: &str) -> Result<PolicyMode> {
    let known = [PolicyMode::Enforce, PolicyMode::Shadow].into_iter().find(|mode| mode.as_str() == text);
    known.ok_or_else(|| {
        StoreError::corrupt("quota_marks", "mode", format!("`{text}` is neither `enforce` nor `shadow`"))
    })
}

/// A plan that came as one JSON value beside its client: an object with the table's columns.
/// `time` reads the store's times.
pub(super) fn plan_of_client(value: &Value, time: impl Fn(&str) -> Option<Timestamp>) -> Result<Plan> {
    let corrupt = |column| StoreError::corrupt("plans", column, "not what the column holds".to_owned());
    let text = |column| value[column].as_str().ok_or_else(|| corrupt(column));
    Ok(Plan {
        id: text("id")?.parse().map_err(|_| corrupt("id"))?,
        name: text("name")?.to_owned(),
        policies: policies(value["policies"].clone())?,
        concurrency: concurrency("plans", value["concurrency"].as_i64())?,
        created_at: time(text("created_at")?).ok_or_else(|| corrupt("created_at"))?,
        updated_at: time(text("updated_at")?).ok_or_else(|| corrupt("updated_at"))?,
    })
}

/// `metadata`: an object.
pub(super) fn metadata(table: &'static str, value: Value) -> Result<Value> {
    if value.is_object() { Ok(value) } else { Err(StoreError::corrupt(table, "metadata", "not a JSON object")) }
}

/// A sum of the rollups, which cannot be negative.
pub(super) fn sum(column: &'static str, value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| StoreError::corrupt("usage_hourly", column, format!("a negative sum, {value}")))
}

/// A count on its way into a signed column. What does not fit is no count a gateway can reach:
/// 2⁶³ bytes are 8 EiB.
pub(super) fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The beginning of the hour, UTC, that `moment` lies in.
pub(super) fn hour_of(moment: Timestamp) -> Timestamp {
    let second = moment.as_second();
    let start = second - second.rem_euclid(3_600);
    Timestamp::from_second(start).expect("an earlier second, at most 3,599 before one that fits, in the same hour")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_names_its_table_and_column() {
        let failures = [
            status("gone").map(drop).unwrap_err(),
            rate("api_keys", Some("fast")).map(drop).unwrap_err(),
            burst("clients", Some(0)).map(drop).unwrap_err(),
            burst("clients", Some(-1)).map(drop).unwrap_err(),
            burst("clients", Some(1 << 32)).map(drop).unwrap_err(),
            scopes("api_keys", vec!["two words".into()]).map(drop).unwrap_err(),
            hash_kind("md5").map(drop).unwrap_err(),
            addresses("api_keys", &["everywhere".into()]).map(drop).unwrap_err(),
            metadata("clients", serde_json::json!([1])).map(drop).unwrap_err(),
            sum("units", -1).map(drop).unwrap_err(),
        ];
        let named: Vec<_> = failures
            .iter()
            .map(|failure| match failure {
                StoreError::Corrupt { table, column, .. } => format!("{table}.{column}"),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            named,
            [
                "clients.status",
                "api_keys.rate",
                "clients.burst",
                "clients.burst",
                "clients.burst",
                "api_keys.scopes",
                "api_keys.hash_kind",
                "api_keys.allowed_addresses",
                "clients.metadata",
                "usage_hourly.units"
            ]
        );
    }

    #[test]
    fn hours_begin_on_the_hour_also_before_1970() {
        for (moment, hour) in [
            ("2026-11-22T20:59:59.999999Z", "2026-11-22T20:00:00Z"),
            ("2026-11-22T20:00:00Z", "2026-11-22T20:00:00Z"),
            ("1969-12-31T23:30:00Z", "1969-12-31T23:00:00Z"),
        ] {
            assert_eq!(hour_of(moment.parse().unwrap()), hour.parse().unwrap(), "{moment}");
        }
    }

    #[test]
    fn what_is_absent_stays_absent() {
        assert_eq!(rate("clients", None).unwrap(), None);
        assert_eq!(burst("clients", None).unwrap(), None);
        assert_eq!(burst("clients", Some(7)).unwrap().map(NonZeroU32::get), Some(7));
    }
}
