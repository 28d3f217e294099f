//! Request and reply between MQTT and NATS, both ways, on whichever sidecar; and that an answer goes to whoever asked and
//! nowhere else.

use std::time::Duration;

use async_nats::{Client as Nats, HeaderMap};
use bytes::Bytes;
use mqtt_codec::{MessageProperties, Publish, QoS, ReasonCode, TopicName};
use serde_json::json;

use crate::harness::{
    Client, Message, NatsServer, PATIENCE, SidecarBuilder, Watch, World, eventually, js_api, msg, python, settle,
    unique,
};

type Answer = tokio::task::JoinHandle<async_nats::Message>;

/// Asks on NATS, as `nats request` does.
pub(crate) fn ask(nats: &Nats, subject: &str, headers: HeaderMap, payload: &str) -> Answer {
    let (nats, subject, payload) = (nats.clone(), subject.to_owned(), Bytes::from(payload.to_owned()));
    tokio::spawn(async move {
        let request = async_nats::Request::new().headers(headers).payload(payload).timeout(Some(PATIENCE));
        nats.send_request(subject, request).await.expect("an answer")
    })
}

pub(crate) fn header(name: &str, value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(name, value);
    headers
}

pub(crate) fn properties(publish: &Publish) -> MessageProperties {
    publish.properties.as_deref().cloned().unwrap_or_default()
}

/// Where a device that got a request answers.
pub(crate) fn response_topic(publish: &Publish) -> String {
    let topic = properties(publish).response_topic.expect("a Response Topic");
    topic.as_str().to_owned()
}

/// The answer of a device of MQTT 5: with the correlation data of the request.
pub(crate) fn answer_to(request: &Publish, payload: &str, qos: u8) -> Message {
    let mut answer = msg(&response_topic(request), payload.to_owned()).qos(qos);
    answer.properties.get_or_insert_default().correlation_data = properties(request).correlation_data;
    answer
}

/// A request of a client of MQTT 5.
pub(crate) fn request(topic: &str, response_topic: &str, correlation: &[u8], qos: u8) -> Message {
    let mut message = msg(topic, "question").qos(qos);
    let properties = message.properties.get_or_insert_default();
    properties.response_topic = Some(TopicName::new(response_topic.to_owned()).unwrap());
    properties.correlation_data = Some(Bytes::copy_from_slice(correlation));
    message
}

pub(crate) fn value(message: &async_nats::Message, name: &str) -> Option<String> {
    message.headers.as_ref()?.get(name).map(|value| value.as_str().to_owned())
}

/// Nothing waits for the client: what was sent to it before is there before the answer to a ping.
pub(crate) async fn has_nothing(client: &mut Client) {
    client.ping().await;
    assert_eq!(client.try_receive(Duration::ZERO).await.err(), Some(crate::harness::Ended::Silent));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_request_is_answered_by_a_device_of_mqtt_5_at_every_qos() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let t = unique("device");
    for subscribed in 0..=2 {
        let mut device = world.a.v5(&unique("device")).await;
        device.subscribe(&format!("{t}/{subscribed}/#"), subscribed).await;
        for qos in 0..=2 {
            let mut headers = header("Mqtt-Correlation-Data", "c%00%FF");
            headers.insert("Unit", "°C");
            let asked = ask(&nats, &format!("{t}.{subscribed}.cmd"), headers, "read");
            let got = device.receive().await;
            assert_eq!(got.topic_name().unwrap().as_str(), format!("{t}/{subscribed}/cmd"));
            assert_eq!(got.payload, "read");
            assert_eq!(properties(&got).correlation_data.as_deref(), Some(&b"c\0\xFF"[..]));
            assert_eq!(properties(&got).user_properties, [("Unit".into(), "°C".into())]);
            let mut answer = answer_to(&got, "21.5", qos);
            let properties = answer.properties.get_or_insert_default();
            properties.content_type = Some("text/plain".into());
            properties.user_properties = vec![("Tag".into(), "1".into()), ("Tag".into(), "2".into())];
            assert_eq!(device.publish(answer).await, ReasonCode::Success, "answered at {qos}");
            let answer = asked.await.unwrap();
            assert_eq!(answer.payload, "21.5", "subscribed at {subscribed}, answered at {qos}");
            assert_eq!(value(&answer, "Mqtt-Correlation-Data").as_deref(), Some("c%00%FF"));
            assert_eq!(value(&answer, "Content-Type").as_deref(), Some("text/plain"));
            let headers = answer.headers.unwrap();
            let tags: Vec<&str> = headers.get_all("Tag").map(|value| value.as_str()).collect();
            assert_eq!(tags, ["1", "2"]);
            assert!(headers.iter().all(|(name, _)| !name.to_string().starts_with("Nats-")), "{headers:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_can_be_given_on_another_sidecar_but_not_elsewhere() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let t = unique("device");
    let mut device = world.a.v5(&unique("device")).await;
    let mut other = world.b.v5(&unique("other")).await;
    device.subscribe(&t, 1).await;
    let inbox = format!("{t}.inbox");
    let mut answers = Watch::new(&nats, &inbox).await;
    nats.publish_with_reply(t.clone(), inbox, "1".into()).await.unwrap();
    let got = device.receive().await;
    let topic = response_topic(&got);
    assert!(topic.starts_with("$NMQ/reply/"), "{topic}");
    // A token that was changed, cut, or is of another kind, and one that is to be retained.
    let mut changed = topic.clone().into_bytes();
    *changed.last_mut().unwrap() ^= 1;
    let changed = String::from_utf8(changed).unwrap();
    for refused in
        [&changed, &topic[..topic.len() - 2], "$NMQ/reply/_INBOX.x", &format!("$NMQ/reply/next/{t}"), "$NMQ/reply"]
    {
        for qos in [1, 2] {
            let reason = device.publish(msg(refused, "no").qos(qos)).await;
            assert_eq!(reason, ReasonCode::NotAuthorized, "{refused} at {qos}");
        }
        device.publish(msg(refused, "no")).await;
    }
    assert_eq!(device.publish(answer_to(&got, "no", 1).retained()).await, ReasonCode::NotAuthorized);
    device.ping().await;
    assert_eq!(other.publish(answer_to(&got, "yes", 1)).await, ReasonCode::Success);
    assert_eq!(answers.next().await.payload, "yes", "nothing else was sent");

    for filter in ["$NMQ/reply/#", topic.as_str(), "$NMQ/reply/+"] {
        assert_eq!(device.asks_for(filter, 1).await, ReasonCode::NotAuthorized, "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_gets_no_response_topic() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let t = unique("device");
    let mut device = world.a.v5(&unique("device")).await;
    device.subscribe(&t, 0).await;
    for reply in ["$JS.API.STREAM.DELETE.ORDERS", "$SYS.REQ.x", "$KV.MQTT_sessions.x", "$NMQ.log.x"] {
        nats.publish_with_reply(t.clone(), reply, "m".into()).await.unwrap();
        settle(&nats).await;
        assert_eq!(device.receive().await.properties, None, "{reply}");
    }
    // A publish to a stream expects the stream's answer.
    let headers = header("Nats-Msg-Id", "1");
    nats.publish_with_reply_and_headers(t.clone(), nats.new_inbox(), headers, "m".into()).await.unwrap();
    settle(&nats).await;
    assert_eq!(device.receive().await.properties, None);
    // What says itself where the answer goes is passed on as it is.
    let headers = header("Mqtt-Response-Topic", "answers");
    nats.publish_with_reply_and_headers(t.clone(), nats.new_inbox(), headers, "m".into()).await.unwrap();
    settle(&nats).await;
    assert_eq!(response_topic(&device.receive().await), "answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_a_stream_captures_is_not_answered_into() {
    let world = World::own().await;
    let nats = world.nats.client().await;
    let mut device = world.a.v5("device").await;
    device.subscribe("orders/#", 0).await;
    let mut asker = world.b.v5("asker").await;
    asker.subscribe("answers", 1).await;
    let config = json!({ "name": "WORK", "subjects": ["orders.>"], "retention": "workqueue", "storage": "memory" });
    assert!(js_api(&nats, "STREAM.CREATE.WORK", &config).await["error"].is_null());
    // Known when a request is not offered any more.
    eventually("the sidecar knows the stream", async || {
        nats.publish_with_reply("orders.1", nats.new_inbox(), "m".into()).await.unwrap();
        settle(&nats).await;
        device.receive().await.properties.is_none()
    })
    .await;
    eventually("the other one does", async || {
        asker.publish(request("orders/2", "answers", b"c", 0)).await;
        let got = device.receive().await;
        assert_eq!(response_topic(&got), "answers");
        asker.publish(msg("answers", "end").qos(1)).await;
        // What the stream acknowledges would be taken for an answer.
        asker.receive_until("end").await.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_late_is_refused() {
    let nats_server = NatsServer::start();
    let sidecar = SidecarBuilder::of(&nats_server, "sidecar").set("REQUESTS__REPLY_TTL", "1s").start().await;
    let nats = nats_server.client().await;
    let mut device = sidecar.v5("device").await;
    device.subscribe("cmd", 1).await;
    let mut inbox = Watch::new(&nats, "inbox").await;
    nats.publish_with_reply("cmd", "inbox", "m".into()).await.unwrap();
    let got = device.receive().await;
    assert_eq!(device.publish(answer_to(&got, "in time", 1)).await, ReasonCode::Success);
    assert_eq!(inbox.next().await.payload, "in time");
    eventually("it is too late", async || {
        device.publish(answer_to(&got, "still in time", 1)).await == ReasonCode::TopicNameInvalid
    })
    .await;
    // At QoS 0 it is dropped, and the connection goes on.
    device.publish(answer_to(&got, "late", 0)).await;
    device.ping().await;
    assert!(sidecar.metric("mqtt_requests_total{event=\"refused\"}").await >= 2.0);
    drop(sidecar);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_of_mqtt_3_1_1_answers_by_the_topic_of_the_request() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    for subscribed in 0..=1 {
        let t = unique("old");
        let mut device = world.a.v311(&unique("device")).await;
        let mut stranger = world.a.v311(&unique("stranger")).await;
        device.subscribe(&t, subscribed).await;
        stranger.subscribe(&unique("other"), 1).await;
        let mut asked = Vec::new();
        for payload in ["1", "2", "3", "4"] {
            asked.push(ask(&nats, &t, header("Mqtt-Correlation-Data", payload), payload));
            assert_eq!(device.receive().await.payload, payload);
        }
        let (next, last) = (format!("$NMQ/reply/next/{t}"), format!("$NMQ/reply/last/{t}"));
        // Only whom the request went to can answer, and only what was asked.
        stranger.publish(msg(&next, "no").qos(1)).await;
        device.publish(msg(&format!("$NMQ/reply/next/{t}/x"), "no").qos(1)).await;
        device.publish(msg(&next, "to 1")).await;
        device.publish(msg(&next, "to 2").qos(1)).await;
        device.publish(msg(&last, "to 4").qos(2)).await;
        // The third one is given up with it.
        device.publish(msg(&next, "no").qos(1)).await;
        device.ping().await;
        let third = asked.remove(2);
        for (asked, number) in asked.into_iter().zip(["1", "2", "4"]) {
            let answer = asked.await.unwrap();
            assert_eq!(answer.payload, format!("to {number}"), "subscribed at {subscribed}");
            assert_eq!(value(&answer, "Mqtt-Correlation-Data").as_deref(), Some(number));
        }
        third.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_of_mqtt_3_1_1_answers_a_client_of_mqtt_5_too() {
    let world = World::shared().await;
    let t = unique("old");
    let mut device = world.a.v311(&unique("device")).await;
    device.subscribe(&format!("{t}/cmd"), 1).await;
    let mut asker = world.b.v5(&unique("asker")).await;
    asker.subscribe(&format!("{t}/answers"), 1).await;
    for qos in 0..=2 {
        asker.publish(request(&format!("{t}/cmd"), &format!("{t}/answers"), &[0, qos], qos)).await;
        device.receive().await;
        device.publish(msg(&format!("$NMQ/reply/next/{t}/cmd"), "done").qos(1)).await;
        let got = asker.receive().await;
        assert_eq!(got.payload, "done");
        assert_eq!(properties(&got).correlation_data.as_deref(), Some(&[0, qos][..]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_mqtt_5_asks_nats_and_gets_its_correlation_data_back() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let t = unique("service");
    let (topic, answers) = (format!("{t}/add"), format!("{t}/answers/to me"));
    let mut service = Watch::new(&nats, &format!("{t}.add")).await;
    let mut asker = world.a.v5(&unique("asker")).await;
    let mut listener = world.b.v5(&unique("listener")).await;
    asker.subscribe(&answers, 2).await;
    listener.subscribe(&answers, 2).await;
    for qos in 0..=2 {
        let asked = request(&topic, &answers, &[0, 255, qos], qos);
        assert_eq!(asker.publish(asked).await, ReasonCode::Success, "somebody listens");
        let got = service.next().await;
        assert_eq!(got.payload, "question");
        assert_eq!(value(&got, "Mqtt-Response-Topic").as_deref(), Some(answers.as_str()));
        assert_eq!(value(&got, "Mqtt-Correlation-Data"), Some(format!("%00%FF%0{qos}")));
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Service-Error-Code", "400");
        headers.insert("Unit", "°C");
        nats.publish_with_headers(got.reply.expect("a reply subject"), headers, "answer".into()).await.unwrap();
        for client in [&mut asker, &mut listener] {
            let answer = client.receive().await;
            assert_eq!(answer.payload, "answer");
            assert_eq!(answer.qos(), QoS::try_from(qos).unwrap(), "at the QoS of the request");
            let mut properties = properties(&answer);
            assert_eq!(properties.correlation_data.as_deref(), Some(&[0, 255, qos][..]));
            assert_eq!(properties.response_topic, None);
            properties.user_properties.sort();
            let expected = [("Nats-Service-Error-Code".into(), "400".into()), ("Unit".into(), "°C".into())];
            assert_eq!(properties.user_properties, expected);
        }
    }
    for client in [&mut asker, &mut listener] {
        has_nothing(client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_matching_subscribers_is_said_when_nobody_listens_anywhere() {
    // Elsewhere somebody may listen to everything.
    let world = World::own().await;
    let nats = world.nats.client().await;
    let t = unique("nobody");
    let mut asker = world.a.v5(&unique("asker")).await;
    let ask = |qos| request(&t, "answers", b"c", qos);
    for qos in [1, 2] {
        assert_eq!(asker.publish(ask(qos)).await, ReasonCode::NoMatchingSubscribers, "{qos}");
        // Only a request asks who listens.
        assert_eq!(asker.publish(msg(&t, "m").qos(qos)).await, ReasonCode::Success, "{qos}");
    }
    for sidecar in [&world.a, &world.b] {
        let mut subscriber = sidecar.v5(&unique("subscriber")).await;
        subscriber.subscribe(&t, 1).await;
        assert_eq!(asker.publish(ask(1)).await, ReasonCode::Success, "a client listens");
        assert_eq!(response_topic(&subscriber.receive().await), "answers");
        subscriber.disconnect(ReasonCode::Success).await;
    }
    let mut watch = Watch::new(&nats, &t).await;
    for qos in [1, 2] {
        assert_eq!(asker.publish(ask(qos)).await, ReasonCode::Success, "NATS listens");
        watch.next().await;
    }
    // QoS 0 has nobody to tell; it is counted.
    drop(watch);
    let series = "mqtt_requests_total{event=\"no_responders\"}";
    let before = world.a.metric(series).await;
    eventually("it is counted", async || {
        asker.publish(ask(0)).await;
        asker.ping().await;
        world.a.metric(series).await > before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_ask_clients_as_ever_and_get_one_answer() {
    let world = World::shared().await;
    let t = unique("mqtt");
    let (topic, answers) = (format!("{t}/cmd"), format!("{t}/answers"));
    let mut asker = world.a.v5(&unique("asker")).await;
    asker.subscribe(&answers, 2).await;
    for sidecar in [&world.a, &world.b] {
        let mut device = sidecar.v5(&unique("device")).await;
        for qos in 0..=2 {
            device.subscribe(&topic, qos).await;
            asker.publish(request(&topic, &answers, b"c", qos)).await;
            let got = device.receive().await;
            assert_eq!(response_topic(&got), answers);
            device.publish(answer_to(&got, "answer", qos)).await;
            assert_eq!(asker.receive().await.payload, "answer");
        }
        device.disconnect(ReasonCode::Success).await;
    }
    has_nothing(&mut asker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_topic_that_the_client_could_not_use_itself_is_refused() {
    let world = World::shared().await;
    let t = unique("closed");
    let mut asker = world.a.v5(&unique("asker")).await;
    let mut watch = Watch::new(&world.nats.client().await, &t).await;
    for answers in ["$JS/API/STREAM/DELETE/ORDERS", "_INBOX/x", "$SYS/x", "$NMQ/reply/x", "$NMQ/log/x"] {
        for qos in [1, 2] {
            let reason = asker.publish(request(&t, answers, b"c", qos)).await;
            assert_eq!(reason, ReasonCode::NotAuthorized, "{answers} at {qos}");
        }
        asker.publish(request(&t, answers, b"c", 0)).await;
    }
    asker.publish(msg(&t, "end").qos(1)).await;
    assert_eq!(watch.next().await.payload, "end");
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_requests_are_bounded_in_number_and_time() {
    let server = NatsServer::start();
    let sidecar = SidecarBuilder::of(&server, "sidecar")
        .set("REQUESTS__MAX_PENDING", "2")
        .set("REQUESTS__TIMEOUT", "1s")
        .start()
        .await;
    let nats = server.client().await;
    let mut service = Watch::new(&nats, "service").await;
    let mut asker = sidecar.v5("asker").await;
    asker.subscribe("answers", 1).await;
    let mut replies = Vec::new();
    for number in 0..3u8 {
        asker.publish(request("service", "answers", &[number], 1)).await;
        replies.push(service.next().await.reply.unwrap());
    }
    for reply in &replies {
        nats.publish(reply.clone(), "answer".into()).await.unwrap();
    }
    for number in [1, 2] {
        assert_eq!(properties(&asker.receive().await).correlation_data.as_deref(), Some(&[number][..]));
    }
    assert_eq!(sidecar.metric("mqtt_requests_total{event=\"evicted\"}").await, 1.0);
    asker.publish(request("service", "answers", b"c", 1)).await;
    let reply = service.next().await.reply.unwrap();
    eventually("its time is over", async || {
        sidecar.metric("mqtt_requests_total{event=\"timed_out\"}").await == 1.0
            && sidecar.metric("mqtt_requests_pending").await == 0.0
    })
    .await;
    nats.publish(reply, "late".into()).await.unwrap();
    eventually("the late answer is counted", async || {
        sidecar.metric("mqtt_requests_total{event=\"answered_late\"}").await == 2.0
    })
    .await;
    has_nothing(&mut asker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_sidecars_does_not_invalidate_what_was_asked() {
    let mut world = World::own().await;
    let nats = world.nats.client().await;
    let mut device = world.a.v5("device").await;
    device.subscribe("cmd", 1).await;
    let mut inbox = Watch::new(&nats, "inbox").await;
    nats.publish_with_reply("cmd", "inbox", "m".into()).await.unwrap();
    let got = device.receive().await;
    world.a.kill();
    let mut device = world.b.v5("device").await;
    assert_eq!(device.publish(answer_to(&got, "from b", 1)).await, ReasonCode::Success);
    assert_eq!(inbox.next().await.payload, "from b");
    world.a.restart().await;
    let mut device = world.a.v5("device").await;
    // The key is read after the start.
    eventually("the key is there", async || device.publish(answer_to(&got, "from a", 1)).await == ReasonCode::Success)
        .await;
    assert_eq!(inbox.next().await.payload, "from a");
}

#[tokio::test(flavor = "multi_thread")]
async fn paho_answers_nats_request_and_asks_a_micro_service() {
    let world = World::shared().await;
    let (port, t) = (world.b.mqtt_port.to_string(), unique("foreign"));
    let output = python("requests.py", &[&port, &world.nats.url(), &t]).await;
    assert_eq!(output.lines().last(), Some("both ways"), "{output}");
}

/// Workers of one group that answer whatever they are asked, with their own name. Ends with the handle.
fn answering(mut worker: Client) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok(question) = worker.try_receive(PATIENCE * 10).await {
            let name = worker.id().to_owned();
            let answer = format!("{} by {name}", String::from_utf8_lossy(&question.payload));
            worker.publish(answer_to(&question, &answer, 1)).await;
        }
    })
}

/// Six workers on two sidecars, two of each QoS.
async fn workers(world: &World, filter: &str) -> Vec<tokio::task::JoinHandle<()>> {
    let mut workers = Vec::new();
    // Those at QoS 0 come last: then they know that the group has a consumer.
    for qos in [2, 1, 0] {
        for sidecar in [&world.a, &world.b] {
            let mut worker = sidecar.v5(&unique("worker")).await;
            worker.subscribe(filter, qos).await;
            workers.push(answering(worker));
        }
    }
    workers
}

/// Each request has one answer, and more than one worker has answered.
fn each_once(answers: &[String], count: usize) {
    let (mut asked, mut names) = (Vec::new(), std::collections::HashSet::new());
    for answer in answers {
        let (question, name) = answer.split_once(" by ").unwrap();
        asked.push(question.parse::<usize>().unwrap());
        names.insert(name);
    }
    asked.sort_unstable();
    assert_eq!(asked, (0..count).collect::<Vec<_>>());
    assert!(names.len() > 1, "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_workers_answers_each_request_of_nats_once() {
    const COUNT: usize = 60;
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let t = unique("group");
    let workers = workers(&world, &format!("$share/{t}/{t}/+/do")).await;
    let inbox = format!("{t}.answers");
    let mut watch = Watch::new(&nats, &inbox).await;
    for number in 0..COUNT {
        nats.publish_with_reply(format!("{t}.job.do"), inbox.clone(), number.to_string().into()).await.unwrap();
    }
    let mut answers = Vec::new();
    for _ in 0..COUNT {
        answers.push(String::from_utf8(watch.next().await.payload.to_vec()).unwrap());
    }
    each_once(&answers, COUNT);
    // `nats request` takes the first one; a second one would be seen here.
    let asked = ask(&nats, &format!("{t}.job.do"), HeaderMap::new(), "last").await.unwrap();
    assert!(String::from_utf8_lossy(&asked.payload).starts_with("last by worker"), "{asked:?}");
    nats.publish(inbox, "end".into()).await.unwrap();
    assert_eq!(watch.next().await.payload, "end", "nobody else has answered");
    workers.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_workers_answers_each_request_of_a_client_once() {
    const EACH: usize = 20;
    let world = World::shared().await;
    let t = unique("group");
    let workers = workers(&world, &format!("$share/{t}/{t}/+/do")).await;
    let answers = format!("{t}/answers");
    let mut asker = world.b.v5(&unique("asker")).await;
    asker.subscribe(&answers, 1).await;
    for qos in 0..=2 {
        for number in 0..EACH {
            let mut question = request(&format!("{t}/job/do"), &answers, &[qos, number as u8], qos);
            question.payload = number.to_string().into();
            assert_eq!(asker.publish(question).await, ReasonCode::Success, "there are workers");
        }
        let mut got = Vec::new();
        for _ in 0..EACH {
            let answer = asker.receive().await;
            let text = String::from_utf8(answer.payload.to_vec()).unwrap();
            let number: u8 = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(properties(&answer).correlation_data.as_deref(), Some(&[qos, number][..]), "{text}");
            got.push(text);
        }
        each_once(&got, EACH);
    }
    has_nothing(&mut asker).await;
    workers.iter().for_each(tokio::task::JoinHandle::abort);
}

/// A worker of MQTT 3.1.1 in a group answers by the topic of the request.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_mqtt_3_1_1_in_a_group_answers_too() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    for qos in 0..=2 {
        let t = unique("old");
        let mut members = Vec::new();
        for sidecar in [&world.a, &world.b] {
            let mut worker = sidecar.v311(&unique("worker")).await;
            worker.subscribe(&format!("$share/g/{t}"), qos).await;
            members.push(worker);
        }
        for number in 0..6 {
            let asked = ask(&nats, &t, HeaderMap::new(), &number.to_string());
            let [one, other] = &mut members[..] else { unreachable!() };
            let worker = tokio::select! {
                _ = one.receive() => one,
                _ = other.receive() => other,
            };
            worker.publish(msg(&format!("$NMQ/reply/next/{t}"), format!("{number} done")).qos(1)).await;
            assert_eq!(asked.await.unwrap().payload, format!("{number} done"));
        }
        for worker in &mut members {
            has_nothing(worker).await;
        }
    }
}
