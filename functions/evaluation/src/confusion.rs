//! Counts of right and wrong answers, and the figures that follow from them.

use serde::{Deserialize, Serialize};

/// How often a picture of one class was taken for another.
pub struct Confusion {
    /// A row for each true class, a column for each answer.
    counts: Vec<Vec<u32>>,
}

/// How a model does on one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassScore {
    /// The class.
    pub class: usize,
    /// How many pictures are of this class.
    pub pictures: u32,
    /// The share that is right among the pictures taken for this class; none where no picture was.
    pub precision: Option<f64>,
    /// The share that is found among the pictures of this class; none where there is no picture.
    pub recall: Option<f64>,
}

impl Confusion {
    /// Counts answers against the truth. Both are below `classes`; an answer without a truth is not counted.
    pub fn count(classes: usize, truth: &[u8], answers: &[u8]) -> Self {
        let mut counts = vec![vec![0; classes]; classes];
        for (&truth, &answer) in truth.iter().zip(answers) {
            counts[usize::from(truth)][usize::from(answer)] += 1;
        }
        Self { counts }
    }

    /// How many answers were counted.
    pub fn total(&self) -> u32 {
        self.counts.iter().flatten().sum()
    }

    /// The share of right answers; 0 where there are none at all.
    pub fn accuracy(&self) -> f64 {
        let right = (0..self.counts.len()).map(|class| self.counts[class][class]).sum();
        share(right, self.total()).unwrap_or(0.0)
    }

    /// Precision and recall of each class.
    pub fn class_scores(&self) -> Vec<ClassScore> {
        let score = |class: usize| {
            let right = self.counts[class][class];
            let pictures = self.counts[class].iter().sum();
            let taken_for_it = self.counts.iter().map(|row| row[class]).sum();
            ClassScore { class, pictures, precision: share(right, taken_for_it), recall: share(right, pictures) }
        };
        (0..self.counts.len()).map(score).collect()
    }

    /// The counts: a row for each true class, a column for each answer.
    pub fn rows(self) -> Vec<Vec<u32>> {
        self.counts
    }
}

fn share(part: u32, whole: u32) -> Option<f64> {
    (whole > 0).then(|| f64::from(part) / f64::from(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Class 0: 3 right, 1 taken for 1. Class 1: 2 right, 2 taken for 0. Class 2: all 2 taken for 0.
    fn by_hand() -> Confusion {
        Confusion::count(3, &[0, 0, 0, 0, 1, 1, 1, 1, 2, 2], &[0, 0, 0, 1, 1, 1, 0, 0, 0, 0])
    }

    #[test]
    fn answers_are_counted_by_truth_and_answer() {
        assert_eq!(by_hand().rows(), [[3, 1, 0], [2, 2, 0], [2, 0, 0]]);
    }

    #[test]
    fn accuracy_is_the_share_of_the_diagonal() {
        assert_eq!((by_hand().total(), by_hand().accuracy()), (10, 0.5));
    }

    #[test]
    fn precision_and_recall_are_those_computed_by_hand() {
        let scores = by_hand().class_scores();
        let expected = |class, pictures, precision, recall| ClassScore { class, pictures, precision, recall };
        assert_eq!(scores[0], expected(0, 4, Some(3.0 / 7.0), Some(0.75)));
        assert_eq!(scores[1], expected(1, 4, Some(2.0 / 3.0), Some(0.5)));
        assert_eq!(scores[2], expected(2, 2, None, Some(0.0)));
    }

    #[test]
    fn nothing_counted_is_nothing_right() {
        let nothing = Confusion::count(2, &[], &[]);
        assert_eq!((nothing.accuracy(), nothing.class_scores()[0].recall), (0.0, None));
    }
}
