//! Weighted turns: which of several queues that share slots is polled next.
//!
//! Smooth weighted round robin (as nginx does it): each queue gains its weight a turn, the richest is
//! chosen and pays the sum. A queue of weight 4 beside one of weight 1 gets four turns of five, spread
//! evenly, and none ever starves.

/// Turns over items numbered from zero.
#[derive(Clone, Debug)]
pub struct Turns {
    weights: Vec<i64>,
    credits: Vec<i64>,
}

impl Turns {
    /// Turns over as many items as there are weights. A weight of zero counts as one.
    #[must_use]
    pub fn new(weights: &[u32]) -> Self {
        Self {
            weights: weights.iter().map(|weight| i64::from((*weight).max(1))).collect(),
            credits: vec![0; weights.len()],
        }
    }

    /// The next order to try: the one whose turn it is first, the others by their credit. Only the
    /// first pays; call [`Self::served`] with the one that had something.
    #[must_use]
    pub fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.weights.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(self.credits[*index] + self.weights[*index]));
        order
    }

    /// Notes that this item was served: the others gain, it pays.
    pub fn served(&mut self, index: usize) {
        let sum: i64 = self.weights.iter().sum();
        for (credit, weight) in self.credits.iter_mut().zip(&self.weights) {
            // Bounded, so that a queue that stood empty for a year does not own the next day.
            *credit = (*credit + weight).clamp(-sum * 2, sum * 2);
        }
        if let Some(credit) = self.credits.get_mut(index) {
            *credit -= sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_queue_gets_its_share_and_none_starves() {
        let mut turns = Turns::new(&[4, 1, 1]);
        let mut counts = [0; 3];
        for _ in 0..60 {
            let first = turns.order()[0];
            counts[first] += 1;
            turns.served(first);
        }
        assert_eq!(counts, [40, 10, 10]);
    }

    #[test]
    fn a_queue_that_stood_empty_does_not_take_over() {
        let mut turns = Turns::new(&[1, 1]);
        for _ in 0..1000 {
            turns.served(0);
        }
        let mut in_a_row = 0;
        while turns.order()[0] == 1 {
            turns.served(1);
            in_a_row += 1;
        }
        assert!(in_a_row <= 6, "{in_a_row}");
    }
}
