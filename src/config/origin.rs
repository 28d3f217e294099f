//! Where the pages of a browser come from, as it says with a WebSocket request [RFC 6454, 7].

use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// An origin, such as `https://app.example`, as browsers write it: in lower case, without a path, without the port that its scheme has
/// anyway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// Whether a browser means this one.
    #[must_use]
    pub fn is(&self, said: &str) -> bool {
        self.0 == said
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.to_ascii_lowercase();
        let wrong = |why: &str| Err(format!("{text:?} is not an origin: {why}, as in \"https://app.example\""));
        let Some((scheme, host)) = lower.split_once("://") else {
            return wrong("write scheme and host");
        };
        let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        if scheme.is_empty() || !scheme.bytes().all(is_scheme) {
            return wrong("write scheme and host");
        }
        if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_graphic()) {
            return wrong("write scheme and host, one that is not of ASCII as browsers do (xn--…)");
        }
        if host.contains(['/', '?', '#', '@', '*', '"']) {
            return wrong("leave out everything but scheme, host and port");
        }
        let usual = match scheme {
            "https" | "wss" => ":443",
            "http" | "ws" => ":80",
            _ => return Ok(Self(lower)),
        };
        if host.ends_with(usual) { wrong("browsers leave that port out") } else { Ok(Self(lower)) }
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::Origin;

    #[test]
    fn origins_are_as_browsers_write_them() {
        for (text, said) in [
            ("https://app.example", "https://app.example"),
            ("HTTPS://App.Example", "https://app.example"),
            ("http://localhost:8080", "http://localhost:8080"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ] {
            assert!(text.parse::<Origin>().unwrap().is(said), "{text}");
        }
        let app: Origin = "https://app.example".parse().unwrap();
        for said in ["http://app.example", "https://app.example.evil", "https://app.example:8443", "null", ""] {
            assert!(!app.is(said), "{said}");
        }
    }

    #[test]
    fn what_no_browser_would_say_is_refused() {
        for text in [
            "",
            "null",
            "*",
            "app.example",
            "https://",
            "://app.example",
            "https://app.example/",
            "https://app.example/path",
            "https://*.example",
            "https://user@app.example",
            "https://app.example:443",
            "http://app.example:80",
            "https://l\u{e4}mp.example",
            "https://app example",
        ] {
            let error = text.parse::<Origin>().unwrap_err();
            assert!(error.contains("is not an origin"), "{text}: {error}");
        }
    }
}
