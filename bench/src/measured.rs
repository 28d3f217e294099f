//! What a measurement has found.

/// A figure, with its unit and which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    MessagesPerSecond,
    ConnectsPerSecond,
    CpuPerMessage,
    CpuPerConnect,
    MedianMs,
    P99Ms,
    BytesEach,
    FirstMs,
    LastMs,
    CpuMs,
}

impl Figure {
    /// As it stands in the table.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::MessagesPerSecond => "messages/s",
            Self::ConnectsPerSecond => "connects/s",
            Self::CpuPerMessage => "CPU µs/message",
            Self::CpuPerConnect => "CPU µs/connect",
            Self::MedianMs => "p50 ms",
            Self::P99Ms => "p99 ms",
            Self::BytesEach => "bytes each",
            Self::FirstMs => "first ms",
            Self::LastMs => "last ms",
            Self::CpuMs => "CPU ms",
        }
    }
}

/// One measurement of one system.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    pub(crate) figures: Vec<(Figure, f64)>,
    /// What was not as it should be.
    pub(crate) remarks: Vec<String>,
    /// How many cores the generator itself was busy on.
    pub(crate) generator_cores: Option<f64>,
}

impl Measured {
    pub(crate) fn figure(&mut self, figure: Figure, value: Option<f64>) {
        self.figures.extend(value.map(|value| (figure, value)));
    }

    /// Says that something happened so many times, when it did.
    pub(crate) fn remark(&mut self, what: &str, count: u64) {
        if count > 0 {
            self.remarks.push(format!("{count} {what}"));
        }
    }
}
