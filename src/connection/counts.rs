//! What a connection adds to the metrics.

use mqtt_codec::{PacketType, QoS};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;
use crate::metrics::Direction;

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    pub(super) fn count(&mut self) {
        self.held.set(self.session.held_count() + self.answers_after_record.len());
        self.io.hold(self.ahead.cost() + self.publishing.bytes_behind() + self.backlog.bytes());
        let metrics = &self.account.metrics;
        let [received, sent] = std::mem::take(&mut self.io.uncounted);
        metrics.bytes(received, sent);
        for (direction, bytes) in [Direction::In, Direction::Out].into_iter().zip(&mut self.counts.payload_bytes) {
            metrics.payload_bytes(direction, std::mem::take(bytes));
        }
        metrics.packets(Direction::Out, PacketType::Publish, self.counts.delivered.iter().sum());
        for (qos, index) in [(QoS::AtMostOnce, 0), (QoS::AtLeastOnce, 1), (QoS::ExactlyOnce, 2)] {
            for (direction, counts) in
                [(Direction::In, &mut self.counts.published), (Direction::Out, &mut self.counts.delivered)]
            {
                if counts[index] > 0 {
                    self.account.metrics.messages(direction, qos, std::mem::take(&mut counts[index]));
                }
            }
        }
    }
}
