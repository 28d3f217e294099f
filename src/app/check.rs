//! `nats-mqtt check`: whether NATS can be used with a configuration, and which accounts can be served.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{AppError, options, ways};
use crate::account::CoreInlet;
use crate::auth::{self, SURVEYED_MAX, Survey};
use crate::config::Config;
use crate::store::Store;

/// How long NATS may take to answer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// What `nats-mqtt check` found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One finding a line.
    pub lines: Vec<String>,
    /// Devices of some account would be refused, although there is a way into it.
    pub is_refusing: bool,
}

impl Report {
    /// An account that there is a way into.
    fn add(&mut self, account: &str, found: Result<String, String>) {
        self.is_refusing |= found.is_err();
        self.lines.push(match found {
            Ok(said) => format!("account {account}: ok ({said})"),
            Err(why) => format!("account {account}: its devices would be refused: {why}"),
        });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

/// Looks whether NATS can be used with this configuration. Streams that are missing are created, as at every start.
///
/// # Errors
/// It cannot.
pub async fn check(config: &Config) -> Result<Report, AppError> {
    let store_options = options::store(config, Some(CHECK_TIMEOUT))?;
    let store = Box::pin(Store::open(store_options, Arc::new(CoreInlet::default()))).await?;
    let urls = config.nats.urls.join(", ");
    let lines = vec![
        format!("nats: ok ({urls}, messages up to {} bytes)", store.server_max_payload()),
        format!("jetstream: ok ({} and its buckets)", store.log().stream()),
    ];
    let mut report = Report { lines, ..Report::default() };
    for (name, found) in ways::probe_all(config, CHECK_TIMEOUT).await {
        report.add(&name, found);
    }
    match auth::survey(config, options::nats_ways(config)?.home).await {
        None => {}
        Some(Ok(survey)) => Box::pin(check_surveyed(config, survey, &mut report)).await,
        Some(Err(why)) => {
            report.is_refusing = true;
            report.lines.push(format!("accounts of the operator: {why}"));
        }
    }
    Ok(report)
}

/// Of an operator's accounts some may have no devices: that there is no way into one is said, and is no fault.
async fn check_surveyed(config: &Config, mut survey: Survey, report: &mut Report) {
    // Those are gone into by what stands there, and were looked at.
    survey.accounts.retain(|surveyed| !config.accounts.contains_key(surveyed.account.as_str()));
    for (shown, way) in ways::probe_surveyed(config, survey.accounts, CHECK_TIMEOUT).await {
        match way {
            Ok(found) => report.add(&shown, found),
            Err(missing) => report.lines.push(format!("account {shown}: not served: {missing}")),
        }
    }
    if survey.left_out > 0 {
        let left_out = survey.left_out;
        report.lines.push(format!("accounts: {left_out} more, which are not looked at ({SURVEYED_MAX} at most)"));
    }
    report.lines.extend(survey.idle_keys);
}
