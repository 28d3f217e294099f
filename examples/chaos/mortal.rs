//! Clients with a will, one after the other, each with a client id of its own. Some say goodbye; most live until their
//! sidecar is killed.

use std::time::Duration;

use mqtt_codec::{Disconnect, Packet, ReasonCode};
use tokio::time::Instant;

use crate::Stage;
use crate::checker::Death;
use crate::harness::{Client, Ended, Options, msg};
use crate::random::Random;

pub(crate) async fn live(line: usize, mut random: Random, stage: Stage) {
    while !*stage.closing.borrow() {
        let n = stage.checker.born();
        let will = msg(&format!("chaos-will/{n}"), n.to_string()).qos(1 + (n % 2) as u8);
        let mut options = Options::v5(&format!("mortal {line}.{n}")).will(will);
        if random.one_in(2) {
            options.connect.clean_start = false;
            options.connect.properties.session_expiry_interval_s = Some(3_600);
            if let Some(will) = &mut options.connect.will {
                will.delay_interval_s = random.below(3) as u32;
            }
        }
        let sidecar = random.below(2);
        let is_clean = options.connect.clean_start;
        stage.checker.tell(n, &format!("connects to {}, clean: {is_clean}", ["a", "b"][sidecar]));
        match Client::try_open(stage.ports[sidecar], options).await {
            Ok(client) if client.connack.reason == ReasonCode::Success => {
                stage.checker.tell(n, "is connected");
                let death = until_death(client, sidecar, &mut random, &stage).await;
                stage.checker.died(n, death);
            }
            // Its connection may have counted or not.
            _ => tokio::time::sleep(random.ms(20, 200)).await,
        }
    }
}

async fn until_death(mut client: Client, sidecar: usize, random: &mut Random, stage: &Stage) -> Death {
    let goodbye_at = Instant::now() + random.ms(1_000, 20_000);
    while Instant::now() < goodbye_at && !*stage.closing.borrow() {
        match client.packet(Instant::now() + Duration::from_millis(100)).await {
            Ok(_) | Err(Ended::Silent) => {}
            Err(Ended::Closed) => return Death::Lost,
        }
    }
    if random.one_in(3) {
        client.reset();
        return Death::Lost;
    }
    let kills = stage.checker.kills(sidecar);
    let (session_expiry_interval_s, server_reference, properties) = (None, None, None);
    let reason = ReasonCode::Success;
    client.write(&Packet::Disconnect(Disconnect { reason, session_expiry_interval_s, server_reference, properties }));
    let is_closed = client.closed_within(Duration::from_secs(5)).await;
    // A sidecar that is killed closes as well.
    if is_closed && stage.checker.kills(sidecar) == kills { Death::Goodbye } else { Death::Unknown }
}
