//! The loads.

use std::thread;

use benches::evil;

use crate::DIGIT;
use crate::attacker::Attacker;

/// One way to hurt the server.
pub(crate) struct Load {
    /// Names its row in the table.
    pub(crate) name: &'static str,
    /// More arguments of the server.
    pub(crate) arguments: &'static [&'static str],
    pub(crate) run: fn(&Attacker),
}

const fn load(name: &'static str, run: fn(&Attacker)) -> Load {
    Load {
        name,
        arguments: &[],
        run,
    }
}

pub(crate) const LOADS: &[Load] = &[
    load("24 images of 28 bytes, timeout_ms=1", |attack| {
        let request = attack.post("model=images&timeout_ms=1", "image/webp", &evil::small_webp());
        attack.one_by_one(&request, 24);
    }),
    load("12 images of 28 bytes, client gone", |attack| {
        let request = attack.post("model=images", "image/webp", &evil::small_webp());
        attack.send_and_leave(&request, 12);
    }),
    load("a GIF with a frame of 134 MP", |attack| {
        let request = attack.post("model=images", "image/gif", &attack.large_frame());
        attack.at_once(&request, 1);
    }),
    load("two GIFs with a frame of 134 MP", |attack| {
        let request = attack.post("model=images", "image/gif", &attack.large_frame());
        attack.at_once(&request, 2);
    }),
    load("a PNG with a profile of 500 MB", |attack| {
        let request = attack.post("model=images", "image/png", &attack.large_profile());
        attack.at_once(&request, 1);
    }),
    load("30 PNGs with a profile of 500 MB", |attack| {
        let part = ("image", attack.large_profile());
        let request = attack.form("model=images", &vec![part; 30]);
        attack.at_once(&request, 1);
    }),
    load("a PNG of 96 x 96 with 15 MB of empty blocks", |attack| {
        let request = attack.post(
            "model=images",
            "image/png",
            &evil::empty_blocks(attack.bytes(15 << 20)),
        );
        attack.at_once(&request, 1);
    }),
    load("top_k of 15 MB", |attack| {
        let written = "\u{200b}".repeat(attack.bytes(15 << 20) / 3).into_bytes();
        let request = attack.form(
            "model=images",
            &[("top_k", written), ("image", evil::small_webp())],
        );
        attack.at_once(&request, 1);
    }),
    load("32 connections x 32 images of 28 bytes", |attack| {
        let request = attack.form("model=images", &vec![("image", evil::small_webp()); 32]);
        attack.over_and_over(&request, 32);
    }),
    load("32 connections x 8 images of 28 bytes", |attack| {
        // As many as max_request_pixels allows.
        let request = attack.form("model=images", &vec![("image", evil::small_webp()); 8]);
        attack.over_and_over(&request, 32);
    }),
    load(
        "32 connections with images of 28 bytes, the others' model",
        |attack| {
            let request = attack.post("model=digits", "image/webp", &evil::small_webp());
            attack.over_and_over(&request, 32);
        },
    ),
    load("20 clients that read nothing of 20 responses", |attack| {
        attack.read_nothing(attack.scaled(20));
    }),
    Load {
        name: "as many of them as max_connections (100)",
        arguments: &["--max-connections", "100"],
        run: |attack| attack.read_nothing(100),
    },
    load("1,000 clients with a photo of 1.4 MB", |attack| {
        let request = attack.post("model=images", "image/jpeg", &evil::photo(attack.scale.sqrt()));
        attack.at_once(&request, attack.scaled(1000));
    }),
    load("four PNGs of 33 MP with 16 bits", |attack| {
        let rows = (f64::from(4096) * attack.scale) as u32;
        let request = attack.post("model=images", "image/png", &evil::deep_png(8192, rows.max(1)));
        attack.at_once(&request, 4);
    }),
    load("64 uploads of 16 MiB that stop before the end", |attack| {
        let length = attack.bytes(16 << 20);
        let mut request = attack
            .post("model=images", "image/png", &vec![0; length])
            .to_vec();
        request.pop();
        attack.send_and_hold(&request, 64);
    }),
    load("two bodies of 16 MiB in chunks of one byte", |attack| {
        let head = attack.head("model=images", "image/png", "Transfer-Encoding: chunked");
        // Without the last chunk, so that the body is held.
        let request = [head.as_bytes(), &b"1\r\n.\r\n".repeat(attack.bytes(16 << 20) - 1)].concat();
        attack.send_and_hold(&request, 2);
    }),
    load("64 connections with priority=high", |attack| {
        let request = attack.post("model=digits&priority=high", "image/png", DIGIT);
        attack.over_and_over(&request, 64);
    }),
    load("60 texts of 205 KB, client gone", |attack| {
        let text = "marvellous, unbelievable ".repeat(attack.bytes(205_000) / 25 + 1);
        let request = attack.post("model=sentiment", "text/plain", text.as_bytes());
        attack.send_and_leave(&request, 60);
    }),
    load("60 texts of 205 KB without a blank, client gone", |attack| {
        let request = attack.post(
            "model=sentiment",
            "text/plain",
            &vec![b'a'; attack.bytes(205_000)],
        );
        attack.send_and_leave(&request, 60);
    }),
    load("12 x 15 MB of JSON, timeout_ms=1", |attack| {
        let inputs = "\"a\",".repeat(attack.bytes(15 << 20) / 4);
        let body = format!("{{\"timeout_ms\": 1, \"inputs\": [{inputs}\"a\"]}}");
        let request = attack.post("model=sentiment", "application/json", body.as_bytes());
        attack.at_once(&request, 12);
    }),
    load("500 slow heads", |attack| {
        attack.slowly(
            &attack.head("model=images", "image/png", "Content-Length: 1000"),
            500,
        );
    }),
    load("all kinds of memory at once", |attack| {
        let mut upload = attack
            .post("model=images", "image/png", &vec![0; attack.bytes(16 << 20)])
            .to_vec();
        upload.pop();
        let images = attack.form("model=images", &vec![("image", evil::small_webp()); 8]);
        let text = attack.post(
            "model=sentiment",
            "text/plain",
            &vec![b'a'; attack.bytes(205_000)],
        );
        let long_head = attack.head(
            "model=images",
            "image/png",
            &format!("X-Long: {}", "a".repeat(15_000)),
        );
        let (first, rest) = long_head.split_at(long_head.len() - 100);
        thread::scope(|scope| {
            scope.spawn(|| attack.send_and_hold(&upload, 64));
            scope.spawn(|| attack.over_and_over(&images, 32));
            scope.spawn(|| attack.over_and_over(&text, 16));
            scope.spawn(|| attack.send_slowly(first.as_bytes(), rest.as_bytes(), 4000));
        });
    }),
    load("500 slow bodies", |attack| {
        let head = attack.head("model=images", "image/png", "Content-Length: 1000");
        attack.send_slowly(head.as_bytes(), &[b'.'; 1000], 500);
    }),
];
