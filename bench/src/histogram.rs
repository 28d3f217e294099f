//! A histogram of durations: 64 buckets for each power of two, so that what it says is right to 1 %.

const SUB_BITS: u32 = 6;
const SUB: u64 = 1 << SUB_BITS;

/// How often each duration was seen, in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        let groups = 64 - SUB_BITS as usize + 1;
        Self { buckets: vec![0; groups * SUB as usize], count: 0 }
    }

    pub(crate) fn add(&mut self, ns: u64) {
        if let Some(bucket) = self.buckets.get_mut(bucket_of(ns)) {
            *bucket += 1;
            self.count += 1;
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket += more;
        }
        self.count += other.count;
    }

    /// What the share `quantile` of all durations did not exceed, in milliseconds; nothing when none was seen.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let wanted = ((self.count as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(middle_of(bucket) / 1e6)
    }
}

fn bucket_of(ns: u64) -> usize {
    if ns < SUB {
        return ns as usize;
    }
    let exponent = 63 - ns.leading_zeros();
    let group = u64::from(exponent - SUB_BITS + 1);
    (group * SUB + ((ns >> (exponent - SUB_BITS)) & (SUB - 1))) as usize
}

fn middle_of(bucket: usize) -> f64 {
    let (group, sub) = (bucket as u64 / SUB, bucket as u64 % SUB);
    if group == 0 {
        return sub as f64;
    }
    let width = 1u64 << (group - 1);
    ((SUB + sub) * width) as f64 + width as f64 / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_has_a_bucket_whose_middle_is_near() {
        let mut ns = 1u64;
        while ns < u64::MAX / 3 {
            for value in [ns - 1, ns, ns + ns / 3] {
                let middle = middle_of(bucket_of(value));
                assert!((middle - value as f64).abs() <= value as f64 / 100.0, "{value} is in the bucket of {middle}");
            }
            ns *= 2;
        }
        assert!(bucket_of(u64::MAX) < Histogram::new().buckets.len());
    }

    #[test]
    fn quantiles_are_of_all_that_was_added_and_merged() {
        let (mut low, mut high) = (Histogram::new(), Histogram::new());
        assert_eq!(low.quantile_ms(0.5), None);
        (0..90).for_each(|_| low.add(1_000_000));
        (0..10).for_each(|_| high.add(50_000_000));
        low.merge(&high);
        assert_eq!(low.count, 100);
        let near = |quantile, ms: f64| (low.quantile_ms(quantile).unwrap() - ms).abs() < ms / 100.0;
        assert!(near(0.5, 1.0) && near(0.9, 1.0) && near(0.91, 50.0) && near(0.99, 50.0));
    }
}
