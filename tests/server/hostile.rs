//! Images and bodies designed to do harm: each is rejected or survived, the next request works, and
//! memory stays bounded.

use image::codecs::gif::GifEncoder;
use image::{DynamicImage, Frame, ImageFormat, RgbaImage};
use reqwest::header::CONTENT_TYPE;

use crate::harness::{Server, encode, root, some_models, white_row};

fn pillow(name: &str) -> Vec<u8> {
    std::fs::read(root().join("classifier/tests/fixtures/pillow").join(name)).unwrap()
}

/// A PNG whose header claims a size that its few bytes do not contain.
fn lying_png(width: u32, height: u32) -> Vec<u8> {
    let mut png = encode(&DynamicImage::new_luma8(1, 1), ImageFormat::Png);
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    let checksum = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&checksum.to_be_bytes());
    png
}

/// The CRC of PNG chunks (ISO 3309), computed bit by bit, because the fixtures are small.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| {
        if crc & 1 == 1 {
            (crc >> 1) ^ 0xedb8_8320
        } else {
            crc >> 1
        }
    };
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc))
    })
}

fn animation(frames: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    let frame = || Frame::new(RgbaImage::from_pixel(64, 64, image::Rgba([255, 0, 0, 255])));
    encoder.encode_frames((0..frames).map(|_| frame())).unwrap();
    drop(encoder);
    bytes
}

#[tokio::test]
async fn hostile_inputs_are_rejected_or_survived_and_memory_stays_bounded() {
    let models = some_models(&["linear"]);
    let server = Server::start(
        models.path(),
        &["--max-image-pixels", "4000000", "--max-body", "8MB"],
    );
    let before = server.memory_metric().await;
    // 4 million black pixels in a few kilobytes: allowed, but the server must not keep them.
    let bomb = encode(&DynamicImage::new_rgb8(2000, 2000), ImageFormat::Png);
    assert!(bomb.len() < 100_000, "{}", bomb.len());
    let png = |body: Vec<u8>| ("image/png", body);
    let json = |body: String| ("application/json", body.into_bytes());
    let deep = format!("{{\"inputs\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let huge_base64 = format!("{{\"inputs\": {{\"image\": \"{}\"}}}}", "A".repeat(7_000_000));
    let mut noise = white_row(1);
    for (at, byte) in noise.iter_mut().enumerate().skip(33) {
        *byte ^= at as u8;
    }
    let cases = [
        ("bomb within the limit", png(bomb), 200),
        (
            "bomb beyond the limit",
            png(encode(&DynamicImage::new_luma8(2001, 2000), ImageFormat::Png)),
            422,
        ),
        (
            "a lie about the size, beyond the limit",
            png(lying_png(60_000, 60_000)),
            422,
        ),
        (
            "a lie about the size, within the limit",
            png(lying_png(2000, 2000)),
            422,
        ),
        ("no size", png(lying_png(0, 0)), 422),
        (
            "strip",
            png(encode(&DynamicImage::new_luma8(16_000, 1), ImageFormat::Png)),
            200,
        ),
        (
            "longer strip",
            png(encode(&DynamicImage::new_luma8(1, 100_000), ImageFormat::Png)),
            422,
        ),
        (
            "one pixel",
            png(encode(&DynamicImage::new_luma8(1, 1), ImageFormat::Png)),
            200,
        ),
        ("zero bytes", png(vec![]), 422),
        ("zeros", png(vec![0; 1000]), 422),
        ("signature alone", png(b"\x89PNG\r\n\x1a\n".to_vec()), 422),
        ("noise after the header", png(noise), 422),
        (
            "jpeg cut short",
            ("image/jpeg", pillow("orientation_6.jpg")[..300].to_vec()),
            422,
        ),
        ("jpeg called gif", ("image/gif", pillow("orientation_6.jpg")), 200),
        ("jpeg of four inks", ("image/jpeg", pillow("cmyk.jpg")), 200),
        ("animated gif", ("image/gif", animation(300)), 200),
        ("animated webp", ("image/webp", pillow("animated.webp")), 200),
        ("16-bit", png(pillow("gray16.png")), 200),
        ("deep JSON", json(deep), 400),
        ("huge base64 of nothing", json(huge_base64), 422),
        ("JSON of numbers", json("9".repeat(1_000_000)), 400),
        (
            "a thousand parts",
            (
                "multipart/form-data; boundary=X",
                "--X\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\n\r\n"
                    .repeat(1000)
                    .into_bytes(),
            ),
            400,
        ),
    ];
    for (name, (content_type, body), status) in cases {
        let response = server
            .post("")
            .header(CONTENT_TYPE, content_type)
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(
            response.status(),
            status,
            "{name}: {}",
            response.text().await.unwrap()
        );
        assert_eq!(server.label("", white_row(1)).await, "b", "after {name}");
    }
    let grown = server.memory_metric().await - before;
    assert!(grown < 150.0, "memory grew by {grown} MB");
}
