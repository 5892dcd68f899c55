//! The image formats that are decoded: one list for messages, media types and file names.

use image::ImageFormat;

/// An image format that this crate decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Format {
    /// The name in lower case, which is also the usual file extension.
    pub name: &'static str,
    /// The media type, such as `image/png`.
    pub media_type: &'static str,
    pub(crate) decoder: ImageFormat,
}

/// Every image format that this crate decodes.
pub const FORMATS: [Format; 5] = [
    format("png", "image/png", ImageFormat::Png),
    format("jpeg", "image/jpeg", ImageFormat::Jpeg),
    format("webp", "image/webp", ImageFormat::WebP),
    format("gif", "image/gif", ImageFormat::Gif),
    format("bmp", "image/bmp", ImageFormat::Bmp),
];

/// The usual file extensions of [`FORMATS`], in lower case.
pub const EXTENSIONS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "gif", "bmp"];

/// The names of [`FORMATS`], for messages.
pub const FORMAT_NAMES: &str = "png, jpeg, webp, gif or bmp";

const fn format(name: &'static str, media_type: &'static str, decoder: ImageFormat) -> Format {
    Format {
        name,
        media_type,
        decoder,
    }
}

/// The format of an encoded image, told by its first bytes.
pub(crate) fn guess(bytes: &[u8]) -> Option<Format> {
    let decoder = image::guess_format(bytes).ok()?;
    FORMATS.into_iter().find(|format| format.decoder == decoder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_for_messages_are_those_of_the_list() {
        let names = FORMATS.map(|format| format.name).join(", ");
        assert_eq!(FORMAT_NAMES.replace(" or ", ", "), names);
        for format in FORMATS {
            assert_eq!(format.media_type, format.decoder.to_mime_type());
            assert!(EXTENSIONS.contains(&format.name));
        }
        for extension in EXTENSIONS {
            let decoder = ImageFormat::from_extension(extension).unwrap();
            assert!(FORMATS.iter().any(|format| format.decoder == decoder));
        }
    }
}
