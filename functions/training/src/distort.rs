//! Shows a picture as another hand might have written it: turned, scaled and moved a little.
//!
//! A network that never sees the same picture twice learns what a digit is and not which pixels a
//! picture has. On small data this is worth more than any other setting.

use fastrand::Rng;

/// Largest turn, in radians.
const TURN_MAX: f32 = 0.2;
/// Largest change of size, as a share.
const SCALE_MAX: f32 = 0.12;
/// Largest move along each side, in pixels.
const MOVE_MAX: f32 = 1.0;

/// One way in which another hand might write.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Distortion {
    cos: f32,
    sin: f32,
    move_x: f32,
    move_y: f32,
}

impl Distortion {
    /// Draws one.
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let mut upto = |limit: f32| limit * (2.0 * rng.f32() - 1.0);
        let (turn, scale) = (upto(TURN_MAX), 1.0 + upto(SCALE_MAX));
        let (move_x, move_y) = (upto(MOVE_MAX), upto(MOVE_MAX));
        Self { cos: turn.cos() * scale, sin: turn.sin() * scale, move_x, move_y }
    }

    /// The four numbers that say it all, for other devices: cosine and sine of the turn, scaled, and the move.
    pub(crate) fn numbers(self) -> [f32; 4] {
        [self.cos, self.sin, self.move_x, self.move_y]
    }

    /// The distorted version of `picture`, which has rows of `width` pixels.
    pub(crate) fn of(self, picture: &[f32], width: usize) -> Vec<f32> {
        let Self { cos, sin, move_x, move_y } = self;
        let height = picture.len() / width;
        let (middle_x, middle_y) = ((width - 1) as f32 / 2.0, (height - 1) as f32 / 2.0);

        let pixel_at = |at| {
            // Where this pixel comes from: a turn around the middle, and a move.
            let (x, y) = ((at % width) as f32 - middle_x, (at / width) as f32 - middle_y);
            let from_x = cos * x - sin * y + middle_x + move_x;
            let from_y = sin * x + cos * y + middle_y + move_y;
            between_pixels(picture, width, from_x, from_y)
        };
        (0..picture.len()).map(pixel_at).collect()
    }
}

/// The picture at a place between its pixels (bilinear). Outside there is paper.
fn between_pixels(picture: &[f32], width: usize, x: f32, y: f32) -> f32 {
    let height = picture.len() / width;
    let (left, top) = (x.floor(), y.floor());
    let (right_share, bottom_share) = (x - left, y - top);
    let pixel = |column: f32, row: f32| {
        let inside = column >= 0.0 && row >= 0.0 && column < width as f32 && row < height as f32;
        if inside { picture[row as usize * width + column as usize] } else { 0.0 }
    };
    let upper = pixel(left, top) * (1.0 - right_share) + pixel(left + 1.0, top) * right_share;
    let lower = pixel(left, top + 1.0) * (1.0 - right_share) + pixel(left + 1.0, top + 1.0) * right_share;
    upper * (1.0 - bottom_share) + lower * bottom_share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_on_a_pixel_is_that_pixel() {
        let picture = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6];
        assert_eq!(between_pixels(&picture, 3, 2.0, 1.0), 0.6);
        assert_eq!(between_pixels(&picture, 3, 0.0, 0.0), 0.1);
    }

    #[test]
    fn a_place_between_pixels_is_their_mean() {
        let picture = [0.0, 1.0, 0.0, 1.0];
        assert_eq!(between_pixels(&picture, 2, 0.5, 0.5), 0.5);
        assert_eq!(between_pixels(&picture, 2, 0.25, 0.0), 0.25);
    }

    #[test]
    fn outside_the_picture_there_is_paper() {
        assert_eq!(between_pixels(&[1.0; 4], 2, -1.0, 0.0), 0.0);
        assert_eq!(between_pixels(&[1.0; 4], 2, 1.5, 1.0), 0.5);
    }

    #[test]
    fn a_distorted_picture_is_another_and_keeps_most_of_its_ink() {
        let mut picture = [0.0; 64];
        for at in [26, 27, 28, 34, 35, 36] {
            picture[at] = 1.0;
        }
        let mut rng = Rng::with_seed(1);
        for _ in 0..100 {
            let distorted = Distortion::random(&mut rng).of(&picture, 8);
            let ink: f32 = distorted.iter().sum();
            assert_ne!(distorted, picture.to_vec());
            assert!((4.0..=8.5).contains(&ink), "{ink}");
        }
    }
}
