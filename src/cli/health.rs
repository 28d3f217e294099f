//! `nats-mqtt health`: asks the admin listener of a running process, for container health checks. Exit code 0 is
//! ready, 1 is not.

use std::{net::IpAddr, time::Duration};

use super::failure::{CONFIG, FAILED, Failure, say};
use crate::{
    admin::client,
    config::{BindAddr, Config},
};

/// For the whole question.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn health(config: &Config) -> Result<(), Failure> {
    let Some(bind) = &config.admin.bind else {
        return Err(Failure::new(CONFIG, "admin.bind is \"\": there is nobody to ask"));
    };
    if bind.passed().is_some() {
        let message = "admin.bind is a socket of the service manager: say where it is, with --admin ADDR";
        return Err(Failure::new(CONFIG, message));
    }
    let addr = reachable(bind).to_string();
    let answer = tokio::time::timeout(TIMEOUT, client::get(&addr, "/readyz", None)).await;
    match answer {
        Ok(Ok((200, body))) => {
            say(body.trim_end());
            Ok(())
        }
        Ok(Ok((status, body))) => {
            Err(Failure::new(FAILED, format!("http://{addr}/readyz: {status}: {}", body.trim_end())))
        }
        Ok(Err(error)) => Err(Failure::new(FAILED, format!("http://{addr}/readyz: {error}"))),
        Err(_) => Err(Failure::new(FAILED, format!("http://{addr}/readyz: no answer after {TIMEOUT:?}"))),
    }
}

/// Who listens on every interface is asked on loopback.
fn reachable(bind: &BindAddr) -> BindAddr {
    let loopback = match bind.host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) if ip.is_unspecified() => "127.0.0.1",
        Ok(IpAddr::V6(ip)) if ip.is_unspecified() => "::1",
        _ => return bind.clone(),
    };
    BindAddr::new(loopback, bind.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interface_is_asked_on_loopback() {
        for (bind, asked) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1"), ("host:1", "host:1")]
        {
            assert_eq!(reachable(&bind.parse().unwrap()).to_string(), asked);
        }
    }
}
