//! Pictures that are small as files and large as anything else.

/// A lossless WebP of equal pixels: 28 bytes, whatever its size.
pub(crate) fn flat_webp(width: u32, height: u32) -> Vec<u8> {
    // Signature, width and height less 1 in 14 bits each, alpha and version: none.
    let sizes = u64::from(width - 1) | u64::from(height - 1) << 14;
    let mut bits = 0x2f | sizes << 8;
    // No transform, no colour cache, no groups of codes; then five codes with the one symbol 0.
    for code in 0..5 {
        bits |= 1 << (43 + 4 * code);
    }
    let mut file = b"RIFF\x14\0\0\0WEBPVP8L\x08\0\0\0".to_vec();
    file.extend(bits.to_le_bytes());
    file
}
