//! Pictures as bytes and back, within limits.

use std::io::Cursor;

use image::{ImageError, ImageFormat, ImageReader, Limits, RgbImage};

/// Neither side of a picture may be longer. The counts of the threshold are 32 bits wide, and 255 times
/// as many pixels still fit.
pub(crate) const SIDE_MAX: u32 = 4_096;
const _: () = assert!((SIDE_MAX as u64).pow(2) * 255 <= u32::MAX as u64);

/// What decoding may take at most: four channels of 16 bits.
const MEMORY_MAX: u64 = (SIDE_MAX as u64).pow(2) * 8;

/// Why bytes are not a picture, or a picture does not become bytes.
#[derive(Debug, thiserror::Error)]
#[error("not a readable PNG of at most {SIDE_MAX} x {SIDE_MAX} pixels")]
pub struct PictureError(#[from] ImageError);

/// Reads a PNG of any colour type.
pub fn read_picture(bytes: &[u8]) -> Result<RgbImage, PictureError> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(MEMORY_MAX);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), ImageFormat::Png);
    reader.limits(limits);
    Ok(reader.decode()?.into_rgb8())
}

/// Writes a PNG.
pub fn write_picture(picture: &RgbImage) -> Result<Vec<u8>, PictureError> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png)?;
    Ok(bytes.into_inner())
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

    #[test]
    fn garbage_is_refused() {
        for garbage in [&b""[..], b"not a picture", &SAMPLE_BYTES[..1000]] {
            assert!(read_picture(garbage).is_err());
        }
    }

    #[test]
    fn a_picture_over_the_limit_is_refused() {
        let wide = write_picture(&RgbImage::new(SIDE_MAX + 1, 1)).unwrap();
        let refusal = read_picture(&wide).unwrap_err().to_string();
        assert_eq!(refusal, "not a readable PNG of at most 4096 x 4096 pixels");
    }
}
