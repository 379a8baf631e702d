//! The embedded pictures of handwritten digits; `data/README.md` says where they come from.

use flate2::read::GzDecoder;

pub(crate) const WIDTH: usize = 8;
pub(crate) const HEIGHT: usize = 8;
pub(crate) const CLASSES: usize = 10;

/// The value of a pixel that is all ink.
const INK: f32 = 16.0;
const DIGITS: &[u8] = include_bytes!("../data/digits.csv.gz");

/// Pictures as they were collected: pixels from 0 (paper) to 1 (ink), and the class of each.
pub struct RawPictures {
    /// One picture each, row by row.
    pub pictures: Vec<Vec<f32>>,
    /// The class of each picture.
    pub labels: Vec<u8>,
}

/// Reads the embedded pictures, in the order in which they were collected.
pub fn read_digits() -> Result<RawPictures, csv::Error> {
    let mut lines = csv::ReaderBuilder::new().has_headers(false).from_reader(GzDecoder::new(DIGITS));
    let mut digits = RawPictures { pictures: Vec::new(), labels: Vec::new() };
    for line in lines.deserialize() {
        // 64 pixels and the class; serde knows arrays of up to 32.
        let (pixels, label): ([[u8; 32]; 2], u8) = line?;
        digits.pictures.push(pixels.as_flattened().iter().map(|&ink| f32::from(ink) / INK).collect());
        digits.labels.push(label);
    }
    Ok(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_becomes_a_picture_with_a_label() {
        let digits = read_digits().unwrap();
        assert_eq!(digits.pictures.len(), 1797);
        assert!(digits.pictures.iter().all(|picture| picture.len() == WIDTH * HEIGHT));
        assert!(digits.labels.iter().all(|label| usize::from(*label) < CLASSES));
    }

    #[test]
    fn the_first_picture_is_the_zero_that_the_file_begins_with() {
        let digits = read_digits().unwrap();
        assert_eq!(digits.labels[0], 0);
        assert_eq!(digits.pictures[0][..8], [0.0, 0.0, 0.3125, 0.8125, 0.5625, 0.0625, 0.0, 0.0]);
    }
}
