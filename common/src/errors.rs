//! Errors as people read them.

use std::error::Error;

/// An error with all its causes, in one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Some libraries repeat their cause.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{said}")]
    struct Layer {
        said: &'static str,
        source: std::io::Error,
    }

    #[test]
    fn causes_follow_their_effects_and_are_said_once() {
        let layer = |said| Layer { said, source: std::io::Error::other("the disk is gone") };
        assert_eq!(chain(&layer("it cannot be written")), "it cannot be written: the disk is gone");
        assert_eq!(chain(&layer("not written: the disk is gone")), "not written: the disk is gone");
    }
}
