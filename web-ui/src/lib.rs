//! The administrator's console: its files, built into the program.
//!
//! The files are plain HTML, CSS and JavaScript modules, as they are in `static/`. The console is
//! a client of the API and can do nothing that the API cannot.
//!
//! Absences: no inline script or style and nothing from another host, so that the strictest content
//! security policy holds; no place where the page is made from text that somebody else wrote.

use std::borrow::Cow;

use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "static/"]
struct Files;

/// Where the page expects everything that is not the page itself.
const ASSETS: &str = "assets/";

/// One of the console's files by its path (`index.html`, `favicon.svg`, `assets/app.js`): bytes and
/// media type. `None` when there is no such file.
#[must_use]
pub fn asset(path: &str) -> Option<(Cow<'static, [u8]>, &'static str)> {
    let name = path.strip_prefix(ASSETS).unwrap_or(path);
    let file = Files::get(name)?;
    Some((file.data, media_type(name)))
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some(_) | None => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &str) -> String {
        let (bytes, _) = asset(path).unwrap_or_else(|| panic!("there is no {path}"));
        String::from_utf8(bytes.into_owned()).unwrap()
    }

    #[test]
    fn every_file_has_its_media_type() {
        for (path, expected) in [
            ("index.html", "text/html; charset=utf-8"),
            ("assets/app.js", "text/javascript; charset=utf-8"),
            ("assets/app.css", "text/css; charset=utf-8"),
            ("favicon.svg", "image/svg+xml"),
        ] {
            assert_eq!(asset(path).map(|(_, media_type)| media_type), Some(expected), "{path}");
        }
    }

    #[test]
    fn there_is_nothing_beside_the_console() {
        for path in ["", "assets/", "assets/../Cargo.toml", "../Cargo.toml", "/etc/passwd", "assets/assets/app.js"] {
            assert!(asset(path).is_none(), "{path:?}");
        }
    }

    #[test]
    fn whatever_the_page_refers_to_is_there_and_from_this_host() {
        let page = text("index.html");
        let references: Vec<&str> = ["src=\"", "href=\""]
            .into_iter()
            .flat_map(|attribute| page.split(attribute).skip(1))
            .filter_map(|rest| rest.split('"').next())
            .filter(|reference| !reference.starts_with('#'))
            .collect();
        assert!(references.len() >= 3, "{references:?}");
        let script = text("assets/app.js");
        let imports: Vec<&str> = script.split("from \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(!imports.is_empty(), "the script is in parts");
        for import in imports {
            let name = import.strip_prefix("./").unwrap_or_else(|| panic!("{import} is not beside the script"));
            assert!(asset(&format!("assets/{name}")).is_some(), "{import}");
        }
        for reference in references {
            let path = reference.strip_prefix('/').unwrap_or_else(|| panic!("{reference} is of another host"));
            assert!(asset(path).is_some(), "{reference}");
        }
    }

    #[test]
    fn the_page_holds_under_a_policy_that_forbids_inline_scripts_and_styles() {
        let page = text("index.html");
        assert!(!page.contains("<style") && !page.contains(" style=") && !page.contains("javascript:"));
        assert!(page.matches("<script").count() == 1 && page.contains("></script>"), "one script, by reference");
        for handler in [" onclick=", " onload=", " onsubmit=", " onerror="] {
            assert!(!page.contains(handler), "{handler}");
        }
    }

    #[test]
    fn no_text_of_somebody_else_becomes_markup() {
        let script: String = Files::iter().filter(|name| name.ends_with(".js")).map(|name| text(&name)).collect();
        assert!(script.contains("createTextNode"), "all of the scripts are looked at");
        for way in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "DOMParser",
            "createContextualFragment",
            ".style.cssText",
            "setAttribute(\"style\"",
        ] {
            assert!(!script.contains(way), "{way}");
        }
    }
}
