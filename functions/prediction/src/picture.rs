//! Pictures as bytes and back, within limits.

use std::io::Cursor;

use png::{BitDepth, ColorType, Decoder, DecodingError, Encoder, EncodingError, Limits, Transformations};

/// Neither side of a picture may be longer. The counts of the threshold are 32 bits wide, and 255 times
/// as many pixels still fit.
pub(crate) const SIDE_MAX: u32 = 4_096;
const _: () = assert!((SIDE_MAX as u64).pow(2) * 255 <= u32::MAX as u64);

/// What decoding may take at most: four channels of 16 bits.
const MEMORY_MAX: usize = (SIDE_MAX as usize).pow(2) * 8;

/// Why bytes are not a picture, or a picture does not become bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// They are not read as a picture.
    #[error("not a readable PNG of at most {SIDE_MAX} x {SIDE_MAX} pixels")]
    Unreadable(#[source] Option<DecodingError>),
    /// It cannot be written.
    #[error("the picture cannot be written as PNG")]
    Unwritable(#[from] EncodingError),
}

impl From<DecodingError> for PictureError {
    fn from(error: DecodingError) -> Self {
        Self::Unreadable(Some(error))
    }
}

/// Pixels of red, green and blue, row after row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    pixels: Vec<[u8; 3]>,
}

impl Picture {
    /// A picture by the colour of each place.
    pub fn from_fn(width: u32, height: u32, mut colour: impl FnMut(u32, u32) -> [u8; 3]) -> Self {
        let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        Self { width, height, pixels: places.map(|(x, y)| colour(x, y)).collect() }
    }

    /// Its width and height.
    pub const fn dimensions(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Its pixels.
    pub fn pixels(&self) -> &[[u8; 3]] {
        &self.pixels
    }

    /// The same, to be changed.
    pub fn pixels_mut(&mut self) -> &mut [[u8; 3]] {
        &mut self.pixels
    }
}

/// Reads a PNG of any colour type. What it says of transparency is left out.
///
/// # Errors
///
/// It is none, or too large.
pub fn read_picture(bytes: &[u8]) -> Result<Picture, PictureError> {
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: MEMORY_MAX });
    decoder.set_transformations(Transformations::normalize_to_color8());
    let header = decoder.read_header_info()?;
    let (width, height) = (header.width, header.height);
    if width.max(height) > SIDE_MAX {
        return Err(PictureError::Unreadable(None));
    }
    let mut reader = decoder.read_info()?;
    let mut samples = vec![0; reader.output_buffer_size().ok_or(PictureError::Unreadable(None))?];
    let frame = reader.next_frame(&mut samples)?;
    samples.truncate(frame.buffer_size());
    let channels = frame.color_type.samples();
    let pixels = samples.chunks_exact(channels).map(|pixel| match pixel {
        [red, green, blue, ..] => [*red, *green, *blue],
        grey => [grey[0]; 3],
    });
    Ok(Picture { width, height, pixels: pixels.collect() })
}

/// Writes a PNG.
///
/// # Errors
///
/// A side of it has no pixel.
pub fn write_picture(picture: &Picture) -> Result<Vec<u8>, PictureError> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, picture.width, picture.height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(picture.pixels.as_flattened())?;
    writer.finish()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SAMPLE_BYTES;

    #[test]
    fn a_picture_is_read_back_as_it_was_written() {
        let picture = read_picture(SAMPLE_BYTES).unwrap();
        assert_eq!(picture.dimensions(), (512, 512));
        assert_eq!(read_picture(&write_picture(&picture).unwrap()).unwrap(), picture);
    }

    /// Two pixels of each: black and white, or red and half-transparent blue.
    #[test]
    fn every_colour_type_is_read_as_red_green_and_blue() {
        let black_and_white = [[0; 3], [255; 3]];
        let red_and_blue = [[255, 0, 0], [0, 0, 255]];
        type Case<'a> = (ColorType, BitDepth, &'a [u8], [[u8; 3]; 2]);
        let cases: [Case<'_>; 7] = [
            (ColorType::Grayscale, BitDepth::One, &[0b0100_0000], black_and_white),
            (ColorType::Grayscale, BitDepth::Eight, &[0, 255], black_and_white),
            (ColorType::Grayscale, BitDepth::Sixteen, &[0, 0, 255, 255], black_and_white),
            (ColorType::GrayscaleAlpha, BitDepth::Eight, &[0, 255, 255, 128], black_and_white),
            (ColorType::Rgb, BitDepth::Eight, &[255, 0, 0, 0, 0, 255], red_and_blue),
            (ColorType::Rgba, BitDepth::Eight, &[255, 0, 0, 255, 0, 0, 255, 128], red_and_blue),
            (ColorType::Indexed, BitDepth::Eight, &[1, 0], red_and_blue),
        ];
        for (colours, depth, samples, expected) in cases {
            let mut bytes = Vec::new();
            let mut encoder = Encoder::new(&mut bytes, 2, 1);
            encoder.set_color(colours);
            encoder.set_depth(depth);
            if colours == ColorType::Indexed {
                encoder.set_palette(vec![0, 0, 255, 255, 0, 0]);
            }
            let mut writer = encoder.write_header().unwrap();
            writer.write_image_data(samples).unwrap();
            writer.finish().unwrap();
            assert_eq!(read_picture(&bytes).unwrap().pixels(), expected, "{colours:?} {depth:?}");
        }
    }

    #[test]
    fn garbage_is_refused() {
        for garbage in [&b""[..], b"not a picture", &SAMPLE_BYTES[..1000]] {
            assert!(read_picture(garbage).is_err());
        }
    }

    #[test]
    fn a_picture_over_the_limit_is_refused() {
        let wide = write_picture(&Picture::from_fn(SIDE_MAX + 1, 1, |_, _| [0; 3])).unwrap();
        let refusal = read_picture(&wide).unwrap_err().to_string();
        assert_eq!(refusal, "not a readable PNG of at most 4096 x 4096 pixels");
    }
}
