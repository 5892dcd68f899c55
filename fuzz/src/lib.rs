//! What is fuzzed. Each function takes one input, and panics where the code under test does what it must not do.
//!
//! The programs in `fuzz/targets` feed them what libFuzzer invents. `tests/corpus.rs` feeds them what is in `fuzz/corpus`.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a panic is how a mistake is told"
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

/// Most pixels of a picture. Small, so that many are tried in a second.
const LIMITS: ImageLimits = ImageLimits::new(16_384, 1 << 18);

/// Bytes that a picture of the most pixels may take: 8 for each pixel of 16-bit RGBA, as many again while it is turned or
/// converted, 4 for its 8-bit form and 12 for the row.
const PICTURE: usize = 32 * (1 << 18);
/// Bytes that one input may take beside that. The rows of the shipped models are small; a PNG file's chunks may take 4 MiB.
const ROOM: usize = 8 << 20;
/// Bytes that a request may take for each byte of its body.
const BODY: usize = 16;
/// Bytes that a text may take: 100 for each of those that are read, see `text::MOST_BYTES_PER_TOKEN`.
const TEXT: usize = 64 << 20;

/// The longest error: a few words, and at most 100 characters for each of the things that it quotes.
const LONGEST_ERROR: usize = 4_000;

/// A target: what it does with an input.
pub type Target = fn(&[u8]);

/// All of them, by the names of their programs and of their folders in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 5] = [
    ("image", image),
    ("json", json),
    ("multipart", multipart),
    ("text", text),
    ("directory", directory),
];

/// Runs a target on one input, and panics where it takes more memory than inputs of its length may.
#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "an allocator is a static, of which there is one"
)]
pub fn run(memory: &PeakAlloc, target: Target, bytes: &[u8]) {
    // What is set up once counts for no input.
    models();
    server();
    let before = memory.current_usage();
    memory.reset_peak_usage();
    target(bytes);
    let taken = memory.peak_usage().saturating_sub(before);
    let allowed = ROOM
        + match target {
            _ if std::ptr::fn_addr_eq(target, image as Target) => PICTURE,
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

/// An encoded picture: its type, its header, its pixels, its row for each kind of classifier.
pub fn image(bytes: &[u8]) {
    let _ = image::media_type(bytes);
    match image::decode(bytes, &LIMITS) {
        Ok(picture) => {
            let pixels = u64::from(picture.width()) * u64::from(picture.height());
            assert!(pixels <= LIMITS.max_pixels, "{pixels} pixels");
            for preprocessor in &models().pictures {
                let row = preprocessor.apply(picture.clone()).unwrap();
                assert_eq!(row.len(), preprocessor.shape().iter().product::<usize>());
            }
        }
        Err(error) => short(&error.to_string()),
    }
}

/// The body of a request in the JSON form.
pub fn json(bytes: &[u8]) {
    request(HeaderValue::from_static("application/json"), None, bytes);
}

/// The `Content-Type` of a request on the first line, its query on the second, then its body.
pub fn multipart(bytes: &[u8]) {
    let mut lines = bytes.splitn(3, |&byte| byte == b'\n');
    let (Some(content_type), Some(query), Some(body)) = (lines.next(), lines.next(), lines.next()) else {
        return;
    };
    let (Ok(content_type), Ok(query)) = (HeaderValue::from_bytes(content_type), std::str::from_utf8(query))
    else {
        return;
    };
    // What is no URI comes to no handler.
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
    assert_eq!(server.memory.used(), 0, "bytes that a request has kept");
}

/// A text in UTF-8, for each kind of tokenizer.
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

/// The files of a model directory, each after a line `--- NAME`. `model.onnx` and the input of a golden sample are there in any case.
pub fn directory(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let folder = folder();
    for name in FILES {
        let _ = std::fs::remove_file(folder.join(name));
    }
    std::fs::write(folder.join("model.onnx"), "a graph").unwrap();
    std::fs::write(folder.join("golden.txt"), "apple").unwrap();
    for part in format!("\n{text}").split("\n--- ").skip(1) {
        let (name, content) = part.split_once('\n').unwrap_or((part, ""));
        if FILES.contains(&name) {
            std::fs::write(folder.join(name), content).unwrap();
        }
    }
    let bundle = match Bundle::open(folder) {
        Ok(bundle) => bundle,
        Err(error) => {
            assert!(error.file.starts_with(folder), "{error}");
            return;
        }
    };
    assert!(!bundle.labels.is_empty());
    match &bundle.preprocessor {
        Preprocessor::Image(preprocessor) => {
            let size: usize = preprocessor.shape().iter().product();
            // Larger rows are right, and slow.
            if size <= 1 << 20 {
                let row = preprocessor.apply(models().picture.clone()).unwrap();
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
    if let Err(error) = Golden::read(folder, &bundle.labels) {
        assert!(error.file.starts_with(folder), "{error}");
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

/// Most bytes of a body, and of all bodies.
const MAX_BODY: u64 = 1 << 20;

fn short(error: &str) {
    assert!(error.len() <= LONGEST_ERROR, "{} bytes of error", error.len());
}

/// What the server shares between requests.
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

/// What turns inputs into rows, of shipped models and of those of the tests.
struct Models {
    pictures: Vec<image::ImagePreprocessor>,
    texts: Vec<texts::Tokenizer>,
    picture: ::image::DynamicImage,
}

fn models() -> &'static Models {
    static MODELS: OnceLock<Models> = OnceLock::new();
    MODELS.get_or_init(|| {
        let open = |path: &str| Bundle::open(repository().join(path)).unwrap().preprocessor;
        let pictures = ["models/digits/1", "models/images/1"];
        let texts = [
            "models/sentiment/1",
            "tests/fixtures/models/words/1",
            "tests/fixtures/models/words_left/1",
        ];
        let picture = std::fs::read(repository().join("models/digits/1/golden/7_0.png")).unwrap();
        Models {
            pictures: pictures.map(|path| open(path).image().unwrap().clone()).into(),
            texts: texts.map(|path| open(path).text().unwrap().clone()).into(),
            picture: image::decode(&picture, &LIMITS).unwrap(),
        }
    })
}

/// The folder that [`directory`] writes to.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().unwrap()).path()
}

/// The root of the repository: this file is a part of the crate there as well.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here
        .ancestors()
        .find(|folder| folder.join("fuzz/corpus").is_dir());
    root.unwrap().to_owned()
}
