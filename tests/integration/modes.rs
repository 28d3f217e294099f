//! The mode of authentication that the tests run in: without this, all of them would pass where nobody is asked who they are.

use crate::harness::{Client, Options, World, credentials, mosquitto_pub, unique};

#[tokio::test(flavor = "multi_thread")]
async fn only_the_user_of_the_tests_gets_in_unless_everybody_does() {
    let world = World::shared().await;
    for sidecar in [&world.a, &world.b] {
        for options in [Options::v5(&unique("mode")), Options::v311(&unique("mode"))] {
            // From an address of its own: others are not to wait for who fails here.
            let [nobody, stranger] = [options.clone().anonymous(), options.clone().password("wrong")];
            for other in [nobody, stranger].map(|other| other.from(9)) {
                let reason = Client::open(sidecar.mqtt_port, other).await.connack.reason;
                assert_eq!(reason.is_error(), credentials().is_some(), "{reason:?}");
            }
            sidecar.connect(options).await.ping().await;
        }
    }
    let finished = mosquitto_pub(world.a.mqtt_port, &["-t", &unique("mode"), "-m", "x"], String::new()).await;
    assert_eq!(finished.code, 0, "{}", finished.stderr);
}
