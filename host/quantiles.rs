//! Quantiles of recent durations: a small ring, sorted when something is added, so that reading costs nothing.

/// Samples kept: enough for a p95, few enough that sorting them is under two microseconds.
const KEPT: usize = 64;

/// The newest 64 samples, in milliseconds.
#[derive(Debug, Clone)]
pub struct Quantiles {
    ring: [u32; KEPT],
    count: usize,
    p50: u32,
    p95: u32,
}

impl Default for Quantiles {
    fn default() -> Self {
        Self {
            ring: [0; KEPT],
            count: 0,
            p50: 0,
            p95: 0,
        }
    }
}

impl Quantiles {
    /// Adds a sample; the oldest is forgotten. Zero is unknown, so a sample counts as at least 1 ms.
    pub fn add(&mut self, milliseconds: u32) {
        self.ring[self.count % KEPT] = milliseconds.max(1);
        self.count += 1;
        let mut sorted = self.ring;
        let sorted = &mut sorted[..self.count.min(KEPT)];
        sorted.sort_unstable();
        self.p50 = sorted[(sorted.len() - 1) / 2];
        self.p95 = sorted[(sorted.len() * 95).div_ceil(100) - 1];
    }

    /// The median; 0 when nothing is known.
    pub fn p50(&self) -> u32 {
        self.p50
    }

    /// What 95 of 100 samples stay within; 0 when nothing is known.
    pub fn p95(&self) -> u32 {
        self.p95
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_known_at_first() {
        assert_eq!((Quantiles::default().p50(), Quantiles::default().p95()), (0, 0));
    }

    #[test]
    fn are_of_the_newest_samples() {
        let mut quantiles = Quantiles::default();
        for sample in 1..=20 {
            quantiles.add(sample);
        }
        assert_eq!((quantiles.p50(), quantiles.p95()), (10, 19));
        for _ in 0..KEPT {
            quantiles.add(500);
        }
        assert_eq!((quantiles.p50(), quantiles.p95()), (500, 500));
    }
}
