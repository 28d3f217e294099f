//! JWTs within a text: alone in a file, in a `.creds` file, or in the configuration of a server.

/// The JWTs in a text, in their order, as far as they look like some. Lines of comments are left out, as servers leave them out.
pub fn jwts_in(text: &str) -> impl Iterator<Item = &str> {
    let is_comment = |line: &&str| ["#", "//"].iter().any(|mark| line.trim_start().starts_with(mark));
    let is_part_of_one = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let words = text
        .lines()
        .filter(move |line| !is_comment(line))
        .flat_map(move |line| line.split(move |c| !is_part_of_one(c)));
    // Each begins as an object does, in base64.
    words.filter(|word| word.starts_with("eyJ") && word.split('.').count() == 3)
}

#[cfg(test)]
mod tests {
    use super::jwts_in;

    #[test]
    fn jwts_are_found_wherever_they_stand() {
        let text = "operator: eyJ0.eyJv._-1\n// eyJ0.eyJx.s\n# eyJ0.eyJy.s\nresolver_preload: {\n  AA: \"eyJ0.eyJh.s\",\r\n  AB: eyJ0.eyJi.s\n}\n\
                    -----BEGIN NATS USER JWT-----\neyJ0.eyJ1.s\n------END NATS USER JWT------\nSUAA eyJ0.x eyJ0.a.b.c";
        let found: Vec<&str> = jwts_in(text).collect();
        assert_eq!(found, ["eyJ0.eyJv._-1", "eyJ0.eyJh.s", "eyJ0.eyJi.s", "eyJ0.eyJ1.s"]);
        assert_eq!(jwts_in("").count(), 0);
    }
}
