//! Takes the dyes of a stained section apart (Ruifrok and Johnston, 2001).
//!
//! Dyes multiply the light that passes, so their optical densities (the logarithm of the light that they
//! take) add up. Each dye takes red, green and blue in a proportion of its own; the inverse of the matrix
//! of these proportions tells how much of each dye a pixel holds.

use std::sync::LazyLock;

use glam::{DMat3, DVec3};

/// A dye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stain {
    /// Blue, on nuclei.
    Hematoxylin = 0,
    /// Pink, on everything; in sections without it, what the two others do not explain.
    Eosin = 1,
    /// Brown (diaminobenzidine), where the antibody has bound.
    Dab = 2,
}

/// The optical density of each dye for red, green and blue, as published.
const PUBLISHED: [DVec3; 3] = [
    DVec3::new(0.65, 0.70, 0.29), // hematoxylin
    DVec3::new(0.07, 0.99, 0.11), // eosin
    DVec3::new(0.27, 0.57, 0.78), // DAB
];

/// A column for each dye, of unit length: an amount of 1 has a density of 1 over the three colours.
static DENSITIES: LazyLock<DMat3> = LazyLock::new(|| {
    let [hematoxylin, eosin, dab] = PUBLISHED.map(DVec3::normalize);
    DMat3::from_cols(hematoxylin, eosin, dab)
});

/// The inverse exists: the published dyes are independent, as a test shows.
static AMOUNTS: LazyLock<DMat3> = LazyLock::new(|| DENSITIES.inverse());

/// The optical density of each colour of a pixel: 0 for white, 2.4 for black.
pub(crate) fn optical_density(pixel: [u8; 3]) -> [f64; 3] {
    // Black would take an infinite amount of dye; it is read as the darkest grey.
    pixel.map(|light| -(f64::from(light.max(1)) / 255.0).log10())
}

/// How much of each dye a pixel holds, by [`Stain`]. A negative amount is a colour that no mix of the dyes has.
pub fn deconvolve(pixel: [u8; 3]) -> [f64; 3] {
    (*AMOUNTS * DVec3::from(optical_density(pixel))).into()
}

/// How much of a dye a pixel holds for each unit of density of red, green and blue.
pub(crate) fn amounts_of(stain: Stain) -> [f64; 3] {
    AMOUNTS.row(stain as usize).into()
}

/// The pixel that holds these amounts of the dyes, by [`Stain`].
pub fn stained_with(amounts: [f64; 3]) -> [u8; 3] {
    let density: [f64; 3] = (*DENSITIES * DVec3::from(amounts)).into();
    density.map(|density| (255.0 * 10_f64.powf(-density)).round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_near(found: [f64; 3], expected: [f64; 3], within: f64) {
        for (found, expected) in found.into_iter().zip(expected) {
            assert!((found - expected).abs() < within, "{found} is not {expected}");
        }
    }

    #[test]
    fn a_pixel_of_one_dye_holds_that_dye_alone() {
        for stain in [Stain::Hematoxylin, Stain::Eosin, Stain::Dab] {
            let mut amounts = [0.0; 3];
            amounts[stain as usize] = 0.6;
            // What is left is the rounding of a colour to 8 bits.
            assert_near(deconvolve(stained_with(amounts)), amounts, 0.01);
        }
    }

    #[test]
    fn mixed_dyes_are_taken_apart_again() {
        let amounts = [0.4, 0.1, 0.3];
        assert_near(deconvolve(stained_with(amounts)), amounts, 0.01);
    }

    #[test]
    fn the_published_vector_of_a_dye_is_that_dye() {
        for (dye, density) in PUBLISHED.into_iter().enumerate() {
            let length = density.length();
            let mut expected = [0.0; 3];
            expected[dye] = length;
            assert_near((*AMOUNTS * density).into(), expected, 1e-12);
        }
    }

    /// Computed with scikit-image 0.26: `rgb2hed`, scaled to decadic density and to dyes of unit length.
    #[test]
    fn amounts_agree_with_another_implementation() {
        let agree = |pixel, hematoxylin: f64, dab: f64| {
            let [h, _, d] = deconvolve(pixel);
            assert_near([h, 0.0, d], [hematoxylin, 0.0, dab], 1e-6);
        };
        agree([156, 118, 81], 0.07881671, 0.62161449);
        agree([135, 100, 72], 0.16106993, 0.65755785);
        agree([216, 219, 236], 0.11059127, 0.00388302);
    }

    #[test]
    fn white_holds_nothing_and_black_is_finite() {
        assert_near(deconvolve([255; 3]), [0.0; 3], 1e-12);
        assert!(deconvolve([0; 3]).iter().all(|amount| amount.is_finite()));
    }
}
