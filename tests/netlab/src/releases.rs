//! Real content: consecutive releases of front-end packages, as their authors published them.
//!
//! They are fetched by npm, which knows from the machine's configuration where packages come
//! from, kept outside the source tree, and believed only when their digest is the one pinned here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::command::{LabError, run};

/// One release of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// Its name at the registry.
    pub package: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The SHA-512 of its tarball, in hex digits.
    pub sha512: &'static str,
}

/// Two consecutive releases of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// The one that is published first.
    pub before: Release,
    /// The one that follows it.
    pub after: Release,
}

/// Few files, large bundles and their source maps: 12 MB in 32 files.
pub const SWAGGER_UI: Pair = Pair {
    before: Release {
        package: "swagger-ui-dist",
        version: "5.33.3",
        sha512: "ef124ac408dffbf6a3956fd5fdd31f6e263e342e415ad6efcf3748fc0b17e54cccb4e32e766173fed8ee28dd2337b4157b976b28a9f1d3509d60426f4c5bd097",
    },
    after: Release {
        package: "swagger-ui-dist",
        version: "5.34.0",
        sha512: "1fab40223af75ea137d4f6e4665d0e1726b5ce244b0df4f087727a38776e98fb4f08b7e34e7c8b79a825ff9e6414d65c4cecfd6bd408f563f415795dc221896a",
    },
};

/// Many text files in a deep tree: 10 MB in 219 files, half of them changed.
pub const BOOTSTRAP: Pair = Pair {
    before: Release {
        package: "bootstrap",
        version: "5.3.7",
        sha512: "eca8220fc5078df70f0471290cd83ecc6cfc2f72ea477195c2a662051157d386b504202b64ecf5af6923972d874345a892a4ced2fd6717e400b7c76c5b894a97",
    },
    after: Release {
        package: "bootstrap",
        version: "5.3.8",
        sha512: "1cfd52643a9a2c33f0b0d8aa46a8b935c3f44925dc897dacf44f91caa24822a1a8faf25e37900954cf7c097996fd6bb1d274392fb8de59476994211fd047beb6",
    },
};

/// Large minified bundles and fonts, of which most differ by a few bytes: 24 MB in 109 files.
pub const MATHJAX: Pair = Pair {
    before: Release {
        package: "mathjax",
        version: "3.2.1",
        sha512: "6e551c875e2daca9df4078c38f2d64760e5b37c8cad1b7476e47ab401282ad9dc09e96fcd7367bc678f9279e6fb2a4281be22bcf7047043cd1b2c8de7a1933c6",
    },
    after: Release {
        package: "mathjax",
        version: "3.2.2",
        sha512: "06df9249553c7811b6ef30a155ec0e89c62ced7b1db78d2a9b8f94a47c97ee4d3f3bd36588f73ec7bee4d7f144b0fb2328f64626fb5164cd6f3be81e5b43a11b",
    },
};

/// Why a release cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// npm could not fetch it.
    #[error(
        "{package} {version} cannot be fetched by npm (is there a network, and does npm's configuration name a registry that works?)"
    )]
    Fetch {
        /// The package.
        package: &'static str,
        /// The release.
        version: &'static str,
        /// What npm said.
        source: LabError,
    },
    /// It is not what was pinned.
    #[error("the tarball of {package} {version} has the SHA-512 {actual}, pinned is {expected}")]
    Digest {
        /// The package.
        package: &'static str,
        /// The release.
        version: &'static str,
        /// The pinned digest.
        expected: &'static str,
        /// The tarball's digest.
        actual: String,
    },
    /// A tool of the machine failed.
    #[error("the tarball of {package} {version} cannot be read")]
    Read {
        /// The package.
        package: &'static str,
        /// The release.
        version: &'static str,
        /// What the tool said.
        source: LabError,
    },
    /// The cache or the target cannot be written.
    #[error("{} cannot be used", path.display())]
    File {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Where tarballs are kept: `pressrun-tests` in `$XDG_CACHE_HOME`, which is `~/.cache` if not set.
#[must_use]
pub fn cache() -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    caches.join("pressrun-tests")
}

impl Release {
    /// Unpacks its files into a directory, which is made if need be. Fetches it when the cache does
    /// not have it.
    ///
    /// # Errors
    /// [`ReleaseError`]: no network, another digest, no room.
    pub fn unpack(&self, into: &Path) -> Result<(), ReleaseError> {
        self.unpack_from(&cache(), into)
    }

    fn unpack_from(&self, cache: &Path, into: &Path) -> Result<(), ReleaseError> {
        let Self { package, version, .. } = *self;
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| ReleaseError::File { path, source }
        };
        fs::create_dir_all(cache).map_err(file(cache))?;
        let tarball = cache.join(format!("{package}-{version}.tgz"));
        if !tarball.exists() {
            self.fetch(cache, &tarball)?;
        }
        // Checked at each use: a cache outlives many runs.
        self.check(&tarball)?;
        fs::create_dir_all(into).map_err(file(into))?;
        let args = ["-xzf", &text(&tarball), "-C", &text(into), "--strip-components=1", "--no-same-owner"];
        run("tar", &args, "").map(drop).map_err(|source| ReleaseError::Read { package, version, source })
    }

    fn fetch(&self, cache: &Path, tarball: &Path) -> Result<(), ReleaseError> {
        let Self { package, version, .. } = *self;
        // Others may fetch at the same time: each into a place of its own, then put in place whole.
        let place =
            tempfile::tempdir_in(cache).map_err(|source| ReleaseError::File { path: cache.to_owned(), source })?;
        let (name, destination) = (format!("{package}@{version}"), text(place.path()));
        let args = ["pack", "--silent", "--ignore-scripts", "--pack-destination", &destination, &name];
        run("npm", &args, "").map_err(|source| ReleaseError::Fetch { package, version, source })?;
        let fetched = place.path().join(format!("{package}-{version}.tgz"));
        self.check(&fetched)?;
        fs::rename(&fetched, tarball).map_err(|source| ReleaseError::File { path: fetched, source })
    }

    fn check(&self, tarball: &Path) -> Result<(), ReleaseError> {
        let Self { package, version, sha512 } = *self;
        let answer = run("sha512sum", &["--binary", &text(tarball)], "").map_err(|source| ReleaseError::Read {
            package,
            version,
            source,
        })?;
        let actual = answer.split_whitespace().next().unwrap_or_default().trim_start_matches('\\').to_owned();
        if actual == sha512 { Ok(()) } else { Err(ReleaseError::Digest { package, version, expected: sha512, actual }) }
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_two_releases_of_one_package() {
        for pair in [SWAGGER_UI, BOOTSTRAP, MATHJAX] {
            assert_eq!(pair.before.package, pair.after.package);
            assert!(pair.before.version < pair.after.version);
            for release in [pair.before, pair.after] {
                assert_eq!(release.sha512.len(), 128);
            }
        }
    }

    #[test]
    fn real_releases_are_fetched_and_unpacked() {
        let dir = tempfile::tempdir().expect("a directory");
        for release in [BOOTSTRAP.before, BOOTSTRAP.after] {
            let into = dir.path().join(release.version);
            release.unpack(&into).unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
            assert!(into.join("dist/css/bootstrap.min.css").is_file());
        }
    }

    #[test]
    fn a_tarball_with_another_digest_is_refused() {
        let cache = tempfile::tempdir().expect("a directory");
        fs::write(cache.path().join("bootstrap-5.3.7.tgz"), b"something else").expect("writes");
        let refused = BOOTSTRAP.before.unpack_from(cache.path(), &cache.path().join("x"));
        assert!(matches!(refused, Err(ReleaseError::Digest { .. })), "{refused:?}");
    }
}
