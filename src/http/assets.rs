//! The page and what belongs to it, in the binary. `scripts/build_page.sh` makes it from `http/`.

use ring::digest::{SHA256, digest};

/// A file that never changes while the node runs.
pub struct Asset {
    /// Its path.
    pub path: &'static str,
    /// Its media type.
    pub media: &'static str,
    /// What it holds.
    pub bytes: &'static [u8],
    /// The same, compressed with gzip.
    pub gzip: &'static [u8],
}

/// Names a file of `assets/`, beside which a compressed one stands.
macro_rules! asset {
    ($path:literal, $file:literal, $media:literal) => {
        Asset {
            path: $path,
            media: $media,
            bytes: include_bytes!(concat!("assets/", $file)),
            gzip: include_bytes!(concat!("assets/", $file, ".gz")),
        }
    };
}

/// All of them.
pub const ASSETS: &[Asset] = &[
    asset!("/", "index.html", "text/html; charset=utf-8"),
    asset!("/page.js", "page.js", "text/javascript; charset=utf-8"),
    asset!("/page.css", "page.css", "text/css; charset=utf-8"),
    asset!("/land.json", "land.json", "application/json"),
    asset!("/icon.svg", "icon.svg", "image/svg+xml"),
    asset!("/licences.txt", "licences.txt", "text/plain; charset=utf-8"),
];

/// The entity tags of all assets, quoted, in their order: as they are, and compressed.
#[must_use]
pub fn tags() -> Vec<[String; 2]> {
    let tag = |bytes: &[u8]| {
        let hash = digest(&SHA256, bytes);
        let hash = hash.as_ref()[..12].iter().fold(0u128, |n, &byte| n << 8 | u128::from(byte));
        format!("\"{hash:024x}\"")
    };
    ASSETS.iter().map(|asset| [tag(asset.bytes), tag(asset.gzip)]).collect()
}
