//! The part of a server's settings that it reads again while it runs.

use std::{fs, path::Path};

use serde::Deserialize;

use crate::failure::Failure;

/// A configuration file (TOML). What it lists is added to what the command line does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Mirrors of a primary, as `--mirror` has them.
    pub(crate) mirrors: Vec<String>,
    /// Public keys of primaries that a mirror trusts, as `--trust` has them.
    pub(crate) trust: Vec<String>,
}

impl Config {
    /// Reads the file, if there is to be one.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let fail =
            |why: &dyn std::fmt::Display| Failure::input(format!("cannot read {}: {why}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| fail(&error))?;
        toml::from_str(&text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            fail(&format_args!("line {line}: {}", error.message()))
        })
    }

    /// Refuses lists that the server has no use for.
    pub(crate) fn check_unused(path: Option<&Path>, name: &str, unused: &[String]) -> Result<(), Failure> {
        match path {
            Some(path) if !unused.is_empty() => Err(Failure::input(format!(
                "{} lists `{name}`, which this server does not have",
                path.display()
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn lists_are_read() {
        let file = file("# mirrors\nmirrors = [\"a#1\", \"b#2\"]\n");
        let config = Config::read(Some(file.path())).unwrap();
        assert_eq!((config.mirrors.len(), config.trust.len()), (2, 0));
        assert_eq!(Config::read(None).unwrap(), Config::default());
        assert!(Config::check_unused(Some(Path::new("x")), "mirrors", &config.mirrors).is_err());
        assert!(Config::check_unused(Some(Path::new("x")), "trust", &config.trust).is_ok());
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, why) in [("\nmirors = []", "line 2"), ("mirrors = 7", "line 1"), ("mirrors = [", "line 1")]
        {
            let failure = Config::read(Some(file(text).path())).unwrap_err().to_string();
            assert!(failure.contains(why) && !failure.contains('\n'), "{failure}");
        }
        let failure = Config::read(Some(Path::new("/no/such"))).unwrap_err().to_string();
        assert!(failure.contains("/no/such"), "{failure}");
    }
}
