//! Frames handwriting the way MNIST framed its digits, so that a classifier trained on such digits
//! also reads dark ink on light paper, off centre and of any size.
//!
//! MNIST's recipe (LeCun, Cortes, Burges, "The MNIST database of handwritten digits"): the digit is
//! scaled into a box of 20 x 20 pixels with its proportions kept, and placed in 28 x 28 pixels with
//! its centre of mass in the middle. An image that was made this way stays the same, except that
//! its contrast is stretched.

use super::config::Resample;
use super::pixels::Pixels;
use crate::error::ImageError;

/// The frame into which the ink is scaled.
#[derive(Debug, Clone, Copy)]
pub(super) struct FitInk {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Longest side of the ink's bounding box in the framed image.
    pub(super) ink_size: u32,
    /// Contrast above which a pixel counts as ink, from 0 (background) to 1 (strongest ink).
    pub(super) threshold: f32,
    pub(super) resample: Resample,
}

/// An image whose levels differ less from the background holds no ink.
const LEAST_CONTRAST: u8 = 16;

impl FitInk {
    pub(super) fn apply(&self, gray: &Pixels) -> Result<Pixels, ImageError> {
        let blank = Pixels::new(
            self.width,
            self.height,
            1,
            vec![0; (self.width * self.height) as usize],
        );
        let Some(ink) = bright_ink(gray) else {
            return Ok(blank);
        };
        let Some(bounds) = bounding_box(&ink, (self.threshold * 255.0) as u8) else {
            return Ok(blank);
        };
        let cut = ink.window(
            i64::from(bounds.left),
            i64::from(bounds.top),
            bounds.width,
            bounds.height,
        );
        let longest = bounds.width.max(bounds.height);
        let scaled = |side: u32| ((side * self.ink_size + longest / 2) / longest).max(1);
        let scaled = cut.resize(scaled(bounds.width), scaled(bounds.height), self.resample)?;
        let (x, y) = centre_of_mass(&scaled);
        let offset = |frame: u32, side: u32, centre: f64| {
            let free = i64::from(frame) - i64::from(side);
            ((f64::from(frame - 1) / 2.0 - centre).round() as i64).clamp(0, free)
        };
        let left = offset(self.width, scaled.width, x);
        let top = offset(self.height, scaled.height, y);
        Ok(scaled.window(-left, -top, self.width, self.height))
    }
}

/// The image with its background at 0 and its strongest ink at 255, or `None` if there is no
/// contrast.
fn bright_ink(gray: &Pixels) -> Option<Pixels> {
    let background = median_of_border(gray);
    let darkest = gray.data.iter().copied().min()?;
    let brightest = gray.data.iter().copied().max()?;
    let (below, above) = (background - darkest, brightest - background);
    let (dark_ink, contrast) = if below > above {
        (true, below)
    } else {
        (false, above)
    };
    if contrast < LEAST_CONTRAST {
        return None;
    }
    // A table, because a photograph has millions of pixels.
    let levels: [u8; 256] = std::array::from_fn(|level| {
        let level = level as u8;
        let ink = if dark_ink {
            background.saturating_sub(level)
        } else {
            level.saturating_sub(background)
        };
        let contrast = u32::from(contrast);
        ((u32::from(ink).min(contrast) * 255 + contrast / 2) / contrast) as u8
    });
    let data = gray
        .data
        .iter()
        .map(|&level| levels[usize::from(level)])
        .collect();
    Some(Pixels::new(gray.width, gray.height, 1, data))
}

/// The median level of the outermost pixels, which is the background unless most of the border is
/// ink.
fn median_of_border(gray: &Pixels) -> u8 {
    let (width, height) = (gray.width as usize, gray.height as usize);
    let mut counts = [0_usize; 256];
    let last_row = &gray.data[(height - 1) * width..];
    for &level in gray.data[..width].iter().chain(last_row) {
        counts[usize::from(level)] += 1;
    }
    for row in gray.data.chunks_exact(width) {
        counts[usize::from(row[0])] += 1;
        counts[usize::from(row[width - 1])] += 1;
    }
    let half = (width + height).max(1);
    let mut seen = 0;
    for (level, count) in counts.iter().enumerate() {
        seen += count;
        if seen >= half {
            return level as u8;
        }
    }
    0
}

struct BoundingBox {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

/// The smallest rectangle that holds every pixel above `threshold`.
fn bounding_box(ink: &Pixels, threshold: u8) -> Option<BoundingBox> {
    let width = ink.width as usize;
    let (mut left, mut right) = (width, 0);
    let (mut top, mut bottom) = (None, 0);
    for (y, row) in ink.data.chunks_exact(width).enumerate() {
        let Some(first) = row.iter().position(|&level| level > threshold) else {
            continue;
        };
        let last = row.iter().rposition(|&level| level > threshold).unwrap_or(first);
        left = left.min(first);
        right = right.max(last);
        top.get_or_insert(y);
        bottom = y;
    }
    let top = top?;
    Some(BoundingBox {
        left: left as u32,
        top: top as u32,
        width: (right - left + 1) as u32,
        height: (bottom - top + 1) as u32,
    })
}

/// `(x, y)` in pixel indices. The middle of the image if there is no mass.
fn centre_of_mass(ink: &Pixels) -> (f64, f64) {
    let (mut mass, mut x_moment, mut y_moment) = (0_u64, 0_u64, 0_u64);
    for (y, row) in ink.data.chunks_exact(ink.width as usize).enumerate() {
        for (x, &level) in row.iter().enumerate() {
            mass += u64::from(level);
            x_moment += u64::from(level) * x as u64;
            y_moment += u64::from(level) * y as u64;
        }
    }
    if mass == 0 {
        return (f64::from(ink.width - 1) / 2.0, f64::from(ink.height - 1) / 2.0);
    }
    (x_moment as f64 / mass as f64, y_moment as f64 / mass as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIT: FitInk = FitInk {
        width: 28,
        height: 28,
        ink_size: 20,
        threshold: 0.2,
        resample: Resample::Bilinear,
    };

    /// A bright bar of `width` x `height` at (`x`, `y`) on a dark canvas.
    fn bar(canvas: (u32, u32), x: u32, y: u32, width: u32, height: u32) -> Pixels {
        let mut pixels = Pixels::new(canvas.0, canvas.1, 1, vec![0; (canvas.0 * canvas.1) as usize]);
        for row in y..y + height {
            for column in x..x + width {
                pixels.data[(row * canvas.0 + column) as usize] = 255;
            }
        }
        pixels
    }

    fn inverted(mut pixels: Pixels) -> Pixels {
        for level in &mut pixels.data {
            *level = 255 - *level;
        }
        pixels
    }

    #[test]
    fn a_framed_digit_stays_the_same() {
        let framed = bar((28, 28), 12, 4, 4, 20);
        assert_eq!(FIT.apply(&framed).unwrap(), framed);
    }

    #[test]
    fn dark_ink_on_light_paper_gives_the_same_as_light_on_dark() {
        let light = bar((100, 80), 60, 10, 8, 40);
        assert_eq!(
            FIT.apply(&inverted(light.clone())).unwrap(),
            FIT.apply(&light).unwrap()
        );
    }

    #[test]
    fn position_and_size_do_not_matter() {
        let expected = bar((28, 28), 12, 4, 4, 20);
        for (scale, x, y) in [(2, 3, 5), (4, 100, 90), (9, 11, 300)] {
            let drawn = bar((500, 500), x, y, 4 * scale, 20 * scale);
            assert_eq!(FIT.apply(&drawn).unwrap(), expected, "scale {scale}");
        }
    }

    #[test]
    fn grey_paper_and_weak_ink_are_stretched_to_full_contrast() {
        let mut weak = bar((28, 28), 12, 4, 4, 20);
        for level in &mut weak.data {
            *level = if *level == 0 { 200 } else { 120 };
        }
        assert_eq!(FIT.apply(&weak).unwrap(), bar((28, 28), 12, 4, 4, 20));
    }

    #[test]
    fn a_blank_image_and_a_single_pixel_are_accepted() {
        for level in [0, 128, 255] {
            let blank = Pixels::new(30, 30, 1, vec![level; 900]);
            assert!(FIT.apply(&blank).unwrap().data.iter().all(|&level| level == 0));
        }
        let pixel = Pixels::new(1, 1, 1, vec![7]);
        assert!(FIT.apply(&pixel).unwrap().data.iter().all(|&level| level == 0));
    }

    #[test]
    fn the_centre_of_mass_goes_to_the_middle() {
        // An L: most of its mass is at the bottom left.
        let mut shape = bar((60, 60), 10, 10, 4, 40);
        for (level, more) in shape.data.iter_mut().zip(bar((60, 60), 10, 46, 30, 4).data) {
            *level |= more;
        }
        let framed = FIT.apply(&shape).unwrap();
        let (x, y) = centre_of_mass(&framed);
        assert!((x - 13.5).abs() <= 0.5 && (y - 13.5).abs() <= 0.5, "({x}, {y})");
    }
}
