//! The fuzz targets. Each is a function that takes one input and panics if the code under test
//! misbehaves: if it panics itself, takes too much memory, or breaks a rule of its results.
//!
//! The programs in `fuzz/targets` feed the targets with inputs that libFuzzer invents,
//! `tests/corpus.rs` with the files in `fuzz/corpus`.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a target reports a fault by a panic"
)]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderMap, Uri};
use batching::Flow;
use classifier::golden::Golden;
use classifier::{Bundle, ImageLimits, Preprocessor, image, text as texts};
use classifyd::fuzzing::payload::{self, Options};
use classifyd::fuzzing::{Budget, Pool, Workers};
use peak_alloc::PeakAlloc;
use tokio::time::Instant;

/// Largest image. Small, so that many are tried in a second.
const LIMITS: ImageLimits = ImageLimits::new(16_384, 1 << 18);

/// Bytes that the largest image may take: 8 for each pixel of 16-bit RGBA, as many again while it
/// is rotated or converted, 4 for its 8-bit form and 12 for the row.
const IMAGE: usize = 32 * (1 << 18);
/// Bytes that any input may take on top. The rows of the shipped models are small; the chunks of a
/// PNG file may take 4 MiB.
const ROOM: usize = 8 << 20;
/// Bytes that a request may take per byte of its body.
const BODY: usize = 16;
/// Bytes that a text may take: 100 for each byte that is read, see `text::MOST_BYTES_PER_TOKEN`.
const TEXT: usize = 64 << 20;

/// Longest error text in bytes. An error quotes at most 100 characters of each value.
const LONGEST_ERROR: usize = 4_000;

pub type Target = fn(&[u8]);

/// All targets, by the names of their programs and of their directories in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 5] = [
    ("image", image),
    ("json", json),
    ("multipart", multipart),
    ("text", text),
    ("directory", directory),
];

/// Runs a target on one input, and panics if it takes more memory than an input of that length may.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "the allocator is a static")]
pub fn run(memory: &PeakAlloc, target: Target, bytes: &[u8]) {
    // What is set up once must not count for the first input.
    models();
    server();
    let before = memory.current_usage();
    memory.reset_peak_usage();
    target(bytes);
    let taken = memory.peak_usage().saturating_sub(before);
    let allowed = ROOM
        + match target {
            _ if std::ptr::fn_addr_eq(target, image as Target) => IMAGE,
            _ if std::ptr::fn_addr_eq(target, text as Target) => TEXT,
            _ if std::ptr::fn_addr_eq(target, directory as Target) => TEXT,
            _ => BODY * bytes.len(),
        };
    assert!(
        taken <= allowed,
        "{} bytes: expected at most {allowed} bytes of memory, found {taken}",
        bytes.len()
    );
}

/// The input is an encoded image. Reads its type, decodes it, and makes the row of each kind of
/// classifier.
pub fn image(bytes: &[u8]) {
    let _ = image::media_type(bytes);
    match image::decode(bytes, &LIMITS) {
        Ok(image) => {
            let pixels = u64::from(image.width()) * u64::from(image.height());
            assert!(pixels <= LIMITS.max_pixels, "{pixels} pixels");
            for preprocessor in &models().image {
                let row = preprocessor.apply(image.clone()).unwrap();
                assert_eq!(row.len(), preprocessor.shape().iter().product::<usize>());
            }
        }
        Err(error) => short(&error.to_string()),
    }
}

/// The input is the body of a request with JSON.
pub fn json(bytes: &[u8]) {
    request(HeaderValue::from_static("application/json"), None, bytes);
}

/// The first line of the input is the `Content-Type` of a request, the second its query, and the
/// rest its body.
pub fn multipart(bytes: &[u8]) {
    let mut lines = bytes.splitn(3, |&byte| byte == b'\n');
    let (Some(content_type), Some(query), Some(body)) = (lines.next(), lines.next(), lines.next()) else {
        return;
    };
    let (Ok(content_type), Ok(query)) = (HeaderValue::from_bytes(content_type), std::str::from_utf8(query))
    else {
        return;
    };
    // A request whose URI is invalid reaches no handler.
    let Ok(uri) = format!("/v1/classify?{query}").parse::<Uri>() else {
        return;
    };
    request(content_type, uri.query(), body);
}

fn request(content_type: HeaderValue, query: Option<&str>, body: &[u8]) {
    let server = server();
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type)]);
    let read = async {
        let options = Options::from_query(query)?;
        let deadline = Instant::now() + Duration::from_mins(1);
        let body = Body::from(body.to_vec());
        payload::read(
            &headers,
            options,
            body,
            MAX_BODY,
            deadline,
            &server.pool,
            server.memory.share(Flow::default()),
        )
        .await
    };
    match server.runtime.block_on(read) {
        Ok(payload) => assert!(!payload.inputs.is_empty()),
        Err(error) => short(&error.to_string()),
    }
    assert_eq!(server.memory.used(), 0, "the request still holds memory");
}

/// The input is a text. Encodes it with each kind of tokenizer.
pub fn text(bytes: &[u8]) {
    let text = match texts::decode(bytes) {
        Ok(text) => text,
        Err(error) => return short(&error.to_string()),
    };
    for tokenizer in &models().texts {
        match tokenizer.encode(text) {
            Ok(tokens) => assert!((1..=tokenizer.max_length()).contains(&tokens.ids.len())),
            Err(error) => {
                assert!(error == texts::TextError::Empty, "{error}");
            }
        }
    }
}

/// The input is the files of a model directory, each after a line `--- NAME`. `model.onnx` and the
/// input of a golden sample are always there.
pub fn directory(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let directory = scratch();
    for name in FILES {
        let _ = std::fs::remove_file(directory.join(name));
    }
    std::fs::write(directory.join("model.onnx"), "a graph").unwrap();
    std::fs::write(directory.join("golden.txt"), "apple").unwrap();
    for part in format!("\n{text}").split("\n--- ").skip(1) {
        let (name, content) = part.split_once('\n').unwrap_or((part, ""));
        if FILES.contains(&name) {
            std::fs::write(directory.join(name), content).unwrap();
        }
    }
    let bundle = match Bundle::open(directory) {
        Ok(bundle) => bundle,
        Err(error) => {
            assert!(error.file.starts_with(directory), "{error}");
            return;
        }
    };
    assert!(!bundle.labels.is_empty());
    match &bundle.preprocessor {
        Preprocessor::Image(preprocessor) => {
            let size: usize = preprocessor.shape().iter().product();
            // Larger rows are valid, but slow.
            if size <= 1 << 20 {
                let row = preprocessor.apply(models().sample.clone()).unwrap();
                assert_eq!(row.len(), size);
            }
        }
        Preprocessor::Text(tokenizer) => {
            let room = 1..=tokenizer.max_length();
            if let Ok(tokens) = tokenizer.encode("An apple, <br /> two bananas.") {
                assert!(room.contains(&tokens.ids.len()));
                assert!(tokenizer.buckets().contains(&tokenizer.bucket(tokens.ids.len())));
            }
        }
    }
    if let Err(error) = Golden::read(directory, &bundle.labels) {
        assert!(error.file.starts_with(directory), "{error}");
    }
}

const FILES: [&str; 6] = [
    "config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "serving.toml",
    "golden.json",
];

/// Largest body, and the memory for all bodies.
const MAX_BODY: u64 = 1 << 20;

fn short(error: &str) {
    assert!(error.len() <= LONGEST_ERROR, "{} bytes of error", error.len());
}

/// The parts of the server that requests share.
struct Server {
    runtime: tokio::runtime::Runtime,
    pool: Pool,
    memory: Budget,
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server {
        runtime: tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap(),
        pool: Workers::start(1, MAX_BODY).unwrap().pool(1),
        memory: Budget::new(MAX_BODY),
    })
}

/// The preprocessors of shipped models and of those of the tests.
struct Models {
    image: Vec<image::ImagePreprocessor>,
    texts: Vec<texts::Tokenizer>,
    /// An image for preprocessors that are read from a fuzzed directory.
    sample: ::image::DynamicImage,
}

fn models() -> &'static Models {
    static MODELS: OnceLock<Models> = OnceLock::new();
    MODELS.get_or_init(|| {
        let open = |path: &str| Bundle::open(repository().join(path)).unwrap().preprocessor;
        let images = ["models/digits/1", "models/images/1"];
        let texts = [
            "models/sentiment/1",
            "tests/fixtures/models/words/1",
            "tests/fixtures/models/words_left/1",
        ];
        let sample = std::fs::read(repository().join("models/digits/1/golden/7_0.png")).unwrap();
        Models {
            image: images.map(|path| open(path).image().unwrap().clone()).into(),
            texts: texts.map(|path| open(path).text().unwrap().clone()).into(),
            sample: image::decode(&sample, &LIMITS).unwrap(),
        }
    })
}

/// The directory that [`directory`] writes to.
fn scratch() -> &'static Path {
    static SCRATCH: OnceLock<tempfile::TempDir> = OnceLock::new();
    SCRATCH.get_or_init(|| tempfile::tempdir().unwrap()).path()
}

/// The root of the repository. Not simply the parent of this package, because `tests/corpus.rs`
/// includes this file.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here
        .ancestors()
        .find(|directory| directory.join("fuzz/corpus").is_dir());
    root.unwrap().to_owned()
}
