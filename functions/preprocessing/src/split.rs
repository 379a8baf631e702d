//! Splits pictures into those a model learns from and those it is judged by.
//!
//! The split is stratified: each class gives the same share, so that a rare class is neither left out
//! of the training nor of the judging.

use fastrand::Rng;
use ndarray::Array2;
use platform::Samples;

use crate::digits::RawPictures;

/// Why pictures cannot be split as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// A share that leaves one side without pictures by its nature.
    #[error("`test_fraction` is {0}: use a number above 0 and below 1, such as 0.2")]
    Fraction(f64),
    /// A share that leaves one side without pictures of some class.
    #[error("`test_fraction` is {fraction}: class {class} has {pictures} pictures, and both sides need one at least")]
    ClassTooSmall {
        /// The share that was asked for.
        fraction: f64,
        /// The class that one side would miss.
        class: u8,
        /// How many pictures it has.
        pictures: usize,
    },
}

/// Splits into the training part and the held-out part, each in random order. The same seed splits alike.
pub fn split(raw: &RawPictures, test_fraction: f64, seed: u64) -> Result<(Samples, Samples), SplitError> {
    if !(test_fraction > 0.0 && test_fraction < 1.0) {
        return Err(SplitError::Fraction(test_fraction));
    }
    let mut rng = Rng::with_seed(seed);
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for class in 0..=raw.labels.iter().copied().max().unwrap_or(0) {
        let mut members: Vec<usize> = (0..raw.labels.len()).filter(|&i| raw.labels[i] == class).collect();
        let held = (members.len() as f64 * test_fraction).round() as usize;
        if held == 0 || held == members.len() {
            let pictures = members.len();
            return Err(SplitError::ClassTooSmall { fraction: test_fraction, class, pictures });
        }
        rng.shuffle(&mut members);
        held_out.extend_from_slice(&members[..held]);
        train.extend_from_slice(&members[held..]);
    }
    rng.shuffle(&mut train);
    rng.shuffle(&mut held_out);
    Ok((select(raw, &train), select(raw, &held_out)))
}

fn select(raw: &RawPictures, chosen: &[usize]) -> Samples {
    let pixels = chosen.first().map_or(0, |&i| raw.pictures[i].len());
    Samples {
        images: Array2::from_shape_fn((chosen.len(), pixels), |(row, pixel)| raw.pictures[chosen[row]][pixel]),
        labels: chosen.iter().map(|&i| raw.labels[i]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten pictures of class 0 and twenty of class 1; each picture is its own number.
    fn thirty() -> RawPictures {
        RawPictures {
            pictures: (0..30_u8).map(|i| vec![f32::from(i)]).collect(),
            labels: (0..30).map(|i| u8::from(i >= 10)).collect(),
        }
    }

    #[test]
    fn every_class_gives_the_same_share() {
        let (train, held_out) = split(&thirty(), 0.3, 1).unwrap();
        let of_class = |samples: &Samples, class| samples.labels.iter().filter(|&&l| l == class).count();
        assert_eq!((of_class(&held_out, 0), of_class(&held_out, 1)), (3, 6));
        assert_eq!((of_class(&train, 0), of_class(&train, 1)), (7, 14));
    }

    #[test]
    fn every_picture_lands_on_one_side_with_its_own_label() {
        let (train, held_out) = split(&thirty(), 0.3, 1).unwrap();
        let mut seen: Vec<(u8, u8)> = [&train, &held_out]
            .iter()
            .flat_map(|side| side.images.iter().map(|&p| p as u8).zip(side.labels.clone()))
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..30).map(|i| (i, u8::from(i >= 10))).collect::<Vec<_>>());
    }

    #[test]
    fn a_share_that_empties_a_side_is_refused() {
        for fraction in [0.0, 1.0, -0.5, f64::NAN] {
            let refusal = split(&thirty(), fraction, 1).unwrap_err().to_string();
            assert!(refusal.contains("above 0 and below 1"), "{refusal}");
        }
        let refusal = split(&thirty(), 0.01, 1).unwrap_err().to_string();
        assert!(refusal.contains("class 0 has 10 pictures"), "{refusal}");
    }
}
