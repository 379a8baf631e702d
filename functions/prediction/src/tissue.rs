//! Decides which pixels are tissue, and which tissue is stained.

use crate::{
    picture::Picture,
    stains::{Stain, deconvolve, optical_density},
};

/// The mean optical density from which on a pixel is tissue. Empty glass has about 0.035.
pub(crate) const TISSUE_DENSITY_MIN: f64 = 0.05;
/// DAB below this is never called stained. A threshold that divides any picture in two would otherwise
/// find stained tissue in one that nobody has stained.
const DAB_MIN: f64 = 0.15;
/// The amount of DAB that the highest of the 256 levels stands for.
pub(crate) const DAB_MAX: f64 = 2.4;
/// What stained tissue is tinted with.
pub(crate) const TINT: [u8; 3] = [0, 255, 80];

/// How many levels of DAB are told apart.
pub(crate) const LEVELS: usize = 256;

/// What was found in a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantified {
    /// The share of the picture that is tissue.
    pub tissue: f64,
    /// The share of the tissue that is stained; none where there is no tissue.
    pub stained: Option<f64>,
    /// The amount of DAB from which on tissue counts as stained.
    pub threshold: f64,
    /// The picture, with the stained tissue tinted.
    pub overlay: Picture,
}

/// Measures the tissue in a picture, and the stained part of it.
///
/// The threshold is the one that divides the tissue's DAB best in two (Otsu, 1979), by the picture's own light.
pub fn quantify(picture: &Picture) -> Quantified {
    let mut histogram = Histogram::default();
    for pixel in picture.pixels().iter().filter(|pixel| is_tissue(**pixel)) {
        histogram.0[usize::from(dab_level(*pixel))] += 1;
    }
    let threshold = histogram.threshold();
    let mut overlay = picture.clone();
    for pixel in overlay.pixels_mut() {
        if is_tissue(*pixel) && dab_level(*pixel) > threshold {
            *pixel = tinted(*pixel);
        }
    }
    histogram.conclude(overlay)
}

/// How much of the tissue has each level of DAB.
pub(crate) struct Histogram([u32; LEVELS]);

impl Default for Histogram {
    fn default() -> Self {
        Self([0; LEVELS])
    }
}

impl Histogram {
    /// Adds counts of each level.
    pub(crate) fn add(&mut self, counts: &[u32]) {
        self.0.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }

    /// The level above which tissue counts as stained.
    pub(crate) fn threshold(&self) -> u8 {
        otsu_level(&self.0).max(to_level(DAB_MIN))
    }

    /// What was found in the picture of this overlay.
    pub(crate) fn conclude(&self, overlay: Picture) -> Quantified {
        let threshold = self.threshold();
        let sum = |counts: &[u32]| counts.iter().map(|&count| count as usize).sum::<usize>();
        let (tissue, stained) = (sum(&self.0), sum(&self.0[usize::from(threshold) + 1..]));
        let share = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
        Quantified {
            tissue: share(tissue, overlay.pixels().len()).unwrap_or(0.0),
            stained: share(stained, tissue),
            threshold: f64::from(threshold) * DAB_MAX / 255.0,
            overlay,
        }
    }
}

/// The level that divides these best in two: the one with the greatest variance between the two classes
/// (Otsu, "A Threshold Selection Method from Gray-Level Histograms", 1979). Zero for none.
fn otsu_level(histogram: &[u32; LEVELS]) -> u8 {
    let sum_of = |part: &[u32], first: usize| -> f64 {
        part.iter().enumerate().map(|(index, count)| f64::from(*count) * (first + index) as f64).sum()
    };
    let between = |threshold: usize| {
        let (low, high) = histogram.split_at(threshold + 1);
        let [below, above] = [low, high].map(|part| part.iter().map(|count| f64::from(*count)).sum::<f64>());
        if below == 0.0 || above == 0.0 {
            return 0.0;
        }
        let apart = sum_of(low, 0) / below - sum_of(high, threshold + 1) / above;
        below * above * apart * apart
    };
    (0..=255).max_by(|a, b| between(usize::from(*a)).total_cmp(&between(usize::from(*b))).then(b.cmp(a))).unwrap_or(0)
}

fn is_tissue(pixel: [u8; 3]) -> bool {
    optical_density(pixel).iter().sum::<f64>() / 3.0 >= TISSUE_DENSITY_MIN
}

fn dab_level(pixel: [u8; 3]) -> u8 {
    to_level(deconvolve(pixel)[Stain::Dab as usize])
}

fn to_level(amount: f64) -> u8 {
    // The cast saturates: what is negative becomes 0, what is over the scale 255.
    (amount / DAB_MAX * 255.0).round() as u8
}

fn tinted(pixel: [u8; 3]) -> [u8; 3] {
    let mix = |channel: usize| pixel[channel] / 2 + TINT[channel] / 2;
    [mix(0), mix(1), mix(2)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SAMPLE_BYTES, read_picture, stained_with};

    /// Four columns: glass, blue nuclei, faint brown, strong brown.
    fn a_section() -> Picture {
        let columns =
            [[255; 3], stained_with([0.5, 0.0, 0.0]), stained_with([0.3, 0.0, 0.1]), stained_with([0.1, 0.0, 0.9])];
        Picture::from_fn(4, 10, |x, _| columns[x as usize])
    }

    #[test]
    fn glass_is_no_tissue_and_only_strong_brown_is_stained() {
        let found = quantify(&a_section());
        assert_eq!((found.tissue, found.stained), (0.75, Some(1.0 / 3.0)));
        assert!((0.1..0.9).contains(&found.threshold), "{}", found.threshold);
    }

    #[test]
    fn the_overlay_tints_what_is_stained_and_nothing_else() {
        let section = a_section();
        let overlay = quantify(&section).overlay;
        for (place, (pixel, found)) in section.pixels().iter().zip(overlay.pixels()).enumerate() {
            let expected = if place % 4 == 3 { tinted(*pixel) } else { *pixel };
            assert_eq!(*found, expected, "{place}");
        }
    }

    #[test]
    fn tissue_without_dab_has_nothing_stained() {
        let shades = [0.2, 0.5, 0.8].map(|amount| stained_with([amount, 0.0, 0.02]));
        let found = quantify(&Picture::from_fn(30, 10, |x, _| shades[x as usize % 3]));
        assert_eq!((found.tissue, found.stained), (1.0, Some(0.0)));
    }

    #[test]
    fn tissue_that_is_brown_all_over_is_stained_all_over() {
        let brown = stained_with([0.1, 0.0, 0.9]);
        assert_eq!(quantify(&Picture::from_fn(5, 5, |_, _| brown)).stained, Some(1.0));
    }

    #[test]
    fn an_empty_slide_has_no_tissue() {
        let found = quantify(&Picture::from_fn(5, 5, |_, _| [250; 3]));
        assert_eq!((found.tissue, found.stained), (0.0, None));
    }

    /// Computed with scikit-image 0.26: `rgb2hed` and `threshold_otsu` on the same tissue.
    #[test]
    fn the_sample_agrees_with_another_implementation() {
        let found = quantify(&read_picture(SAMPLE_BYTES).unwrap());
        assert!((found.tissue - 0.9075).abs() < 0.001, "{}", found.tissue);
        assert!((found.threshold - 0.387).abs() < 0.01, "{}", found.threshold);
        assert!((found.stained.unwrap() - 0.4835).abs() < 0.005, "{:?}", found.stained);
    }
}
