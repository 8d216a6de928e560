//! The page and its files, compiled into the binary. `scripts/build_page.sh` builds them from
//! `web/`.

use ring::digest::{SHA256, digest};

/// A static file.
pub struct Asset {
    /// Path under which it is served.
    pub path: &'static str,
    /// Media type.
    pub media: &'static str,
    /// Content.
    pub bytes: &'static [u8],
    /// Content compressed with gzip.
    pub gzip: &'static [u8],
}

/// Includes a file of `assets/` and its compressed twin.
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

/// All static files.
pub const ASSETS: &[Asset] = &[
    asset!("/", "index.html", "text/html; charset=utf-8"),
    asset!("/page.js", "page.js", "text/javascript; charset=utf-8"),
    asset!("/page.css", "page.css", "text/css; charset=utf-8"),
    asset!("/land.json", "land.json", "application/json"),
    asset!("/icon.svg", "icon.svg", "image/svg+xml"),
    asset!("/licences.txt", "licences.txt", "text/plain; charset=utf-8"),
];

/// Returns the quoted entity tags of all assets, in their order: of the plain and of the compressed
/// content.
#[must_use]
pub fn tags() -> Vec<[String; 2]> {
    let tag = |bytes: &[u8]| {
        let hash = digest(&SHA256, bytes);
        let hash = hash.as_ref()[..12].iter().fold(0u128, |n, &byte| n << 8 | u128::from(byte));
        format!("\"{hash:024x}\"")
    };
    ASSETS.iter().map(|asset| [tag(asset.bytes), tag(asset.gzip)]).collect()
}
